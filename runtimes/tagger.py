"""Labels of words: the entities in a text, or one tag for each word."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.model.label_heads import TOKENS
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.batching import Request, Task
from yizhi.runtimes.classifier import LabelScore
from yizhi.runtimes.entities import OUTSIDE, Chunk, TagScheme
from yizhi.runtimes.label_operator import Given, LabelOperator, Result
from yizhi.runtimes.scores import softmax
from yizhi.runtimes.tasks import REPLACED
from yizhi.runtimes.tokenization import Long, Row, Tokenizer, assign_places

T = TypeVar("T")
# The labels of a discriminator, whose one logit is the log-odds of the second.
REPLACED_LABELS = (OUTSIDE, "REPLACED")


@dataclass(frozen=True)
class Entity:
    """Characters `start` … `end` − 1 of the text, which `text` repeats.

    score: the mean, over its words, of the probability of the tag that each was given.
    """

    label: str
    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Tag:
    """The most likely label of one word, and its probability.

    start, end: the word's characters in the text, as in Entity; None for words that were given apart.
    """

    label: str
    text: str
    start: int | None
    end: int | None
    score: float


class _TokenLabels(LabelOperator[Given, Result]):
    """The most likely label, and its probability, of each *unit*: what one logit decides.

    A unit is a word, decided by its first token as in the BERT paper (Devlin et al. 2019, section 5.3); a Chinese
    character is a word. For a discriminator, which judges tokens, it is a token.
    """

    tasks = (TOKENS, REPLACED)
    purpose = "tag words"

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer | None = None, *, long: Long = "windows") -> None:
        """The artifact's own tokenizer if none is given.

        long: what to do with a text beyond the model's positions. In windows, each token is read where it has
        most context, and entities are found in the whole text. Raises InputError for an artifact of another task.
        """
        super().__init__(runtime, tokenizer, long)
        self._judges_tokens = runtime.artifact.description["task"] == REPLACED
        self.labels: Sequence[str] = REPLACED_LABELS if self._judges_tokens else runtime.artifact.description["labels"]

    def _units(self, row: Row, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first token of each unit of a text's whole row, [U], and the unit's characters, [U, 2]."""
        inside = np.arange(1, len(row.ids) - 1)
        begins = np.ones(len(inside), bool) if self._judges_tokens else ~self._tokenizer.goes_on(row, text)[inside]
        first = inside[begins]
        last = np.append(first[1:], len(row.ids) - 1)[: len(first)] - 1  # a unit ends before the next one
        spans = self._tokenizer.trim(np.stack([row.offsets[first, 0], row.offsets[last, 1]], axis=1), text)
        holds = spans[:, 0] < spans[:, 1]  # not white space alone
        return first[holds], spans[holds]

    def _plan_units(self, row: Row, first: NDArray[np.int64], conclude: Callable[[NDArray[np.float64]], T]) -> Task[T]:
        """Ask for the labels of the unit at each `first` token: `conclude` is given probabilities [U, labels]."""
        windows = self._tokenizer.fit(row, self._long)
        begins = np.zeros(len(row.ids), bool)
        begins[first] = True
        found = [
            (window, positions[begins[window.places[positions]]])
            for window, positions in zip(windows, assign_places(windows), strict=True)
        ]
        asked = [(window, positions) for window, positions in found if len(positions)]

        def gather(results: list[NDArray[np.float64]]) -> T:
            scores = np.concatenate(results) if results else np.empty((0, len(self.labels)))
            places = [window.places[positions] for window, positions in asked]
            order = np.concatenate(places) if places else np.empty(0, np.int64)
            return conclude(scores[np.argsort(order, kind="stable")])

        return Task([self._request(window, positions) for window, positions in asked], gather)

    def _request(self, window: Row, positions: NDArray[np.int64]) -> Request:
        return Request(window, positions, lambda logits: self._probabilities(logits[positions]))

    def _probabilities(self, logits: NDArray) -> NDArray[np.float64]:
        if self._judges_tokens:  # [U]; a sigmoid is a softmax against 0
            logits = np.stack([np.zeros_like(logits), logits], axis=1)
        return softmax(logits)


class Tagger(_TokenLabels[str, list[Entity]]):
    """Finds the entities of a text with an artifact of task `token-classification`.

    Tags are read by `entities.TagScheme`. With a discriminator (`replaced-token-detection`), the entities are the
    tokens that are more likely replaced than not, each for itself.
    """

    def plan(self, given: str) -> Task[list[Entity]]:
        """What one text asks of the model. Raises InputError for a text that cannot be used."""
        row = _tokenize(self._tokenizer, given)
        first, spans = self._units(row, given)
        scheme = TagScheme(self.labels)

        def conclude(scores: NDArray[np.float64]) -> list[Entity]:
            labels, scores = scores.argmax(axis=1), scores.max(axis=1)
            entities = []
            if self._judges_tokens:
                chunks = [Chunk(REPLACED_LABELS[1], int(index), int(index) + 1) for index in np.flatnonzero(labels)]
            else:
                chunks = scheme.find_entities([self.labels[index] for index in labels])
            for label, begin, end in chunks:
                start, stop = int(spans[begin, 0]), int(spans[end - 1, 1])
                entities.append(Entity(label, given[start:stop], start, stop, float(scores[begin:end].mean())))
            return entities

        return self._plan_units(row, first, conclude)


class WordTagger(_TokenLabels[str | Sequence[str], list[Tag]]):
    """One tag for each word, `O` included: of the words given, or of those the tokenizer finds in a text.

    Words that are given apart are tokenized apart; each gets one tag, also one that leaves no token, which is read
    as [UNK]. With a discriminator, a text's tokens take the place of words, and words cannot be given.
    """

    def plan(self, given: str | Sequence[str]) -> Task[list[Tag]]:
        """What one text, or list of words, asks of the model. Raises InputError for what cannot be used."""
        if isinstance(given, str):
            row = _tokenize(self._tokenizer, given)
            first, spans = self._units(row, given)
            places = [(given[start:end], start, end) for start, end in spans.tolist()]
        else:
            if self._judges_tokens:
                raise InputError("the words", "a discriminator judges tokens, not words: give it a text")
            row, first = self._tokenizer.tokenize_words(given)
            places = [(word, None, None) for word in given]

        def conclude(scores: NDArray[np.float64]) -> list[Tag]:
            labels, scores = scores.argmax(axis=1), scores.max(axis=1)
            return [
                Tag(self.labels[label], text, start, end, float(score))
                for (text, start, end), label, score in zip(places, labels, scores, strict=False)
            ]

        return self._plan_units(row, first, conclude)


class WordLabels(_TokenLabels[str, list[list[LabelScore]]]):
    """Every label of each word of a text, best first, as `Classifier` gives those of the whole text."""

    def plan(self, given: str) -> Task[list[list[LabelScore]]]:
        """What one text asks of the model. Raises InputError for a text that cannot be used."""
        row = _tokenize(self._tokenizer, given)

        def conclude(scores: NDArray[np.float64]) -> list[list[LabelScore]]:
            order = np.argsort(-scores, axis=1, kind="stable")
            return [
                [LabelScore(self.labels[label], float(of_word[label])) for label in best]
                for of_word, best in zip(scores, order, strict=True)
            ]

        return self._plan_units(row, self._units(row, given)[0], conclude)


def _tokenize(tokenizer: Tokenizer, given: str) -> Row:
    if not isinstance(given, str):
        raise InputError("the text", f"expected one text; found {show(given)}")
    return tokenizer.tokenize([given])[0]

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
    """Characters `start` … `end` − 1 of the text, and their text.

    score: the mean, over the entity's words, of the probability of each word's tag.
    """

    label: str
    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Tag:
    """The most likely label of one word, and its probability.

    start, end: the word's characters in the text, as in Entity; None for given words.
    """

    label: str
    text: str
    start: int | None
    end: int | None
    score: float


class _TokenLabels(LabelOperator[Given, Result]):
    """The most likely label, and its probability, of each *unit*. One logit decides one unit.

    A unit is a word. Its first token decides, as in the BERT paper (Devlin et al. 2019, section 5.3). A Chinese
    character is a word. A discriminator judges tokens, so its unit is a token.
    """

    tasks = (TOKENS, REPLACED)
    purpose = "tag words"

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer | None = None, *, long: Long = "windows") -> None:
        """Uses the artifact's own tokenizer if `tokenizer` is None.

        long: `error`, `truncate`, `windows` or a number of shared tokens, for a text that is too long for the model. In
        windows, each token is read where it has most context. Entities are found in the whole text. Raises InputError
        for an artifact of another task.
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
        """Ask for the labels of the unit at each `first` token. `conclude` gets probabilities [U, labels]."""
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

    `entities.TagScheme` says how tags become entities. With a discriminator (`replaced-token-detection`), each token
    that is more likely replaced than not is an entity.
    """

    def plan(self, given: str) -> Task[list[Entity]]:
        """The rows to compute for one text. Raises InputError for a text that cannot be used."""
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
    """One tag for each word, including `O`: for given words, or for the words that the tokenizer finds in a text.

    Given words are tokenized one by one. Each gets one tag. A word that leaves no token is read as [UNK]. With a
    discriminator, tokens take the place of words, and words cannot be given.
    """

    def plan(self, given: str | Sequence[str]) -> Task[list[Tag]]:
        """The rows to compute for one text, or list of words. Raises InputError for input that cannot be used."""
        if isinstance(given, str):
            row = _tokenize(self._tokenizer, given)
            first, spans = self._units(row, given)
            places = [(given[start:end], start, end) for start, end in spans.tolist()]
        else:
            if self._judges_tokens:
                raise InputError(
                    "the words", "expected a text, because a discriminator judges tokens, not words; found a list"
                )
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
    """Every label of each word of a text, best first, as `Classifier` gives the labels of a whole text."""

    def plan(self, given: str) -> Task[list[list[LabelScore]]]:
        """The rows to compute for one text. Raises InputError for a text that cannot be used."""
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

"""Fill-mask: the most likely tokens for each [MASK], or the likelihood of given words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.choices import SCORINGS, Scoring
from yizhi.errors import InputError
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.batching import TOKENS, Request, Task, run_tasks
from yizhi.runtimes.scores import softmax
from yizhi.runtimes.tasks import FILL_MASK, require_task
from yizhi.runtimes.tokenization import Long, Row, Text, Tokenizer, assign_places, check_long, pad


@dataclass(frozen=True)
class Prediction:
    """One candidate for one [MASK].

    token: as written in a text, including a space before it. A token that is no text by itself (`##ing`, or a byte of a
    character) is written as in the vocabulary. token_id: None for a target of several tokens.
    score: the token's probability, from a softmax over the whole vocabulary; for several tokens, the product.
    sentence: the text with this [MASK] filled in, and the other masks unchanged; for a pair, both texts.
    """

    token: str
    token_id: int | None
    score: float
    sentence: Text


class FillMask:
    """Fills masks with an opened artifact. Thread-safe if the runtime is."""

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer | None = None,
        *,
        top_k: int = 5,
        targets: Sequence[str] | None = None,
        scoring: Scoring = "joint",
        long: Long = "error",
    ) -> None:
        """Uses the artifact's own tokenizer if `tokenizer` is None. A call may override the settings.

        top_k: the number of predictions for each mask.
        targets: judge only these words, each after a space if the mask follows one. A word of n tokens replaces n
        [MASK]s, and its score is ∏ P(token i | text).
        scoring: `joint` hides all n tokens, in one pass. `pseudo` hides token i alone and reads the rest of the word,
        in n passes: the pseudo-likelihood of Salazar et al. 2020, arXiv:1910.14659, over the word's own tokens. Do not
        compare words of different lengths: each further token lowers a `joint` score, and `pseudo` is high for words
        whose parts imply each other.
        long: `error`, `truncate`, `windows` or a number of shared tokens, for a text that is too long for the model.
        With windows, each [MASK] is read where it has most context.
        Raises InputError if the artifact has no masked-language-model head, and for settings out of range.
        """
        require_task(runtime, "fill masks", FILL_MASK)
        self._runtime = runtime
        self._tokenizer = tokenizer or Tokenizer.open(runtime.artifact.folder)
        self._top_k = top_k
        self._scoring = scoring
        self._long = long
        self._targets = None
        self._check()
        if targets is not None:
            spell = self._tokenizer.pieces
            self._targets = {word: (spell(word), spell(word, spaced=True)) for word in _check_targets(targets)}

    def _check(self) -> None:
        size = len(self._tokenizer.vocab)
        if isinstance(self._top_k, bool) or not isinstance(self._top_k, int) or not 1 <= self._top_k <= size:
            raise InputError("top_k", f"expected 1 … {size}; found {self._top_k!r}")
        if self._scoring not in SCORINGS:
            raise InputError("scoring", f"expected one of {', '.join(SCORINGS)}; found {self._scoring!r}")
        check_long(self._long)

    def __call__(self, text: Text, **settings: Any) -> list[list[Prediction]]:
        """The `top_k` most likely tokens or targets, best first, for each [MASK] of the text, in its order.

        `settings` override those of the constructor for this call. Each mask is judged with the other masks still
        hidden. Equal scores are ordered by id. Raises InputError if the text has no [MASK] or is too long, if a target
        cannot be spelled, or if `top_k` is out of range.
        """
        return self.many([text], **settings)[0]

    def many(self, texts: Sequence[Text], *, tokens: int = TOKENS, **settings: Any) -> list[list[list[Prediction]]]:
        """The answers of each text, computed in batches of at most `tokens` tokens."""
        operator = self.with_settings(**settings) if settings else self
        return list(run_tasks(operator, map(operator.plan, texts), tokens=tokens))

    def with_settings(self, **settings: Any) -> "FillMask":
        """The same model with other settings of the constructor."""
        kept: dict[str, Any] = {"top_k": self._top_k, "scoring": self._scoring, "long": self._long}
        kept["targets"] = None if self._targets is None else list(self._targets)
        return FillMask(self._runtime, self._tokenizer, **kept | settings)

    def plan(self, text: Text) -> Task[list[list[Prediction]]]:
        """The rows to compute for one text. Raises InputError for a text that cannot be used."""
        text = self._tokenizer.put_mask(text)
        whole = self._tokenizer.tokenize([text])[0]
        spare = max(len(ids) for both in self._targets.values() for ids in both) - 1 if self._targets else 0
        windows = self._tokenizer.fit(whole, self._long, spare)
        masks = _assign_masks(windows, self._tokenizer.mask_id)
        if not masks:
            cut = " after it was cut" if (whole.ids == self._tokenizer.mask_id).any() else ""
            raise InputError("the text", f"has no {self._tokenizer.mask} to fill{cut}: {text!r}")
        if self._targets is not None:
            return self._plan_targets(text, masks)
        requests = [Request(row, positions, self._best) for row, positions in _by_window(masks)]

        def conclude(results: list[list[list[tuple[int, float]]]]) -> list[list[Prediction]]:
            answers = [answer for result in results for answer in result]
            return [
                [self._fill(text, row, position, self._tokenizer.spell(i), i, score) for i, score in answer]
                for (row, position), answer in zip(masks, answers, strict=True)
            ]

        return Task(requests, conclude)

    def compute(self, requests: Sequence[Request]) -> list[Any]:
        """One batch: each request's `reduce` of its logits [positions, V]."""
        inputs = pad([request.row for request in requests], self._tokenizer.pad_id)
        counts = [len(request.positions) for request in requests]
        rows = np.repeat(np.arange(len(requests)), counts)
        positions = np.concatenate([request.positions for request in requests])
        logits = self._runtime.logits_at(inputs, np.stack([rows, positions], axis=1))  # [N, V]
        parts = np.split(logits, np.cumsum(counts)[:-1])
        return [request.reduce(part) for request, part in zip(requests, parts, strict=True)]

    def _best(self, logits: NDArray) -> list[list[tuple[int, float]]]:
        """The `top_k` ids and their probabilities, per position. An id without a token is no answer."""
        answers = []
        for scores in softmax(logits)[:, : len(self._tokenizer.vocab)]:
            # Those at least as likely as the k-th, then in order: sorting 21,128 for each mask would take longer.
            lowest = np.partition(scores, -self._top_k)[-self._top_k]
            candidates = np.flatnonzero(scores >= lowest)
            best = candidates[np.argsort(-scores[candidates], kind="stable")[: self._top_k]]
            answers.append([(index, float(scores[index])) for index in best.tolist()])
        return answers

    def _plan_targets(self, text: Text, masks: list[tuple[Row, int]]) -> Task[list[list[Prediction]]]:
        requests: list[Request] = []
        owners: list[list[tuple[int, str]]] = []  # whose factor each number of a request's result is

        def ask(mask: int, row: Row, positions: list[int], wanted: dict[str, list[int]]) -> None:
            """Ask for the log-probability of each word's ids at these positions."""
            ids = list(wanted.values())
            requests.append(Request(row, np.array(positions), lambda logits: _log_likelihoods(logits, ids)))
            owners.append([(mask, word) for word in wanted])

        spelled = [self._spell_targets(text, row, position) for row, position in masks]
        for mask, (row, position) in enumerate(masks):
            words = spelled[mask]
            for count in sorted({len(ids) for ids in words.values()}):
                places = list(range(position, position + count))
                fitting = {word: ids for word, ids in words.items() if len(ids) == count}
                if count == 1 or self._scoring == "joint":
                    hidden = [self._tokenizer.mask_id] * count
                    ask(mask, _replace_token(row, position, hidden), places, fitting)
                    continue
                for word, ids in fitting.items():
                    for index, place in enumerate(places):
                        hidden = [*ids[:index], self._tokenizer.mask_id, *ids[index + 1 :]]
                        ask(mask, _replace_token(row, position, hidden), [place], {word: [ids[index]]})

        def conclude(results: list[list[float]]) -> list[list[Prediction]]:
            totals = [dict.fromkeys(words, 0.0) for words in spelled]
            for owner, result in zip(owners, results, strict=True):
                for (mask, word), value in zip(owner, result, strict=True):
                    totals[mask][word] += value
            return [
                self._rank(text, row, position, words, total)
                for (row, position), words, total in zip(masks, spelled, totals, strict=True)
            ]

        return Task(requests, conclude)

    def _spell_targets(self, text: Text, row: Row, position: int) -> dict[str, list[int]]:
        """The ids of each target at a mask: with a space before the word if a space is before the mask."""
        part, begin, _ = self._place(text, row, position)
        spaced = part[begin : begin + 1].isspace() or (begin == 0 and self._tokenizer.adds_space)
        return {word: both[spaced] for word, both in (self._targets or {}).items()}

    def _rank(
        self, text: Text, row: Row, position: int, words: dict[str, list[int]], total: dict[str, float]
    ) -> list[Prediction]:
        best = sorted(total, key=lambda word: (-total[word], words[word]))[: self._top_k]
        return [
            self._fill(
                text, row, position, word, words[word][0] if len(words[word]) == 1 else None, float(np.exp(total[word]))
            )
            for word in best
        ]

    def _place(self, text: Text, row: Row, position: int) -> tuple[str, int, int]:
        """The text that a mask is in, and where it begins and ends there, including a space that belongs to it."""
        part = text if isinstance(text, str) else text[position >= row.parts[0].stop]
        begin, end = row.offsets[position].tolist()
        while self._tokenizer.mask_takes_space and part[:begin][-1:].isspace():  # which some tokenizers do not tell
            begin -= 1
        return part, begin, end

    def _fill(self, text: Text, row: Row, position: int, token: str, token_id: int | None, score: float) -> Prediction:
        """token: as `Prediction` has it. A word that was asked for stands after the space that the mask took along."""
        part, begin, end = self._place(text, row, position)
        written = token.removeprefix("##")
        if token in (self._targets or ()) and part[begin : begin + 1].isspace():
            written = f" {written.lstrip()}"
        filled = part[:begin] + (written if begin else written.lstrip(" ")) + part[end:]
        if isinstance(text, str):
            sentence: Text = filled
        else:
            sentence = (filled, text[1]) if position < row.parts[0].stop else (text[0], filled)
        return Prediction(token, token_id, score, sentence)


def _log_likelihoods(logits: NDArray, words: list[list[int]]) -> list[float]:
    """Σ log P(id i at position i) of each word, from logits [n, V]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs[np.arange(len(logs)), np.array(words)].sum(axis=-1).tolist()


def _assign_masks(windows: list[Row], mask_id: int) -> list[tuple[Row, int]]:
    """Each mask of the text with the window that answers for it, in the text's order."""
    masks = [
        (int(row.places[position]), row, int(position))
        for row, positions in zip(windows, assign_places(windows), strict=True)
        for position in positions[row.ids[positions] == mask_id]
    ]
    return [(row, position) for _, row, position in sorted(masks, key=lambda mask: mask[0])]


def _by_window(masks: list[tuple[Row, int]]) -> list[tuple[Row, NDArray[np.int64]]]:
    """Neighbouring masks of one window together, so that the window is run once."""
    groups: list[tuple[Row, list[int]]] = []
    for row, position in masks:
        if groups and groups[-1][0] is row:
            groups[-1][1].append(position)
        else:
            groups.append((row, [position]))
    return [(row, np.array(positions)) for row, positions in groups]


def _replace_token(row: Row, position: int, ids: list[int]) -> Row:
    """The row with these ids in place of the token at a position."""

    def spread(values: NDArray) -> NDArray:
        return np.concatenate(
            [values[:position], np.repeat(values[position : position + 1], len(ids), 0), values[position + 1 :]]
        )

    longer = replace(
        row, ids=spread(row.ids), types=spread(row.types), offsets=spread(row.offsets), places=spread(row.places)
    )
    longer.ids[position : position + len(ids)] = ids
    return longer


def _check_targets(targets: Sequence[str]) -> list[str]:
    if isinstance(targets, str) or not targets or not all(isinstance(word, str) for word in targets):
        raise InputError("targets", f"expected a list of words; found {targets!r}")
    return list(dict.fromkeys(targets))

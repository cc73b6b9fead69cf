"""Labels of whole texts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError
from yizhi.model.label_heads import MULTI_LABEL, REGRESSION, SEQUENCE
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.batching import EVERY, Request, Task
from yizhi.runtimes.label_operator import LabelOperator
from yizhi.runtimes.scores import sigmoid, softmax
from yizhi.runtimes.tokenization import Long, Text, Tokenizer


@dataclass(frozen=True)
class LabelScore:
    """One label of a text. score: the label's probability, or the value of a regression."""

    label: str
    score: float


class Classifier(LabelOperator[Text, list[LabelScore]]):
    """Labels texts, or pairs of texts, with an artifact of task `text-classification`.

    A call gives labels, best first. The artifact's `problem_type` says how a logit becomes a score:
    `single_label_classification` takes a softmax over the labels, and `multi_label_classification` a sigmoid of each.
    `regression` gives all values as they are, in the order of the labels.
    """

    tasks = (SEQUENCE,)
    purpose = "classify texts"
    reads_windows = False

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer | None = None,
        *,
        top_k: int | None = None,
        raw: bool = False,
        long: Long = "error",
    ) -> None:
        """Uses the artifact's own tokenizer if `tokenizer` is None.

        top_k: the number of labels; None for all. raw: scores are the logits.
        long: `error` or `truncate`, for a text that is too long for the model.
        Raises InputError for an artifact of another task, and for settings out of range.
        """
        super().__init__(runtime, tokenizer, long)
        self.labels: list[str] = runtime.artifact.description["labels"]
        self.problem_type: str = runtime.artifact.description["problem_type"]
        count = len(self.labels)
        if top_k is not None and (type(top_k) is not int or not 1 <= top_k <= count):
            raise InputError("top_k", f"expected 1 … {count}; found {top_k!r}")
        self._top_k = top_k
        self._raw = raw

    def plan(self, given: Text) -> Task[list[LabelScore]]:
        """The rows to compute for one text. Raises InputError for a text that cannot be used."""
        (row,) = self._tokenizer.fit(self._tokenizer.tokenize([given])[0], self._long)
        return Task([Request(row, EVERY, self._score)], lambda results: results[0])

    def _score(self, logits: NDArray) -> list[LabelScore]:
        """From logits [labels] to labels with scores."""
        if self.problem_type == REGRESSION:
            return [LabelScore(label, float(value)) for label, value in zip(self.labels, logits, strict=True)]
        if self._raw:
            scores = logits.astype(np.float64)
        else:
            scores = sigmoid(logits) if self.problem_type == MULTI_LABEL else softmax(logits)
        best = np.argsort(-scores, kind="stable")[: self._top_k]
        return [LabelScore(self.labels[index], float(scores[index])) for index in best]

"""Sequence classification of texts and pairs of texts: one label, several labels, or a number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.model.label_heads import MULTI_LABEL, REGRESSION, SEQUENCE, SINGLE_LABEL
from yizhi.runtimes.tokenization import Text, Tokenizer
from yizhi.storage.records import Record, Source, plain_text
from yizhi.training.features import Feature
from yizhi.training.tasks.faults import Faults

# Between the labels of one cell of a CSV file.
SEPARATOR = "|"
# Of random labels: the standard error of their mean accuracy is at most 0.5 / √(100 rows), 0.008 for 40 rows.
_DRAWS = 100


@dataclass(frozen=True)
class Labelled:
    """A text or a pair with its labels (one, unless several are allowed), or with its number."""

    path: Path
    line: int
    text: Text
    labels: tuple[str, ...] = ()
    number: float = math.nan


@dataclass(frozen=True)
class ClassificationReader:
    """Reads .csv, .tsv, .jsonl and .parquet.

    column, pair_column, label_column: fields of JSON objects, or columns. Several labels are a list, or one string
    with `|` between them; an empty one is none.
    """

    problem_type: str = SINGLE_LABEL
    column: str = "text"
    pair_column: str | None = None
    label_column: str = "label"

    def read(self, path: Path, faults: Faults) -> list[Labelled]:
        """Every example of a file."""
        known, examples = len(faults), []
        try:
            source = Source.of(str(path), None, self.column, self.pair_column, others=(self.label_column,))
            if source.format == "txt":
                raise InputError(path, "expected .csv, .tsv, .jsonl or .parquet: a line of text has no label")
            with source.open() as rows:
                for row in rows:
                    if row.text is None:
                        faults.add(path, row.number, row.fault)
                    elif example := self._parse(
                        path, row.number, _one_or_two(row), row.others[self.label_column], faults
                    ):
                        examples.append(example)
        except InputError as error:
            for fault in error.faults:
                faults.add(path, None, fault)
        if not examples and len(faults) == known:
            faults.add(path, None, "has no row")
        return examples

    def _parse(self, path: Path, line: int, text: Text, value: Any, faults: Faults) -> Labelled | None:
        if self.problem_type == REGRESSION:
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if math.isfinite(number):
                return Labelled(path, line, text, number=number)
            faults.add(path, line, f"{self.label_column}: expected a number; found {show(value)}")
            return None
        several = self.problem_type == MULTI_LABEL
        given = value if isinstance(value, list) and several else [value]
        if several and isinstance(value, str):
            given = value.split(SEPARATOR) if value else []
        names = [str(item) if isinstance(item, int) else item for item in given]
        if all(isinstance(name, str) and name for name in names):
            return Labelled(path, line, text, tuple(names))
        expected = "a list of labels" if several else "a label"
        faults.add(path, line, f"{self.label_column}: expected {expected}; found {show(value)}")
        return None

    def make_task(self, examples: Sequence[Labelled]) -> "Classification":
        """With the labels in order: of numbers if all are numbers, else of their characters."""
        if self.problem_type == REGRESSION:
            return Classification((self.label_column,), REGRESSION)
        labels = {label for example in examples for label in example.labels}
        numbers = all(label.isascii() and label.isdigit() for label in labels)
        return Classification(
            tuple(sorted(labels, key=(lambda label: (int(label), label)) if numbers else None)), self.problem_type
        )

    def task_of(self, labels: Sequence[str], problem_type: str | None) -> "Classification":
        """With a model's own labels."""
        return Classification(tuple(labels), problem_type or SINGLE_LABEL)


@dataclass(frozen=True)
class Classification:
    """Labels of texts, scored by scikit-learn."""

    labels: tuple[str, ...]
    problem_type: str
    name = SEQUENCE

    @property
    def best(self) -> str:
        """Spearman's correlation of numbers, else F1: macro for one label a text, micro for several."""
        return "spearman" if self.problem_type == REGRESSION else "f1"

    def config(self) -> Mapping[str, Any]:
        """`id2label`, `label2id` and `problem_type`."""
        return {
            "id2label": {str(index): label for index, label in enumerate(self.labels)},
            "label2id": {label: index for index, label in enumerate(self.labels)},
            "problem_type": self.problem_type,
        }

    def check(self, examples: Sequence[Labelled], faults: Faults) -> None:
        """Add faults for unknown labels, and for a file with only one label."""
        if self.problem_type == SINGLE_LABEL and len(self.labels) == 1 and examples:
            faults.add(examples[0].path, None, f"expected at least two labels; found only {show(self.labels[0])}")
        for example in examples:
            for label in example.labels:
                if label not in self.labels:
                    known = ", ".join(self.labels[:20]) + (", …" if len(self.labels) > 20 else "")
                    faults.add(example.path, example.line, f"label {show(label)} is unknown: expected one of {known}")

    def encode(self, examples: Sequence[Labelled], tokenizer: Tokenizer, faults: Faults) -> list[Feature]:
        """One row each. Texts that are too long are cut; in a pair, the longer text."""
        features = []
        for index, (example, row) in enumerate(
            zip(examples, tokenizer.tokenize([example.text for example in examples]), strict=True)
        ):
            (window,) = tokenizer.fit(row, "truncate")
            features.append(Feature(window, index, targets={"labels": self._target(example)}))
        return features

    def _target(self, example: Labelled) -> Any:
        if self.problem_type == REGRESSION:
            return [example.number]
        if self.problem_type == MULTI_LABEL:
            return [float(label in example.labels) for label in self.labels]
        return self.labels.index(example.labels[0])

    def score(
        self, examples: Sequence[Labelled], features: Sequence[Feature], logits: Sequence[NDArray]
    ) -> dict[str, float]:
        """Accuracy and F1 from 0 to 1; of numbers, Pearson's and Spearman's correlation."""
        found, expected = np.stack(logits), self._targets(examples)
        if self.problem_type == REGRESSION:
            return {name: _correlation(name, expected[:, 0], found[:, 0]) for name in ("pearson", "spearman")}
        # A sigmoid is above one half where its argument is above zero.
        chosen = (found > 0).astype(int) if self.problem_type == MULTI_LABEL else found.argmax(axis=-1)
        return self._score_choice(expected, chosen)

    def guess(self, trained_on: Sequence[Labelled], examples: Sequence[Labelled]) -> dict[str, float]:
        """The better baseline: the likeliest labels everywhere, or labels drawn by their shares, on average."""
        if self.problem_type == REGRESSION:
            return dict.fromkeys(("pearson", "spearman"), 0.0)  # one number everywhere: nothing varies
        known, expected = self._targets(trained_on), self._targets(examples)
        random = np.random.default_rng(0)
        if self.problem_type == MULTI_LABEL:
            shares = known.mean(axis=0)
            likeliest = np.tile((shares > 0.5).astype(int), (len(examples), 1))
            drawn = [(random.random(expected.shape) < shares).astype(int) for _ in range(_DRAWS)]
        else:
            shares = np.bincount(known, minlength=len(self.labels)) / len(known)
            likeliest = np.full(len(examples), shares.argmax())
            drawn = [random.choice(len(shares), size=len(examples), p=shares) for _ in range(_DRAWS)]
        by_draw = [self._score_choice(expected, labels) for labels in drawn]
        on_average = {name: float(np.mean([scores[name] for scores in by_draw])) for name in by_draw[0]}
        return max(self._score_choice(expected, likeliest), on_average, key=lambda scores: scores[self.best])

    def _targets(self, examples: Sequence[Labelled]) -> NDArray:
        return np.array([self._target(example) for example in examples])

    def _score_choice(self, expected: NDArray, chosen: NDArray) -> dict[str, float]:
        """Accuracy and F1 of labels: their indices [N], or 0 and 1 for each [N, labels]."""
        from sklearn.metrics import accuracy_score, f1_score

        several = self.problem_type == MULTI_LABEL
        labels = None if several else list(range(len(self.labels)))
        average = "micro" if several else "macro"
        return {
            "accuracy": float(accuracy_score(expected, chosen)),
            "f1": float(f1_score(expected, chosen, labels=labels, average=average, zero_division=0)),
        }


def _correlation(kind: str, one: NDArray, other: NDArray) -> float:
    from scipy.stats import pearsonr, spearmanr

    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0  # undefined: nothing varies
    return float({"pearson": pearsonr, "spearman": spearmanr}[kind](one, other).statistic)


def _one_or_two(row: Record) -> Text:
    return row.text if isinstance(row.text, tuple) else plain_text(row)

"""Tasks for fine-tuning: reading their data, making rows for a model, and scoring.

No framework is needed here, because the same code scores artifacts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from yizhi.runtimes.tokenization import Tokenizer
from yizhi.training.features import Feature
from yizhi.training.tasks.faults import Faults

Example = TypeVar("Example")
Given = TypeVar("Given", contravariant=True)  # what a task only takes


class Task(Protocol[Given]):
    """One task with its labels."""

    @property
    def name(self) -> str:
        """As in `yizhi.model.label_heads`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Their names, in the order of the logits."""

    @property
    def best(self) -> str:
        """The score that chooses models and judges artifacts. Higher is better."""

    def config(self) -> Mapping[str, Any]:
        """The fields of `config.json` for the labels."""

    def check(self, examples: Sequence[Given], faults: Faults) -> None:
        """Add a fault for every label that this task does not have."""

    def encode(self, examples: Sequence[Given], tokenizer: Tokenizer, faults: Faults) -> list[Feature]:
        """Rows with targets, in the order of the examples."""

    def score(
        self, examples: Sequence[Given], features: Sequence[Feature], logits: Sequence[NDArray]
    ) -> dict[str, float]:
        """Scores from each feature's logits: [labels], or [T, labels] of a row's tokens."""

    def guess(self, trained_on: Sequence[Given], examples: Sequence[Given]) -> dict[str, float]:
        """Scores on `examples` of a baseline that knows only how often each label is in `trained_on`.

        Empty if there is no such baseline.
        """


class DatasetReader(Protocol[Example]):
    """Reads a task's examples, and finds its labels."""

    def read(self, path: Path, faults: Faults) -> list[Example]:
        """Every example of a file. Rows that cannot be used become faults."""

    def make_task(self, examples: Sequence[Example]) -> Task[Example]:
        """The task with the labels that these examples have."""

    def task_of(self, labels: Sequence[str], problem_type: str | None) -> Task[Example]:
        """The task with the labels of an existing model."""

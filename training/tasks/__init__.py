"""What can be fine-tuned: how its data is read, turned into rows for a model, and scored.

No framework is needed here, for artifacts are scored by the same code.
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
        """The score by which models are chosen and artifacts judged: more is better."""

    def config(self) -> Mapping[str, Any]:
        """What `config.json` says of the labels."""

    def check(self, examples: Sequence[Given], faults: Faults) -> None:
        """Note every label that this task does not have."""

    def encode(self, examples: Sequence[Given], tokenizer: Tokenizer, faults: Faults) -> list[Feature]:
        """Rows with targets, in the order of the examples."""

    def score(
        self, examples: Sequence[Given], features: Sequence[Feature], logits: Sequence[NDArray]
    ) -> dict[str, float]:
        """Scores from each feature's logits: [labels], or [T, labels] of a row's tokens."""

    def guess(self, trained_on: Sequence[Given], examples: Sequence[Given]) -> dict[str, float]:
        """Scores on `examples` of one who knows how often each label is in `trained_on`, and reads nothing.

        Empty where there is nothing to guess by.
        """


class DatasetReader(Protocol[Example]):
    """How a task's examples are read, and its labels found."""

    def read(self, path: Path, faults: Faults) -> list[Example]:
        """Every example of a file; what cannot be used is noted."""

    def make_task(self, examples: Sequence[Example]) -> Task[Example]:
        """The task with the labels that these examples have."""

    def task_of(self, labels: Sequence[str], problem_type: str | None) -> Task[Example]:
        """The task with the labels of a model that is there."""

"""Row: the results of a command for one target, to print or to write as JSON."""

from dataclasses import dataclass, field
from typing import Any

from yizhi.model.spec import Pooling
from yizhi.parity.record import VerificationRecord
from yizhi.pipeline.jobs import Result
from yizhi.release.artifact import Artifact
from yizhi.runtimes.processor import describe_int8_kernels
from yizhi.storage.codec import from_plain, to_plain
from yizhi.training.tasks.scores import Scores


@dataclass(frozen=True)
class Evaluation:
    """Scores on labelled data, if there are any, and the demanded share.

    data: the file's name; sha256: its digest. minimum: the least `relative` with which an artifact passes.
    relative: the score that counts, as a share of the reference's; None where that is 0.
    """

    data: str
    sha256: str
    minimum: float | None
    faults: list[str]
    scores: Scores | None = None
    relative: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the scores among the rest."""
        plain = to_plain(self)
        scores, relative = plain.pop("scores"), plain.pop("relative")
        told: dict[str, Any] = plain | (scores | {"relative": relative} if scores else {})
        return told


@dataclass
class Row:
    """One target: how its export and verification went. What was not done is None.

    altered: faults of its files. verdict: the parity verdict, new or kept from the manifest.
    evaluation: its scores on labelled data, if they were requested.
    pooling: how its `sentence_embedding` or `term_weights` is made; None where it has neither.
    """

    target: str
    export: Result[None] | None = None
    verification: Result[VerificationRecord] | None = None
    verdict: VerificationRecord | None = None
    size: int | None = None
    altered: list[str] = field(default_factory=list)
    evaluation: Evaluation | None = None
    pooling: Pooling | None = None

    def describe(self, artifact: Artifact) -> None:
        """Fill the row with the facts of an artifact."""
        self.size = artifact.size()
        told = artifact.description.get("pooling")
        self.pooling = from_plain(Pooling, told) if told else None

    @property
    def faults(self) -> list[str]:
        """Why it did not pass; empty when it did. Not verified is not passed."""
        for result in (self.export, self.verification):
            if result and result.faults:
                return result.faults
        if self.altered:
            return self.altered
        if not self.verdict:
            return ["not verified"]
        return [*self.verdict.faults, *(self.evaluation.faults if self.evaluation else [])]

    @property
    def passed(self) -> bool:
        """Whether every requested check ran and passed."""
        return not self.faults

    @property
    def not_run(self) -> bool:
        """Whether the framework or the requested device is missing here, or no gate exists for the verdict."""
        return bool(self.verdict and self.verdict.not_judged) or any(
            result is not None and result.not_run for result in (self.export, self.verification)
        )

    @property
    def bad_input(self) -> bool:
        """Whether bad input made it fail, and not a check."""
        return any(result is not None and result.bad_input for result in (self.export, self.verification))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "passed": self.passed,
            "not_run": self.not_run,
            "faults": self.faults,
            "size": self.size,
            "export": _measured(self.export),
            "verification": _measured(self.verification),
            "parity": self.verdict and self.verdict.as_dict(),
            **({"evaluation": self.evaluation.as_dict()} if self.evaluation else {}),
            # Only in the report: a manifest is the same wherever it was made.
            "int8_kernels": self._describe_int8_kernels(),
        }

    def _describe_int8_kernels(self) -> str | None:
        if not self.verdict or self.verdict.precision != "int8":
            return None
        return self.verdict.integers.instructions if self.verdict.integers else describe_int8_kernels()


def _measured(result: Result[Any] | None) -> dict[str, Any] | None:
    return {"seconds": result.seconds, "peak_bytes": result.peak_bytes} if result else None


def rows_as_dict(rows: list[Row]) -> dict[str, Any]:
    """Plain values for JSON, by target."""
    return {row.target: row.as_dict() for row in rows}

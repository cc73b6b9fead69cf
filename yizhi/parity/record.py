"""The findings of one verification, as data: from the process that ran it to the manifest and the report."""

from dataclasses import dataclass, field
from typing import Any

from yizhi.parity.compare import Difference, Quality
from yizhi.parity.sentence_quality import SentenceQuality
from yizhi.parity.tolerances import FloatTolerance, QuantizedGates
from yizhi.storage.codec import LEFT_OUT, from_plain, to_plain


@dataclass(frozen=True)
class Diagnosis:
    """The result of bisecting.

    output: the first output that differs, in `case`.
    tensor: the first tensor inside its layer that differs; None if the artifact shows none.
    cause: the known fault that explains the output, or all but a tenth of its error; None if no fault does.
    note: the compared tensors.
    """

    case: str
    output: str
    tensor: str | None
    cause: str | None
    note: str

    def explain(self) -> list[str]:
        """As text, a line each."""
        lines = [f"first tensor that differs inside it: {self.tensor}"] if self.tensor else []
        return [*lines, self.note, f"likely cause: {self.cause}" if self.cause else "no known mistake explains it"]


@dataclass
class PublishedCheck:
    """The comparison of an artifact with numbers published for its checkpoint.

    values: published numbers compared. worst: the largest |error|. faults: the differing numbers, with their sources.
    """

    checkpoint: str
    values: int = 0
    worst: float = 0.0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plausibility:
    """The result of the cloze sentences for a head.

    verdict: `trained`, `untrained`, `absent` (no such head) or `not judged` (a vocabulary too small).
    hits: sentences whose answer is among the first five; `needed` of them make a head trained.
    log_probability: mean natural logarithm of the right answers' probability; `chance` is −ln V.
    scored: sentences that were run. skipped: sentences with a character that the vocabulary lacks.
    task: the checkpoint's task, if the head is absent.
    """

    verdict: str
    hits: int = 0
    needed: int = 0
    log_probability: float | None = None
    chance: float | None = None
    scored: int = 0
    skipped: int = 0
    task: str | None = None


@dataclass(frozen=True)
class Integers:
    """The integer sums of an int8 artifact's kernels.

    digest: sha256 of the exact sums of all checked kernels, int32, little-endian: the same on every processor.
    compared: the products whose graphs gave these sums here.
    instructions: the processor's, by its own flags, or `wasm simd128`.
    released_on: the instructions of the processor that judged the release, if they are recorded and the digest is the
    same.
    """

    digest: str
    compared: list[str]
    instructions: str
    released_on: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class WeightAudit:
    """How many stored tensors were compared with the checkpoint's numbers, and how.

    exact: float32 tensors, by sha256. requantized: int8 tensors, quantized again and compared bit for bit.
    rounded: int8 tensors whose sums were compared within rounding, because no float32 numbers were at hand.
    graphs: graph files, compared with those that the same code writes again.
    """

    exact: int = 0
    requantized: int = 0
    rounded: int = 0
    graphs: int = 0


@dataclass(frozen=True)
class VerificationRecord:
    """The verdict on one artifact, its reasons, and the other checks.

    passed: everything was compared and judged, and nothing failed. not_judged: everything ran, and there is no
    tolerance to judge by. worst: per output, the difference that used most of its tolerance. The other fields up to
    `tolerance` are as in `yizhi.parity.verdict.Verdict`. requirement: the source of the tolerance, on a GPU or in a
    tier. head: in one artifact of a release.
    """

    passed: bool
    not_judged: bool
    precision: str
    device: str
    settings: dict[str, str]
    faults: list[str]
    first_bad_layer: str | None
    worst: dict[str, Difference]
    change_alone: float
    quality: Quality | None
    cosine: dict[str, float]
    cosine_mean: dict[str, float]
    label_error: float | None
    sentences: SentenceQuality | None
    integers: Integers | None
    weights: WeightAudit
    tolerance: FloatTolerance | QuantizedGates | None
    requirement: str | None = field(default=None, metadata=LEFT_OUT)
    diagnosis: Diagnosis | None = field(default=None, metadata=LEFT_OUT)
    published: PublishedCheck | None = field(default=None, metadata=LEFT_OUT)
    head: Plausibility | None = field(default=None, metadata=LEFT_OUT)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `parity` in manifests and reports."""
        return to_plain(self)

    def rounded(self) -> "VerificationRecord":
        """The record in the manifest's form: floats have three significant digits, or their distance from 1 has.

        So they are free of last-bit noise, and printed numbers equal the manifest's. A failed record stays unrounded:
        no manifest holds it, and rounding could put an error on its limit.
        """
        return from_plain(VerificationRecord, _round(to_plain(self))) if self.passed else self


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return 1 - float(f"{1 - value:.2e}") if 0.9 < value < 1 else float(f"{value:.2e}")
    if isinstance(value, dict):
        return {key: _round(item) for key, item in value.items()}
    return [_round(item) for item in value] if isinstance(value, list) else value

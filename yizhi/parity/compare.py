"""One runtime's outputs against the golden outputs: a star, never a chain."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yizhi.parity.tolerances import FloatTolerance


@dataclass(frozen=True)
class Difference:
    """The distance of one output of one case from its reference.

    error: largest |error|, where `at` says (indices into the compared array).
    excess: largest |error| / allowed error: passes at 1 or below.
    fault: why the output cannot be compared at all, or None.
    passed: whether it was compared and is within tolerance.
    """

    case: str
    signature: str
    output: str
    error: float
    excess: float
    at: tuple[int, ...]
    fault: str | None
    passed: bool

    @property
    def rank(self) -> tuple[float, float]:
        """Sorts the worst last."""
        return (self.excess, self.error)

    def explain(self) -> str:
        """The reason for a failure, as text."""
        return self.fault or f"off by {self.error:.2e}, {self.excess:.1f} times what is allowed, at {list(self.at)}"


def compare(
    case: str,
    signature: str,
    output: str,
    found: NDArray | None,
    reference: NDArray,
    tolerance: FloatTolerance,
    scale: NDArray[np.float64],
) -> Difference:
    """Compare one array with its reference. NaN, a wrong shape and a missing output are failures.

    scale: of each element, for the tolerance; broadcast over the reference.
    """

    def failed(fault: str) -> Difference:
        return Difference(case, signature, output, float("inf"), float("inf"), (), fault, passed=False)

    if found is None:
        return failed("missing")
    if found.shape != reference.shape:
        return failed(f"expected shape {list(reference.shape)}; found {list(found.shape)}")
    if found.size == 0:
        return failed("empty")
    if not np.isfinite(found).all():
        return failed(f"{int((~np.isfinite(found)).sum())} of {found.size} values are NaN or Inf")
    error = np.abs(found.astype(np.float64) - reference)
    excess = error / tolerance.allowed(scale)
    most = float(excess.max())
    at = tuple(int(index) for index in np.unravel_index(int(excess.argmax()), excess.shape))
    return Difference(case, signature, output, float(error.max()), most, at, None, passed=most <= 1.0)


# Rows of vocabulary logits judged at a time: the float64 steps between would take gigabytes otherwise.
_ROWS = 64


@dataclass(frozen=True)
class Quality:
    """int8 against the oracle over every compared position; see `QuantizedGates` for the measures.

    top1 is None where no position is decided.
    """

    decided: int
    top1: float | None
    top5: float
    kl_mean: float
    kl_p99: float
    kl_max: float
    positions: int


def measure_quality(found: NDArray, reference: NDArray, lead: float) -> Quality:
    """Agreement and KL(reference ‖ found), in nats, of vocabulary logits [N, V]."""
    kl, decided, first_kept, among_five = (
        np.concatenate(parts)
        for parts in zip(
            *(
                _quality_of_rows(found[start : start + _ROWS], reference[start : start + _ROWS], lead)
                for start in range(0, len(reference), _ROWS)
            ),
            strict=True,
        )
    )
    return Quality(
        decided=int(decided.sum()),
        top1=float(first_kept[decided].mean()) if decided.any() else None,
        top5=float(among_five.mean()),
        kl_mean=float(kl.mean()),
        kl_p99=float(np.quantile(kl, 0.99)),
        kl_max=float(kl.max()),
        positions=len(reference),
    )


def _quality_of_rows(found: NDArray, reference: NDArray, lead: float) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Per row: KL, whether it is decided, whether the first answer is kept, whether it is among the first five."""
    log_p = log_softmax(reference)
    kl = (np.exp(log_p) * (log_p - log_softmax(found))).sum(axis=-1)
    second, first = np.partition(log_p, -2, axis=-1)[:, -2:].T
    answer = reference.argmax(axis=-1)
    five = np.argpartition(found, -5, axis=-1)[:, -5:]
    return kl, first - second >= lead, found.argmax(axis=-1) == answer, (five == answer[:, None]).any(axis=-1)


def cosines(found: NDArray, reference: NDArray) -> NDArray[np.float64]:
    """Cosine between vectors along the last axis: [..., H] -> [...]. Of two zeros 1, of zeros and others 0."""
    a, b = found.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)
    product = lengths[0] * lengths[1]
    both_zero = np.asarray(lengths[0] == lengths[1], np.float64)
    return np.divide((a * b).sum(-1), product, out=both_zero, where=product > 0)


def relative_error(found: NDArray, reference: NDArray) -> float:
    """Root mean square of the error, as a share of that of the reference: over all their elements."""
    error = found.astype(np.float64) - reference
    return float(np.linalg.norm(error) / np.linalg.norm(reference.astype(np.float64)))


def log_softmax(logits: NDArray) -> NDArray[np.float64]:
    """log softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

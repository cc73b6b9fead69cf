"""The allowed distance of a runtime from the oracle, by precision and device, never by model or target.

A tolerance is a requirement. Strict float32 has one on all devices. The requirements for TF32, bfloat16 and float16
come from a CPU that rounds as they round (`benchmarks.gpu_tolerances`), and not from measurements of one card.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yizhi.choices import WASM


@dataclass(frozen=True)
class FloatTolerance:
    """|error| ≤ absolute + relative · scale, element by element, on real tokens.

    scale: the size of the numbers that an element is made of; see `Golden.scale`.
    """

    absolute: float
    relative: float
    reason: str

    def allowed(self, scale: NDArray[np.float64]) -> NDArray[np.float64]:
        """The largest error allowed at each element of an output."""
        return self.absolute + self.relative * scale


@dataclass(frozen=True)
class QuantizedGates:
    """What int8 must keep, over the positions where vocabulary logits are compared, except cosine.

    top1: share of decided positions with the oracle's first answer first. A position is decided where
    that answer leads the second by `lead` nats: between equals, either is right.
    top5: share of all positions with the oracle's first answer among the first five.
    kl_mean, kl_p99: KL(oracle ‖ artifact) of the vocabulary distributions, in nats.
    cosine, cosine_mean: lowest and mean cosine between real tokens' vectors and the oracle's, in any output but logits.
    The lowest, over random ids, is a bound on catastrophe: one unlucky token decides it. The mean judges the whole.
    label_error: of logits that are not over the vocabulary (a classifier's, a tagger's, a reader's, a
    discriminator's): root mean square of the error over that of the oracle's, over all cases together. There
    are too few of them for a cosine: that of one label is its sign, and two near 0 point anywhere.
    token_p01, vector_mean, order: of everyday sentences, as in `SentenceQuality`.
    A sentence's outputs must also be bit-identical alone, batched and padded.
    """

    lead: float
    top1: float
    top5: float
    kl_mean: float
    kl_p99: float
    cosine: float
    cosine_mean: float
    label_error: float
    token_p01: float
    vector_mean: float
    order: float
    reason: str


ANY_DEVICE = "any"
_SIMULATED = (
    "Simulated on a CPU: {} at most over five synthetic models with outlier channels and two trained ones "
    "(docs/gpu.md). This is twice that, rounded up to one digit."
)
_INT8 = QuantizedGates(
    lead=0.5,
    top1=0.99,
    top5=0.99,
    kl_mean=5e-3,
    kl_p99=2e-2,
    cosine=0.98,
    cosine_mean=0.998,
    label_error=0.15,
    token_p01=0.995,
    vector_mean=0.998,
    order=0.998,
    reason="Measured: KL mean 1.4e-3 and lowest cosine 0.9985 (pooler; 0.9999 in the layers) on the synthetic "
    "default, whose outlier channels are made to be hard; KL mean 7e-4 on a small trained model. On "
    "all-MiniLM-L6-v2 the lowest cosine is 0.9911 and the lowest mean 0.9983, and without its outlier channels "
    "treated apart 0.973 and 0.9956. A KL of 5e-3 moves an answer's probability by about a tenth of itself. Label "
    "errors: at most 0.090 over small random models of every family and task, and the gate leaves more than that. "
    "Most err by 0.01 to 0.03; the worst are heads of a single label, such as a regression or ELECTRA's "
    "discriminator, whose terms happen to cancel: their error is as large as the others', and the values it is "
    "measured against small.",
)
TOLERANCES: Mapping[tuple[str, str], FloatTolerance | QuantizedGates] = {
    ("fp32", ANY_DEVICE): FloatTolerance(
        1e-5,
        1e-5,
        "Hidden states: at most 1.9e-5 measured at BERT-base size on values up to 20, where float32 rounding alone "
        "gives 1e-6 a step. Against LayerNorm's two terms, 0.17 to 0.52 of this is used over ten random models with "
        "outlier channels of 30 to 38, in each framework alike. A logit is a sum whose terms add up, in magnitude, to "
        "many times its own value (44 for logits near 0, on a trained model): one float32 product with exact inputs "
        "already errs by 6e-6, and the head's LayerNorm makes hidden-state rounding 8 times larger. So logits are "
        "measured against their vector, and so are hidden states between layers that normalise first: at 24 x 2048 "
        "they reached 80, and float32 erred by up to 1.6e-4.",
    ),
    ("tf32", ANY_DEVICE): FloatTolerance(4e-2, 4e-2, _SIMULATED.format("1.8e-2, where operands are cut off,")),
    ("bf16", ANY_DEVICE): FloatTolerance(0.2, 0.2, _SIMULATED.format("7.8e-2")),
    ("fp16", ANY_DEVICE): FloatTolerance(2e-2, 2e-2, _SIMULATED.format("9.2e-3")),
    ("int8", "cpu"): _INT8,
    ("int8", WASM): _INT8,
}

# By precision, the GPUs that a requirement was met on: the runs are in docs/gpu/.
HARDWARE_SEEN: Mapping[str, tuple[str, ...]] = {}


def find_gates(precision: str, device: str) -> FloatTolerance | QuantizedGates | None:
    """The gates of a precision on a device. None if there are none."""
    return TOLERANCES.get((precision, ANY_DEVICE)) or TOLERANCES.get((precision, device))


def describe_requirement(precision: str) -> str:
    """The source of a tolerance, and the GPUs that met it."""
    origin = "the common float32 tolerance" if precision == "fp32" else "requirement from simulation"
    return f"{origin}; hardware seen: {', '.join(HARDWARE_SEEN.get(precision, ())) or 'none'}"

"""Logits to probabilities, in float64."""

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray) -> NDArray[np.float64]:
    """exp(x) / Σ exp(x) over the last axis, in float64, shifted by the largest so that nothing overflows."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(logits: NDArray) -> NDArray[np.float64]:
    """1 / (1 + exp(−x)), in float64; the exponent is never positive, so that nothing overflows."""
    small = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1, small) / (1 + small)

"""Compares int8 kernels with the checkpoint's numbers when the checkpoint itself is not at hand.

int8's gates on outputs must be as wide as int8's rounding in the hardest sound encoder. A scale off by 3 % or a small
lost bias moves outputs by less. Rounding of the numbers themselves is random, and such mistakes are not.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from yizhi.converters.quantize import SMOOTHING, Outliers
from yizhi.reading.checkpoint import Checkpoint

# How far the share of the checkpoint's numbers that an int8 tensor holds may be from 1, and how far its rounding may be
# from them, relative, root mean square: see docs/int8.md for what was measured.
SHARE, ROUNDING = 0.015, 0.1
# Sums of a matrix at least: of a single row, one sum might happen to be small.
_LEAST = 64
_ROWS = 512


def summarize(checkpoint: Checkpoint) -> dict[str, NDArray[np.float32]]:
    """By parameter: a vector unchanged; for a matrix, each row's sums with some signs of its columns: [rows · sums]."""
    found = {}
    for parameter in checkpoint.parameters():
        array = checkpoint.array(parameter.name)
        found[parameter.name] = _sums(parameter.name, array).astype(np.float32)
        checkpoint.release(parameter.name)
    return found


def audit_sums(
    name: str,
    values: NDArray[np.int8],
    scales: NDArray[np.float32],
    columns: NDArray[np.float32] | None,
    outliers: Outliers,
    reference: NDArray[np.float32],
) -> list[str]:
    """Faults of an int8 kernel [rows, width]: its values times their scales may differ only by rounding.

    scales: [rows]. columns: of the outlier channels in float32, [count, rows]. reference: from `summarize`.
    """
    found = _sums(name, values, scales, columns, outliers)
    return _compare(name, found, reference.astype(np.float64))


def _compare(name: str, found: NDArray[np.float64], expected: NDArray[np.float64]) -> list[str]:
    size = float(expected @ expected)
    if not size:
        return [f"{name}: expected zeros; found other values"] if found.any() else []
    share = float(found @ expected) / size
    rounding = float(np.linalg.norm(found - share * expected) / np.sqrt(size))
    if not rounding <= ROUNDING:
        return [f"{name}: its values differ from the checkpoint's by {rounding:.1%}, more than rounding explains"]
    if not abs(share - 1) <= SHARE:
        return [f"{name}: its values are {share:.3f} times the checkpoint's"]
    return []


def _sums(
    name: str,
    array: NDArray,
    scales: NDArray[np.float32] | None = None,
    columns: NDArray[np.float32] | None = None,
    outliers: Outliers | None = None,
) -> NDArray[np.float64]:
    """[rows, width] -> [rows · sums]; a vector as it is.

    scales, columns, outliers: as `audit_sums` has them, of an int8 matrix.
    """
    if array.ndim == 1:
        return array.astype(np.float64)
    rows, width = array.shape
    sums = max(1, _LEAST // rows)
    # By the tensor's name, so that another tensor's rows have other sums.
    raw = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(width * sums).reshape(width, sums)
    signs = (raw >> np.uint64(63)) * 2.0 - 1.0
    channels = list(outliers.of(name)) if outliers else []
    added = 0.0 if columns is None else columns.T.astype(np.float64) @ signs[channels]
    signs[channels] /= SMOOTHING  # they are so much larger; those in float32 are zeros
    found = np.concatenate([array[start : start + _ROWS].astype(np.float64) @ signs for start in range(0, rows, _ROWS)])
    if scales is not None:
        found *= scales[:, None]
    return (found + added).ravel()

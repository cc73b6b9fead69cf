"""What int8 makes of float32 kernels: exact arithmetic in NumPy, the same bits on every machine."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

LARGEST = 127.0  # what a row's largest magnitude becomes
# Rows smaller than this count as zeros, so that no scale is 0 and none is denormal.
TINY = 1e-30

_CHUNK_VALUES = 1 << 20


def quantize_in_chunks(
    weight: NDArray[np.float32],
    scales: list[NDArray[np.float32]],
    pool: ThreadPoolExecutor,
    outliers: Sequence[int] = (),
) -> Iterator[NDArray[np.int8]]:
    """Quantize a [rows, inputs] matrix some rows at a time, appending their scales to `scales`.

    outliers: columns that become zeros, and count for no scale.
    """
    step = max(1, _CHUNK_VALUES // weight.shape[1])
    chunks = (weight[start : start + step] for start in range(0, len(weight), step))
    for values, scale in pool.map(lambda rows: quantize_rows(without(rows, outliers)), chunks):
        scales.append(scale)
        yield values


def without(rows: NDArray[np.float32], columns: Sequence[int]) -> NDArray[np.float32]:
    """The rows with zeros in these columns; themselves where there are none."""
    if not columns:
        return rows
    left = rows.copy()
    left[:, columns] = 0
    return left


def quantize_rows(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 values [rows, inputs] and float32 scales [rows]: round(w / scale), scale = absmax / 127 of the row.

    Halves round to even, as in QuantizeLinear.
    """
    absmax = np.maximum(weight.max(axis=1), -weight.min(axis=1))
    scale = np.maximum(absmax, np.float32(TINY)) / np.float32(LARGEST)
    scaled = weight / scale[:, None]
    return np.rint(scaled, out=scaled).astype(np.int8), scale

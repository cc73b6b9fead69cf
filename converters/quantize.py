"""Quantization of float32 kernels to int8: exact arithmetic in NumPy, the same bits on every machine."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LARGEST = 127.0  # what a row's largest magnitude becomes
# Rows smaller than this count as zeros, so that no scale is 0 and none is denormal.
TINY = 1e-30
# How much smaller a smoothed channel is made, and how much larger its weights: a power of two, so that both are exact.
SMOOTHING = 4.0

# Beside the signatures, an int8 artifact has a graph of its kernels' integer sums, to be held to exact arithmetic.
INTEGERS = "integers"

_CHUNK_VALUES = 1 << 20
_AHEAD = 8  # chunks


def scale_of(name: str) -> str:
    """Name of the scales [outputs] of an int8 weight."""
    return f"{name}.scale"


def outliers_of(name: str) -> str:
    """Name of the float32 columns [count, outputs] of the outlier channels of an int8 weight."""
    return f"{name}.outliers"


@dataclass(frozen=True)
class Outliers:
    """The outlier channels of the inputs of kernels: by kernel, ascending.

    smoothed: the kernels that multiply them as int8, from an input SMOOTHING times as small (Xiao et al. 2022,
    arXiv:2211.10438). The others multiply them in float32.
    """

    channels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    smoothed: Collection[str] = ()

    def of(self, name: str) -> Sequence[int]:
        """The channels of this kernel's input."""
        return self.channels.get(name, ())

    def in_float32(self, name: str) -> bool:
        """Whether this kernel has columns that are multiplied in float32."""
        return name in self.channels and name not in self.smoothed

    def prepare(self, name: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """A kernel's rows [rows, inputs] before quantization: outlier columns are SMOOTHING times as large, or 0."""
        channels = self.of(name)
        if not channels:
            return rows
        prepared = rows.copy()
        prepared[:, channels] *= SMOOTHING if name in self.smoothed else 0
        return prepared


def quantize_in_chunks(
    blocks: Iterable[NDArray[np.float32]],
    scales: list[NDArray[np.float32]],
    pool: ThreadPoolExecutor,
    prepare: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda rows: rows,
) -> Iterator[NDArray[np.int8]]:
    """Quantize what `prepare` makes of a matrix's blocks [rows, inputs], some rows at a time, in little memory.

    The scales are appended to `scales`.
    """
    running: deque[Future[tuple[NDArray[np.int8], NDArray[np.float32]]]] = deque()

    def first() -> NDArray[np.int8]:
        values, scale = running.popleft().result()
        scales.append(scale)
        return values

    for block in blocks:
        step = max(1, _CHUNK_VALUES // block.shape[1])
        for start in range(0, len(block), step):
            running.append(pool.submit(lambda rows: quantize_rows(prepare(rows)), block[start : start + step]))
            if len(running) > _AHEAD:
                yield first()
    while running:
        yield first()


def quantize_rows(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 values [rows, inputs] and float32 scales [rows]: round(w / scale), scale = absmax / 127 of the row.

    Halves round to even, as in QuantizeLinear.
    """
    scale = scales_of_rows(weight)
    scaled = weight / scale[:, None]
    return np.rint(scaled, out=scaled).astype(np.int8), scale


def scales_of_rows(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scales [rows] that `quantize_rows` gives, alone."""
    absmax = np.maximum(weight.max(axis=1), -weight.min(axis=1))
    scales: NDArray[np.float32] = np.maximum(absmax, np.float32(TINY)) / np.float32(LARGEST)
    return scales

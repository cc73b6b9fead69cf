"""The integer sums of an int8 artifact's kernels against exact arithmetic. They must be the same on every processor."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from yizhi.converters.targets import TARGETS
from yizhi.parity.record import Integers
from yizhi.runtimes.base import Runtime

_ROWS = 8
_KEY = 20_212
_MIDDLE = 128  # the uint8 that stands for 0
# Columns that are not 0: so many products of 127 by 127 stay below 2²⁴, and a float32 holds their sum exactly.
_USED = 1024


def check_integers(runtime: Runtime) -> tuple[Integers | None, list[str]]:
    """Compare each graph that can be exact here with NumPy's integers, bit by bit. The faults are the differences.

    None if no kernel is quantized.
    """
    quantization = runtime.artifact.description.get("quantization")
    if quantization is None:
        older = "the artifact does not describe its kernels: an older version made it; export it again"
        return None, [older]
    checked = set(quantization["checked"])
    if not checked:
        return None, []
    stored = TARGETS[runtime.artifact.target].stored_tensors(runtime.artifact.folder)
    weights = {tensor.name: tensor.array() for tensor in stored if tensor.name in checked}
    rows = make_rows(max(kernel.shape[1] for kernel in weights.values()))
    expected = {f"{name}.sums": sum_exactly(rows[:, : kernel.shape[1]], kernel) for name, kernel in weights.items()}
    found = runtime.integer_sums(rows)
    faults = [
        f"{name} ({products}): {int((sums[name] != exact).sum())} of {exact.size} integer sums are wrong"
        for products, sums in found.items()
        for name, exact in expected.items()
        if (sums[name] != exact).any()
    ]
    digest = hashlib.sha256()
    for _, exact in sorted(expected.items()):
        digest.update(exact.astype("<i4").tobytes())
    return Integers(digest.hexdigest(), list(found), runtime.describe_int8_kernels()), faults


def make_rows(width: int) -> NDArray[np.uint8]:
    """Rows [8, width] that provoke saturation: the largest values, the smallest, both, and random ones."""
    rows = np.full((_ROWS, width), _MIDDLE, np.uint8)
    used = min(width, _USED)
    raw = np.random.Philox(key=_KEY).random_raw(_ROWS * used).reshape(_ROWS, used)
    rows[:, :used] = 1 + raw % 255
    rows[0, :used], rows[1, :used] = 255, 1
    rows[2, :used] = np.where(raw[2] % 2, 255, 1)
    rows[3, :used:2], rows[3, 1:used:2] = 255, 1
    return rows


def sum_exactly(rows: NDArray[np.uint8], kernel: NDArray[np.int8]) -> NDArray[np.int64]:
    """Σ (row − 128) · kernel, [N, inputs] by [outputs, inputs]: [N, outputs]. float64 holds such integers exactly."""
    return ((rows.astype(np.float64) - _MIDDLE) @ kernel.T.astype(np.float64)).astype(np.int64)

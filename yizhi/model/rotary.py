"""Tables of rotary positions, for frameworks without float64: a graph holds them as constants.

A table's name says what it holds. So a reader can compute the table again and compare.
"""

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.model.layer_config import ROFORMER_BASE

# A parameter of transformers' RoFormer [positions, d]: sines, and beside them cosines.
ROFORMER_TABLE = "roformer.encoder.embed_positions.weight"

# Another processor may have rounded the last bit of a number up to 1 the other way.
_LAST_BIT = 2.0**-23
_NAME = re.compile(r"rotary\.(cos|sin)\.(\d+\.\d+)")


def table_names(base: float) -> tuple[str, str]:
    """The names of the tables of cosines and of sines."""
    return f"rotary.cos.{base:.6f}", f"rotary.sin.{base:.6f}"


def is_table_name(name: str) -> bool:
    """Whether a constant has the name of a table."""
    return _NAME.fullmatch(name) is not None


@cache
def make_table(name: str, length: int, pairs: int) -> NDArray[np.float32]:
    """The table of this name, float32 [length, pairs], from float64 angles m · base^(−i / pairs).

    In float32 an angle would be off by 4e-4 at position 8,191. The functions are Python's: their bits depend less on
    the processor than NumPy's. Raises ValueError for a name that is no table's.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name}: names no table of rotary positions")
    turn, base = {"cos": math.cos, "sin": math.sin}[found[1]], float(found[2])
    angles = np.outer(np.arange(length), [base ** (-pair / pairs) for pair in range(pairs)])
    table = np.array([turn(angle) for angle in angles.ravel().tolist()], np.float32).reshape(length, pairs)
    table.flags.writeable = False
    return table


def make_roformer_table(length: int, d: int) -> NDArray[np.float32]:
    """ROFORMER_TABLE, float32 [length, d]."""
    cos, sin = (make_table(name, length, d // 2) for name in table_names(ROFORMER_BASE))
    return np.hstack((sin, cos))


def find_wrong_table(name: str, array: NDArray[Any], told_by: float = _LAST_BIT) -> Iterator[str]:
    """The fault of a constant or a parameter with the name of a rotary table and other numbers.

    told_by: how far a number must be off.
    """
    length = array.shape[0] if array.ndim else 1
    rows = array.astype(np.float64).reshape(length, array.size // max(length, 1))
    expected = make_roformer_table(*rows.shape) if name == ROFORMER_TABLE else make_table(name, *rows.shape)
    if not rows.size or rows.shape != expected.shape or not np.abs(rows - expected).max() <= told_by:  # nor NaN
        yield f"{name}: expected the rotary positions of its name; found other numbers"

"""Tables of rotary positions, for frameworks that compute no float64: a graph holds them as constants.

Their names say what they hold, so that a reader can tell a right table from any other numbers.
"""

import math
import re
from functools import cache

import numpy as np
from numpy.typing import NDArray

_NAME = re.compile(r"rotary\.(cos|sin)\.(\d+\.\d+)")


def table_names(base: float) -> tuple[str, str]:
    """Of the cosines, and of the sines."""
    return f"rotary.cos.{base:.6f}", f"rotary.sin.{base:.6f}"


def is_table_name(name: str) -> bool:
    """Whether a constant says that it is such a table."""
    return _NAME.fullmatch(name) is not None


@cache
def make_table(name: str, length: int, pairs: int) -> NDArray[np.float32]:
    """The table of this name, float32 [length, pairs], of float64 angles m · base^(−i / pairs).

    In float32 an angle is off by 4e-4 at position 8,191. The functions are Python's, whose bits depend less on the
    processor than NumPy's. Raises ValueError for a name that is no table's.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name}: names no table of rotary positions")
    turn, base = {"cos": math.cos, "sin": math.sin}[found[1]], float(found[2])
    angles = np.outer(np.arange(length), [base ** (-pair / pairs) for pair in range(pairs)])
    table = np.array([turn(angle) for angle in angles.ravel().tolist()], np.float32).reshape(length, pairs)
    table.flags.writeable = False
    return table

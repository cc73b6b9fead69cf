"""Pickles of numpy arrays, read by rebuilding arrays and nothing else: no name in the file is ever imported.

A pickle may use the names of a fixed list. Each name gets a function of our own, made anew for each file, so that
nothing in a file can reach, call or change a function of this process.
"""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show

# numpy's name for a dtype of plain numbers, without its byte order.
_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
# What the unpickler raises for a file that is cut short, altered, or something else.
_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
)


def read_arrays(path: Path) -> dict[str, Any]:
    """The dictionary that a pickle holds, its arrays rebuilt. Memory holds all of them: a pickle has no index.

    Raises InputError for a pickle with anything but arrays, and names it; for a damaged one; and for another value
    than a dictionary.
    """
    try:
        with open(path, "rb") as file:
            # Python 2's strings are bytes, which latin1 keeps.
            found = _Arrays(file, encoding="latin1").load()
        if isinstance(found, dict):
            found = {key: value.array() if isinstance(value, _Array) else value for key, value in found.items()}
    except _Refused as refused:
        raise InputError(path, f"asks for {refused}, which is no array; nothing in it was run") from None
    except _DAMAGED as error:
        told = show(str(error).partition("\n")[0])
        raise InputError(path, f"is not a pickle of arrays, or is damaged: {type(error).__name__} {told}") from None
    if not isinstance(found, dict):
        raise InputError(path, f"expected a dictionary of arrays; found {type(found).__name__}")
    return found


class _Refused(Exception):
    """The name of what a pickle asks for and does not get."""


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """A function for each name that arrays are pickled with, by any release of numpy and any protocol."""
        core = module.replace("numpy._core", "numpy.core")
        match core, name:
            case "numpy.core.multiarray", "_reconstruct":
                return lambda *_: _Array()
            case "numpy.core.numeric", "_frombuffer":
                return lambda data, dtype, shape, order: _Array(data, dtype, shape, order == "F")
            case "numpy", "dtype":
                return lambda kind, *_: _Dtype(kind)
            case "numpy", "ndarray":
                return lambda *_: None  # only ever an argument of _reconstruct
            case "collections", "OrderedDict":
                return lambda *items: dict(*items)
            case "_codecs", "encode":
                return lambda text, *_: text.encode("latin1")
        raise _Refused(f"{module}.{name}")


class _Dtype:
    """A dtype of plain numbers. Raises ValueError for any other."""

    def __init__(self, kind: object) -> None:
        if kind not in _NUMBERS:
            raise ValueError(f"expected numbers; found dtype {show(kind)}")
        self.dtype = np.dtype(str(kind))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """numpy's: a version, the byte order, and what plain numbers have not."""
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array as its pickle says it: bytes, dtype, shape."""

    def __init__(
        self, data: object = None, dtype: object = None, shape: object = None, is_fortran: bool = False
    ) -> None:
        self._said = data, dtype, shape, is_fortran

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """numpy's: a version, shape, dtype, order, and the values."""
        _, shape, dtype, is_fortran, data = state
        self._said = data.encode("latin1") if isinstance(data, str) else data, dtype, shape, bool(is_fortran)

    def array(self) -> NDArray[Any]:
        """The array itself. Raises ValueError where the parts do not fit."""
        data, dtype, shape, is_fortran = self._said
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or not isinstance(data, bytes | bytearray):
            raise ValueError("an array lacks its values, its dtype or its shape")
        return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if is_fortran else "C")

"""ForeignWeights: tensors of any format, under canonical names, as `Checkpoint` reads them.

A format gives its tensors and a rule. The rule says where each tensor goes, or each part of a fused one, or why it is
ignored; what it does not know is a fault. `array` reads a tensor when it is called.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError
from yizhi.reading.safetensors_file import ITEM_SIZES, Entry

# Of a tensor that a file holds twice under names that mean the same.
REPEATED = "the same tensor under a second name, with equal values"
# What the change of a part of a fused tensor begins with.
SPLIT = "split: "


@dataclass(frozen=True)
class ForeignTensor:
    """One tensor as its file has it. dtype: safetensors' name. read: its values; BF16 comes as float32.

    release: frees the memory behind the values. bits: of BF16, as uint16; None where there are the values alone.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]
    release: Callable[[], object] = lambda: None
    bits: Callable[[], NDArray[Any]] | None = None


@dataclass(frozen=True)
class Rows:
    """A part of a fused tensor: rows `start` to `stop` of each of `groups` groups, which lie one after the other.

    part: what they are, for the report.
    """

    part: str
    groups: int
    start: int
    stop: int

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The part's shape, from the whole tensor's."""
        return (self.groups * (self.stop - self.start), *shape[1:])

    def take(self, array: NDArray[Any]) -> NDArray[Any]:
        """The part, from the whole tensor."""
        grouped = array.reshape(self.groups, -1, *array.shape[1:])
        return grouped[:, self.start : self.stop].reshape(self.shape(array.shape))


@dataclass(frozen=True)
class Place:
    """A tensor's place, and its changes on the way: split, rows dropped from its top, transposed, multiplied."""

    name: str
    transpose: bool = False
    skip_rows: int = 0
    scale: float = 1.0
    rows: Rows | None = None

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape after these changes."""
        shape = self.rows.shape(shape) if self.rows else shape
        shape = (max(0, shape[0] - self.skip_rows), *shape[1:]) if self.skip_rows and shape else shape
        return shape[::-1] if self.transpose else shape

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """The values after these changes; exact but for `scale`, which rounds to float32 once."""
        array = self.rows.take(array) if self.rows else array
        array = array[self.skip_rows :] if self.skip_rows else array
        array = array.T if self.transpose else array
        return array if self.scale == 1.0 else (array.astype(np.float64) * self.scale).astype(np.float32)

    def changes(self, tensor: ForeignTensor) -> tuple[str, ...]:
        """The names of these changes."""
        changes = {
            "renamed": self.name != tensor.name,
            f"{SPLIT}{self.rows.part if self.rows else ''}": self.rows is not None,
            "transposed": self.transpose,
            "first rows dropped": self.skip_rows > 0,
            "scaled": self.scale != 1.0,
        }
        return tuple(word for word, is_so in changes.items() if is_so)


@dataclass(frozen=True)
class Ignored:
    """The reason why a tensor is left out."""

    reason: str


Rule = Callable[[ForeignTensor], Place | Ignored | None]
# One for fused tensors too: several places are those of its parts.
SplittingRule = Callable[[ForeignTensor], Place | Sequence[Place] | Ignored | None]


class ForeignWeights:
    """Tensors in their places. `ignored` maps the source's names to reasons.

    Raises InputError naming every tensor that the rule does not know, and every two that claim one place
    with different values. close: closes the file.
    """

    def __init__(
        self,
        path: Path,
        tensors: Iterable[ForeignTensor],
        rule: SplittingRule,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self.path = path
        self.close = close
        self.entries: dict[str, Entry] = {}
        self.ignored: dict[str, str] = {}
        self._placed: dict[str, tuple[ForeignTensor, Place]] = {}
        faults = [fault for tensor in tensors for fault in self._put_all(tensor, rule(tensor))]
        if faults and not self.entries:
            faults = [f"none of its {len(faults)} tensors has a known name; the first: {faults[0]}"]
        if faults:
            close()
            raise InputError(path, faults)

    def origin(self, name: str) -> tuple[ForeignTensor, Place]:
        """The tensor behind a canonical name, and its place with the changes."""
        return self._placed[name]

    def array(self, name: str) -> NDArray[Any]:
        """The tensor in its stored dtype (BF16 as float32), in its place and orientation."""
        tensor, place = self._placed[name]
        return place.apply(tensor.read())

    def stored(self, name: str) -> NDArray[Any]:
        """The tensor as `array` has it; BF16 as its bits, which are uint16."""
        tensor, place = self._placed[name]
        if self.entries[name].dtype != "BF16":
            return self.array(name)
        if tensor.bits is not None:
            return place.apply(tensor.bits())
        return (np.ascontiguousarray(self.array(name)).view(np.uint32) >> 16).astype(np.uint16)

    def chunks(self, name: str) -> Iterator[memoryview]:
        """The tensor's bytes in row-major order."""
        yield np.ascontiguousarray(self.stored(name)).reshape(-1).view(np.uint8).data
        self.release(name)

    def release(self, name: str) -> None:
        """Free the memory behind `array(name)`."""
        self._placed[name][0].release()

    def _put_all(self, tensor: ForeignTensor, found: Place | Sequence[Place] | Ignored | None) -> list[str]:
        """Note where a tensor, or each of its parts, goes; the faults."""
        places = found if isinstance(found, Sequence) else [found]
        return [fault for place in places if (fault := self._put(tensor, place))]

    def _put(self, tensor: ForeignTensor, found: Place | Ignored | None) -> str | None:
        """Note where a tensor goes; the fault, if it has no place."""
        if found is None:
            return f"{tensor.name} {list(tensor.shape)}: not a known name"
        if isinstance(found, Ignored):
            self.ignored[tensor.name] = found.reason
            return None
        if found.name in self._placed:
            other, place = self._placed[found.name]
            if not np.array_equal(found.apply(tensor.read()), place.apply(other.read()), equal_nan=True):
                return f"{tensor.name}: differs from {other.name}, which is {found.name} too"
            self.ignored[tensor.name] = REPEATED
            return None
        shape, dtype = found.shape(tensor.shape), tensor.dtype
        if found.scale != 1.0 and dtype in ("F16", "BF16"):
            dtype = "F32"  # what `Place.apply` gives
        self._placed[found.name] = tensor, found
        self.entries[found.name] = Entry(found.name, dtype, shape, 0, math.prod(shape) * ITEM_SIZES.get(dtype, 0))
        return None


def keep_name(tensor: ForeignTensor) -> Place:
    """The rule for names that are canonical, or that `Checkpoint` knows as older or shorter forms of such."""
    return Place(tensor.name)


def need(module: str, subject: object) -> None:
    """Raise InputError, naming the extra to install, where an optional package is missing."""
    with suppress(ImportError):
        __import__(module)
        return
    raise InputError(subject, f"needs {module}: pip install 'yizhi[import]'")

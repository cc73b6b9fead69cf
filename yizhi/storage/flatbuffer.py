"""Tables of a flatbuffer, field by field, without a schema (https://flatbuffers.dev/internals).

Offsets are checked: an offset that leads out of the data, or back, raises ValueError.
"""

import struct
from collections.abc import Iterator
from mmap import mmap


class Table:
    """One table: a number for each field that it has, and the place of the field's value."""

    def __init__(self, data: bytes | mmap, position: int) -> None:
        """`position` is where the table begins. Raises ValueError for a position without a table."""
        self._data = data
        self._position = position
        self._fields = position - _read(data, "<i", position)  # the vtable
        self._count = max(0, (_read(data, "<H", self._fields) - 4) // 2)

    @classmethod
    def root(cls, data: bytes | mmap, identifier: bytes) -> "Table":
        """The file's root table. Raises ValueError for a file of another kind."""
        if data[4:8] != identifier:
            raise ValueError(f"expected the identifier {identifier!r}; found {data[4:8]!r}")
        return cls(data, _read(data, "<I", 0))

    def __contains__(self, field: int) -> bool:
        return self._place(field) is not None

    def number(self, field: int, layout: str, default: int = 0) -> int:
        """An integer field; layout: its `struct` format."""
        place = self._place(field)
        return default if place is None else _read(self._data, f"<{layout}", place)

    def table(self, field: int) -> "Table | None":
        """A field that is another table."""
        place = self._place(field)
        return None if place is None else Table(self._data, self._follow(place))

    def vector(self, field: int, size: int) -> tuple[int, int]:
        """Where a vector's elements, of `size` bytes each, begin, and their number; (0, 0) without the field."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = self._follow(place)
        count = _read(self._data, "<I", start)
        if start + 4 + count * size > len(self._data):
            raise ValueError(f"a vector of {count} at byte {start} ends after the file")
        return start + 4, count

    def numbers(self, field: int, layout: str) -> tuple[int, ...]:
        """A vector of integers; layout: the `struct` format of each."""
        start, count = self.vector(field, struct.calcsize(layout))
        return struct.unpack_from(f"<{count}{layout}", self._data, start)

    def tables(self, field: int) -> Iterator["Table"]:
        """A vector of tables."""
        start, count = self.vector(field, 4)
        for place in range(start, start + 4 * count, 4):
            yield Table(self._data, self._follow(place))

    def text(self, field: int) -> str:
        """A text. Empty without the field."""
        start, count = self.vector(field, 1)
        return self._data[start : start + count].decode()

    def _place(self, field: int) -> int | None:
        if field >= self._count:
            return None
        offset = _read(self._data, "<H", self._fields + 4 + 2 * field)
        return self._position + offset if offset else None

    def _follow(self, place: int) -> int:
        return place + _read(self._data, "<I", place)


def _read(data: bytes | mmap, layout: str, place: int) -> int:
    if not 0 <= place <= len(data) - struct.calcsize(layout):
        raise ValueError(f"an offset leads to byte {place} of {len(data)}")
    return int(struct.unpack_from(layout, data, place)[0])

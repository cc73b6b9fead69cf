"""One file of weights that several graphs share: tensors one after the other, and where each lies."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

# ONNX Runtime maps tensors into memory, and a mapping begins at a page. Small ones need not: padding
# every bias to a page would cost a small int8 model a tenth of its size.
_PAGE = 4096
_CACHE_LINE = 64


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's data type (a number of `onnx.TensorProto`, or OpenVINO's name), shape, and place in the file."""

    dtype: Any
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class WeightFile:
    """Streams tensors into the weight file; `stored` says where each one went."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.stored: dict[str, StoredTensor] = {}

    def add(self, name: str, dtype: Any, shape: tuple[int, ...], chunks: Iterable[bytes | memoryview]) -> None:
        """Append a tensor's row-major bytes. One that fills a page begins at a page."""
        chunks = iter(chunks)
        first = memoryview(next(chunks))
        alignment = _PAGE if first.nbytes >= _PAGE else _CACHE_LINE
        offset = -(-self._file.tell() // alignment) * alignment
        self._file.write(bytes(offset - self._file.tell()))
        self._file.write(first)
        for chunk in chunks:
            self._file.write(chunk)
        self.stored[name] = StoredTensor(dtype, shape, offset, self._file.tell() - offset)

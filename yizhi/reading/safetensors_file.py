"""Reading and writing safetensors without copying: a strict header parser and a streaming writer.

Format: 8 bytes of little-endian header length, a JSON header, then the data
(https://github.com/huggingface/safetensors#format). The reader trusts nothing it reads.
"""

import json
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show

MAX_HEADER_BYTES = 100_000_000  # the limit that the safetensors library sets
MAX_RANK = 32  # what every NumPy can hold; it also bounds the product of a lying shape
ITEM_SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
NUMPY_TYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}
SAFETENSORS_TYPES = {np.dtype(numpy_type): name for name, numpy_type in NUMPY_TYPES.items()}
_CHUNK = 1 << 22
_BLOCK = 1 << 22  # numbers


@dataclass(frozen=True)
class Entry:
    """One tensor in a file: safetensors dtype name, shape, and its bytes' offset and length."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class SafetensorsFile:
    """A memory-mapped safetensors file whose header was checked against its length.

    Raises InputError, listing every fault, when header and file do not agree.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - kept open for chunks(), closed in close()
        except FileNotFoundError:
            raise InputError(path, "the file is missing") from None
        except OSError as error:
            raise InputError(path, f"cannot be read: {error.strerror}") from None
        try:
            self.entries, self.metadata = _read_header(path, self._file)
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except BaseException:
            self._file.close()
            raise

    def array(self, name: str) -> np.ndarray:
        """The tensor, in its stored dtype, without a copy; BF16 comes as a float32 copy."""
        stored = self.stored(name)
        return widen(stored) if self.entries[name].dtype == "BF16" else stored

    def stored(self, name: str) -> np.ndarray:
        """The tensor as it is stored, without a copy; BF16 as its bits, which are uint16."""
        entry = self.entries[name]
        kind = np.uint16 if entry.dtype == "BF16" else NUMPY_TYPES[entry.dtype]
        mapped: np.ndarray = np.frombuffer(self._map, kind, math.prod(entry.shape), entry.offset)
        return mapped.reshape(entry.shape)

    def chunks(self, name: str) -> Iterator[memoryview]:
        """The tensor's bytes, piece by piece; a piece is valid until the next one, which replaces it.

        Raises InputError if the file was shortened: to read it as mapped memory would kill the process.
        """
        entry = self.entries[name]
        position, end = entry.offset, entry.offset + entry.nbytes
        # One buffer, since a new one for each piece costs more than the reading.
        buffer = memoryview(bytearray(min(entry.nbytes, _CHUNK)))
        while position < end:
            # preadv keeps no position of its own, so threads may read one file side by side.
            length = os.preadv(self._file.fileno(), [buffer[: end - position]], position)
            if not length:
                raise InputError(self.path, f"{name}: the file was shortened while it was read")
            position += length
            yield buffer[:length]

    def release(self, name: str) -> None:
        """Tell the kernel that this tensor's pages are not needed any more."""
        entry = self.entries[name]
        start = -(-entry.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (entry.offset + entry.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
        if length > 0:
            self._map.madvise(mmap.MADV_DONTNEED, start, length)

    def close(self) -> None:
        """Close the file. The mapping lives on while an array still views it."""
        self._file.close()
        with suppress(BufferError):
            self._map.close()


def widen(stored: np.ndarray) -> NDArray[np.float32]:
    """A stored tensor as float32, exactly. uint16 are the bits of bfloat16: the upper half of float32's."""
    if stored.dtype != np.uint16:
        return stored.astype(np.float32, copy=False)
    bits = stored.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def cut(stored: np.ndarray, axis: int = 0) -> Iterator[np.ndarray]:
    """Views of a tensor's parts, cut along an axis, one after the other: each is 16 MiB as float32, or one slice."""
    if not stored.ndim:
        yield stored
        return
    slices = np.moveaxis(stored, axis, 0)
    step = max(1, _BLOCK * len(slices) // max(1, stored.size))
    for start in range(0, len(slices), step):
        yield np.moveaxis(slices[start : start + step], 0, axis)


# How the text file begins that Git LFS leaves where the large file was not fetched.
_LFS_POINTER = b"version https://git-lfs"


def _read_header(path: Path, file: BinaryIO) -> tuple[dict[str, Entry], dict[str, str]]:
    size = file.seek(0, 2)
    file.seek(0)
    if size < 8:
        raise InputError(path, f"truncated: expected an 8-byte header length; found {size} bytes")
    begin = file.read(8)
    if begin == _LFS_POINTER[:8]:
        raise InputError(
            path,
            "is a Git LFS pointer, not the weights: `git lfs pull` in its repository fetches the file it stands for",
        )
    (length,) = struct.unpack("<Q", begin)
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise InputError(path, f"truncated or not safetensors: header says {length} bytes; {size - 8} follow")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"the header is not valid JSON: {error}") from None
    if not isinstance(header, dict):
        raise InputError(path, f"the header is not a JSON object: found {type(header).__name__}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError(path, "__metadata__: expected an object of strings")

    start = 8 + length
    faults: list[str] = []
    entries: dict[str, Entry] = {}
    for name, description in header.items():
        entry = _parse_entry(name, description, start, size, faults)
        if entry:
            entries[name] = entry
    if not faults:
        faults += _find_gaps(entries, start, size)
    if faults:
        raise InputError(path, faults)
    return entries, metadata


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{show(twice)} appears twice")
    return result


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _parse_entry(name: str, description: object, start: int, size: int, faults: list[str]) -> Entry | None:
    if not isinstance(description, dict):
        faults.append(f"{name}: expected an object; found {type(description).__name__}")
        return None
    dtype, shape, offsets = (description.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        faults.append(f"{name}: dtype: found {show(dtype)}; known: {', '.join(ITEM_SIZES)}")
        return None
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(_is_size(item) for item in shape):
        faults.append(f"{name}: shape: expected at most {MAX_RANK} sizes; found {show(shape)}")
        return None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(item) for item in offsets):
        faults.append(f"{name}: data_offsets: expected [begin, end]; found {show(offsets)}")
        return None
    begin, end = offsets
    expected = math.prod(shape) * ITEM_SIZES[dtype]
    if end - begin != expected:
        faults.append(f"{name}: {dtype} {show(shape)} takes {show(expected)} bytes; data_offsets give {end - begin}")
        return None
    if start + end > size:
        faults.append(f"{name}: truncated: ends at byte {start + end}; the file has {size}")
        return None
    return Entry(name, dtype, tuple(shape), start + begin, expected)


def _find_gaps(entries: dict[str, Entry], start: int, size: int) -> list[str]:
    faults = []
    position = start
    for entry in sorted(entries.values(), key=lambda entry: (entry.offset, entry.nbytes)):
        if entry.offset < position:
            faults.append(f"{entry.name}: overlaps the tensor before it by {position - entry.offset} bytes")
        elif entry.offset > position:
            faults.append(f"{entry.name}: {entry.offset - position} bytes before it belong to no tensor")
        position = entry.offset + entry.nbytes
    if position < size:
        faults.append(f"{size - position} bytes at the end belong to no tensor")
    return faults


def write_safetensors(
    file: BinaryIO, tensors: dict[str, tuple[str, tuple[int, ...]]], chunks: Iterable[bytes | memoryview]
) -> None:
    """Write a file from `name -> (dtype, shape)` and the data of all tensors, in that order.

    The file says `format: pt`, which transformers requires.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape) in tensors.items():
        end = position + math.prod(shape) * ITEM_SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for chunk in chunks:
        file.write(chunk)

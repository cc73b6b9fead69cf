"""Reading TensorFlow's tensor bundles, the files behind TF1 checkpoints and SavedModel variables, without TensorFlow.

`PREFIX.index` is a LevelDB table (github.com/google/leveldb, doc/table_format.md) of protocol-buffer messages, one
per tensor; `PREFIX.data-0000i-of-0000n` hold their bytes (tensorflow/core/protobuf/tensor_bundle.proto). Every block
and every tensor carries a CRC32C, and every one is checked. The reader checks every field.
"""

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.reading.importers.crc32c import crc32c, masked, unmasked
from yizhi.reading.safetensors_file import ITEM_SIZES, MAX_RANK, NUMPY_TYPES
from yizhi.storage.protobuf import fields_of, integer, message_of, varint

MAX_INDEX_BYTES = 1 << 28
_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
# tensorflow/core/framework/types.proto, under safetensors' names.
_DTYPES = {1: "F32", 2: "F64", 3: "I32", 4: "U8", 5: "I16", 6: "I8", 9: "I64", 10: "BOOL", 14: "BF16", 19: "F16"}


@dataclass(frozen=True)
class BundleEntry:
    """The entry of one tensor in the index. dtype: safetensors' name, or `DT_n` for a type that it does not have.

    crc32c: of the tensor's bytes, unmasked. sliced: stored in pieces, each an entry of its own.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    nbytes: int
    crc32c: int
    sliced: bool


def read_index(path: Path) -> tuple[dict[str, BundleEntry], int]:
    """Every tensor in an `.index` file, and how many data files there are. Raises InputError."""
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise InputError(path, f"is no index: expected at most {MAX_INDEX_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    try:
        items = dict(_read_table(data))
        header = fields_of(items.pop(b"", b""))
        shards, big_endian = integer(header, 1), integer(header, 2)
        if not 0 < shards <= 99999 or big_endian:
            raise ValueError(f"its header is not understood: {shards} data files, endianness {big_endian}")
        entries = [_parse_entry(key.decode(), value) for key, value in items.items()]
    except (ValueError, IndexError, struct.error) as error:
        raise InputError(path, f"is not a TensorFlow checkpoint index, or is damaged: {error}") from None
    return {entry.name: entry for entry in entries}, shards


class TensorBundle:
    """A bundle whose index was checked against the sizes of its data files, `paths`, which are memory-mapped.

    Raises InputError, listing every missing or shortened data file.
    """

    def __init__(self, index: Path) -> None:
        self.path = index
        self.entries, shards = read_index(index)
        prefix = index.name.removesuffix(".index")
        self.paths = [index.with_name(f"{prefix}.data-{number:05d}-of-{shards:05d}") for number in range(shards)]
        missing = [path.name for path in self.paths if not path.is_file()]
        faults = [f"{name}: the data file is missing, and the index alone holds no weights" for name in missing]
        if faults:
            raise InputError(index, faults)
        sizes = [path.stat().st_size for path in self.paths]
        for entry in self.entries.values():
            if entry.shard >= shards:
                faults.append(f"{entry.name}: expected one of {shards} data files; found number {entry.shard}")
            elif entry.offset + entry.nbytes > sizes[entry.shard]:
                end = entry.offset + entry.nbytes
                faults.append(
                    f"{entry.name}: ends at byte {end}; {self.paths[entry.shard].name} has {sizes[entry.shard]}"
                )
        if faults:
            raise InputError(index, faults)
        self._maps = [_map(path) for path in self.paths]

    def read(self, name: str) -> NDArray[Any]:
        """A tensor in its stored dtype, BF16 widened to float32. Raises InputError where its checksum is wrong."""
        entry = self.entries[name]
        if entry.dtype not in ITEM_SIZES or entry.sliced:
            raise InputError(self.path, f"{name}: cannot be read: dtype {entry.dtype}, in slices: {entry.sliced}")
        data = memoryview(self._maps[entry.shard])[entry.offset : entry.offset + entry.nbytes]
        found = crc32c(data)
        if found != entry.crc32c:
            raise InputError(self.path, f"{name}: expected CRC32C {entry.crc32c:08x}; found {found:08x}: damaged data")
        if entry.dtype == "BF16":
            upper = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
            return upper.view(np.float32).reshape(entry.shape)
        return np.frombuffer(data, NUMPY_TYPES[entry.dtype]).reshape(entry.shape)

    def close(self) -> None:
        """Close the data files. A mapping lives on while an array still views it."""
        for mapping in self._maps:
            if isinstance(mapping, mmap.mmap):
                with suppress(BufferError):
                    mapping.close()


def _map(path: Path) -> mmap.mmap | bytes:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def _read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every key and value of a LevelDB table, in order."""
    if len(data) < _FOOTER_BYTES or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise ValueError("it does not end as a table does")
    footer = data[-_FOOTER_BYTES:]
    _, _, position = _handle(footer, 0)  # of the block of filters, which TensorFlow leaves empty
    offset, size, _ = _handle(footer, position)
    for _, handle in _read_block(data, offset, size):
        yield from _read_block(data, *_handle(handle, 0)[:2])


def _handle(data: bytes, position: int) -> tuple[int, int, int]:
    offset, position = varint(data, position)
    size, position = varint(data, position)
    return offset, size, position


def _read_block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """A block's entries; each key gives only what differs from the key before it."""
    contents, trailer = data[offset : offset + size], data[offset + size : offset + size + 5]
    if len(trailer) != 5:
        raise ValueError(f"a block ends at byte {offset + size + 5}; the file has {len(data)}")
    compression, stored = trailer[0], struct.unpack("<I", trailer[1:])[0]
    if masked(crc32c(contents + trailer[:1])) != stored:
        raise ValueError(f"the checksum of the block at byte {offset} is wrong")
    if compression:
        raise ValueError("it is compressed, which TensorFlow's own are not")
    (restarts,) = struct.unpack("<I", contents[-4:])
    end = size - 4 - 4 * restarts
    if end < 0:
        raise ValueError(f"the block at byte {offset} is shorter than its list of restarts")
    position, key = 0, b""
    while position < end:
        shared, position = varint(contents, position)
        unshared, position = varint(contents, position)
        length, position = varint(contents, position)
        if shared > len(key) or position + unshared + length > end:
            raise ValueError(f"an entry of the block at byte {offset} overruns it")
        key = key[:shared] + contents[position : position + unshared]
        position += unshared
        yield key, contents[position : position + length]
        position += length


def _parse_entry(name: str, message: bytes) -> BundleEntry:
    """A BundleEntryProto."""
    fields = fields_of(message)
    dtype = _DTYPES.get(integer(fields, 1), f"DT_{integer(fields, 1)}")
    shape = []
    for proto in fields.get(2, ()):  # TensorShapeProto
        for dimension in fields_of(message_of(proto)).get(2, ()):
            shape.append(integer(fields_of(message_of(dimension)), 1))
    entry = BundleEntry(
        name=name,
        dtype=dtype,
        shape=tuple(shape),
        shard=integer(fields, 3),
        offset=integer(fields, 4),
        nbytes=integer(fields, 5),
        crc32c=unmasked(integer(fields, 6)),
        sliced=7 in fields,
    )
    if len(shape) > MAX_RANK or min((*shape, entry.shard, entry.offset, entry.nbytes)) < 0:
        raise ValueError(f"{name}: impossible shape {show(entry.shape)} or place")
    expected = math.prod(shape) * ITEM_SIZES.get(dtype, 0)
    if dtype in ITEM_SIZES and not entry.sliced and entry.nbytes != expected:
        raise ValueError(f"{name}: {dtype} {show(entry.shape)} takes {show(expected)} bytes; found {entry.nbytes}")
    return entry

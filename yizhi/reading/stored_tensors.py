"""Where an artifact's files hold each tensor: canonical name, shape and bytes, found without any framework.

One reader for each target (`yizhi.converters.targets`). A reader checks every field, and reads the files that a runtime
loads. ONNX's reader reads every graph, because each graph has its own places of tensors.
"""

import math
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.model.layout import FLAX_ARRAY, FLAX_CHUNKED, FLAX_TYPES, FLAX_WEIGHTS
from yizhi.model.rotary import ROFORMER_TABLE, find_wrong_table
from yizhi.reading.importers import flax_msgpack, tf_checkpoint
from yizhi.reading.importers.foreign import ForeignTensor, Ignored, Place, Rule
from yizhi.reading.importers.tensor_bundle import TensorBundle
from yizhi.reading.safetensors_file import ITEM_SIZES, MAX_RANK, NUMPY_TYPES, SafetensorsFile, widen
from yizhi.reading.sentence_dense import dense_name, find_dense_weights
from yizhi.reading.weight_files import POOLER, TOKEN_HEADS, WEIGHTS
from yizhi.storage.protobuf import Fields, fields_of, integer, message_of, varint

_CHUNK = 1 << 22
# onnx.proto3's fields: of a model, a graph, a tensor, and an entry of its `external_data`.
_GRAPH, _FUNCTIONS = 7, 25
_NODES, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15
# Of a node: tensors and graphs, one or several, dense or sparse; and lists of numbers or texts.
_ATTRIBUTES, _OWN_TENSORS, _LISTS = 5, (5, 6, 10, 11, 22, 23), (7, 8, 9)
_LONGEST_LIST = 64  # bytes
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 9, 13, 14
_TYPED_DATA = (4, 5, 7, 10, 11)
_KEY, _VALUE = 1, 2
_EXTERNAL = 1
# Numbers that a graph may keep itself, unless all are the same, as zero points are: epsilon, axes, shapes, channels.
MOST_OF_ITS_OWN = 8
_ONNX_TYPES = {1: "F32", 2: "U8", 3: "I8", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64", 16: "BF16"}


@dataclass(frozen=True)
class TensorPlace:
    """A tensor's bytes, row-major and little-endian, in one or more spans (offset, length) of a file.

    name: the canonical one. dtype: safetensors' name. shape: as stored. transposed: whether the file has the canonical
    tensor transposed. file: the one that says where the bytes are.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    spans: tuple[tuple[int, int], ...]
    file: str
    transposed: bool = False

    def chunks(self) -> Iterator[memoryview]:
        """The bytes in pieces, each valid until the next one. Raises InputError for a shortened file."""
        buffer = memoryview(bytearray(_CHUNK))
        try:
            with open(self.path, "rb") as file:
                for position, length in self.spans:
                    end = position + length
                    while position < end:
                        count = os.preadv(file.fileno(), [buffer[: end - position]], position)
                        if not count:
                            raise InputError(self.path, f"{self.name}: ends at byte {end}; the file ends before")
                        position += count
                        yield buffer[:count]
        except OSError as error:
            raise InputError(self.path, f"cannot be read: {error.strerror}") from None

    def float32_chunks(self) -> Iterator[bytes | memoryview]:
        """The bytes as float32: those of BF16 twice as many, others as they are. Raises InputError as `chunks` does."""
        if self.dtype != "BF16":
            yield from self.chunks()
            return
        half = b""  # of a number, which a short read may cut
        for chunk in self.chunks():
            data = half + bytes(chunk) if half else chunk
            whole = len(data) - len(data) % 2
            half = bytes(data[whole:])
            yield widen(np.frombuffer(data[:whole], np.uint16)).view(np.uint8).data

    def array(self) -> NDArray[Any]:
        """The canonical tensor, mapped into memory where it is in one piece; BF16 as a float32 copy."""
        if self.dtype == "BF16":
            return widen(replace(self, dtype="U16").array())
        kind = NUMPY_TYPES[self.dtype]
        if len(self.spans) == 1 and self.spans[0][1]:
            array: NDArray[Any] = np.memmap(self.path, kind, "r", self.spans[0][0], self.shape)
        else:
            array = np.frombuffer(b"".join(map(bytes, self.chunks())), kind).reshape(self.shape)
        return array.T if self.transposed else array


def read_pytorch(folder: Path) -> list[TensorPlace]:
    """The tensors of `model.safetensors`, and of the files beside it that transformers' classes do not read.

    RoFormer's table of positions is left out: it is a constant. Raises InputError, also if that table has other
    numbers.
    """
    beside = [name for name in (POOLER, TOKEN_HEADS) if (folder / name).exists()]
    places = [place for name in (WEIGHTS, *beside) for place in _read_safetensors(folder, name)]
    tables = [place for place in places if place.name == ROFORMER_TABLE]
    faults = [fault for place in tables for fault in find_wrong_table(place.name, place.array())]
    if faults:
        raise InputError(folder / WEIGHTS, faults)
    return [place for place in places if place not in tables]


def read_dense(folder: Path) -> list[TensorPlace]:
    """The tensors of sentence-transformers' Dense modules beside any target's files, under canonical names.

    Raises InputError.
    """
    return [
        replace(place, name=f"{dense_name(number)}.{place.name}")
        for number, path in enumerate(find_dense_weights(folder))
        for place in _read_safetensors(folder, path.relative_to(folder).as_posix())
    ]


def _read_safetensors(folder: Path, name: str) -> list[TensorPlace]:
    path = folder / name
    file = SafetensorsFile(path)
    file.close()
    kind = file.metadata.get("format", "pt")
    if kind != "pt":
        raise InputError(path, f"format: expected 'pt'; found {show(kind)}: loaders would read the tensors differently")
    return [
        TensorPlace(entry.name, entry.dtype, entry.shape, path, ((entry.offset, entry.nbytes),), name)
        for entry in file.entries.values()
    ]


def read_tensorflow(folder: Path) -> list[TensorPlace]:
    """The tensors of a SavedModel's variables. Raises InputError."""
    bundle = TensorBundle(folder / "variables" / "variables.index")
    bundle.close()
    found, faults = [], []
    for entry in bundle.entries.values():
        place = _place(tf_checkpoint.place_object_name, entry.name, entry.dtype, entry.shape)
        if place is None:
            continue
        if entry.sliced:
            faults.append(f"{entry.name}: is stored in slices")
        path, span = bundle.paths[entry.shard], (entry.offset, entry.nbytes)
        found.append(TensorPlace(place.name, entry.dtype, entry.shape, path, (span,), path.name, place.transpose))
    if faults:
        raise InputError(bundle.path, faults)
    return found


def read_flax(folder: Path) -> list[TensorPlace]:
    """The tensors of the msgpack tree. Raises InputError."""
    path = folder / FLAX_WEIGHTS
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            parser = _Msgpack(data)
            leaves = list(_walk_flax(parser, ""))
            if parser.position != len(data):
                raise ValueError(f"{len(data) - parser.position} bytes follow the tree")
    except (ValueError, IndexError, struct.error, UnicodeDecodeError, RecursionError) as error:
        raise InputError(path, f"is not a Flax parameter tree, or is damaged: {error}") from None
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    found = []
    for name, dtype, shape, spans in leaves:
        place = _place(flax_msgpack.place_name, name, dtype, shape) or Place(name)
        found.append(TensorPlace(place.name, dtype, shape, path, spans, path.name, place.transpose))
    return found


def read_onnx(folder: Path) -> list[TensorPlace]:
    """The initializers that each graph takes from a file: a tensor once for each graph.

    Raises InputError for a file that is no graph, and for a graph with tensors of its own: no digest covers them.
    """
    found, faults = [], []
    # Graphs share most of their messages.
    locate, check, file = cache(_locate), cache(_find_own_numbers), cache(folder.joinpath)
    for path in sorted(folder.glob("*.onnx")):
        try:
            model = fields_of(path.read_bytes())
            graph = _one(model, _GRAPH)
            tensors = [locate(message) for message in _repeated(graph, _INITIALIZER)]
            own = [tensor for tensor in tensors if isinstance(tensor, str)]
            own += [fault for node in _repeated(graph, _NODES) if (fault := check(node))]
            if _FUNCTIONS in model or _SPARSE_INITIALIZER in graph or len(model.get(_GRAPH, ())) != 1:
                own.append("has functions, sparse tensors, or not one graph")
            faults += [f"{path.name}: {fault}" for fault in own]
            places = [tensor for tensor in tensors if isinstance(tensor, tuple)]
            if not places:
                raise ValueError("it takes no tensor from a file")
            found += [
                TensorPlace(name, dtype, shape, file(location), (span,), path.name)
                for name, dtype, shape, location, span in places
            ]
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            faults.append(f"{path.name}: is not an ONNX graph, or is damaged: {error}")
    if not found and not faults:
        faults.append("expected ONNX graphs over a file of weights; found none")
    if faults:
        raise InputError(folder, faults)
    return found


def _locate(message: bytes) -> "_External | str | None":
    """An initializer's place in a file. None for the few numbers that every graph has, and a fault for more of them."""
    tensor = fields_of(message)
    if integer(tensor, _DATA_LOCATION) == _EXTERNAL:
        return _external(tensor)
    if _is_plain(tensor):
        return None
    return f"{_text(tensor, _NAME)}: holds {math.prod(_dims(tensor))} numbers of the graph's own"


def _find_own_numbers(message: bytes) -> str | None:
    """What is wrong with a node that holds more than settings."""
    node = fields_of(message)
    for attribute in map(fields_of, _repeated(node, _ATTRIBUTES)):
        values = [value for number in _LISTS for value in attribute.get(number, ())]
        size = sum(len(value) if isinstance(value, bytes) else 4 for value in values)
        if size > _LONGEST_LIST or any(number in attribute for number in _OWN_TENSORS):
            return f"{_text(node, 3)}: a node with numbers, a tensor or a graph of its own"
    return None


def _is_plain(tensor: Fields) -> bool:
    """Whether a constant has few numbers, or one number many times."""
    count = math.prod(_dims(tensor))
    if count <= MOST_OF_ITS_OWN:
        return True
    values = [value for number in _TYPED_DATA for value in tensor.get(number, ())]
    raw = b"".join(value for value in (*values, *tensor.get(_RAW_DATA, ())) if isinstance(value, bytes))
    numbers = {value for value in values if isinstance(value, int)}
    width = len(raw) // count
    if raw and not width:  # several numbers in a byte
        return False
    return len(numbers) + len({raw[start : start + width] for start in range(0, len(raw), max(width, 1))}) <= 1


# Name, dtype, shape, file, and the offset and length in it.
_External = tuple[str, str, tuple[int, ...], str, tuple[int, int]]


def _external(tensor: Fields) -> _External:
    """Raises ValueError where it does not say where its values are, or says that they are in another folder."""
    name = _text(tensor, _NAME)
    places = [fields_of(message) for message in _repeated(tensor, _EXTERNAL_DATA)]
    place = {_text(entry, _KEY): _text(entry, _VALUE) for entry in places}
    location = place.get("location", "")
    numbers = {key: place.get(key, "") for key in ("offset", "length")}
    if not location or "/" in location or not all(number.isdecimal() for number in numbers.values()):
        raise ValueError(f"{name}: expected a file in this folder, an offset and a length; found {show(place)}")
    shape = tuple(_dims(tensor))
    dtype = _ONNX_TYPES.get(integer(tensor, _DATA_TYPE), f"type {integer(tensor, _DATA_TYPE)}")
    span = int(numbers["offset"]), int(numbers["length"])
    if min((*shape, 0)) < 0 or len(shape) > MAX_RANK or span[1] != math.prod(shape) * ITEM_SIZES.get(dtype, 0):
        raise ValueError(f"{name}: {dtype} {show(shape)} does not take {span[1]} bytes")
    return name, dtype, shape, location, span


def _dims(tensor: Fields) -> Iterator[int]:
    for value in tensor.get(_DIMS, ()):  # one by one, or packed
        if isinstance(value, int):
            yield value
            continue
        position = 0
        while position < len(value):
            size, position = varint(value, position)
            yield size


def _one(fields: Fields, number: int) -> Fields:
    return fields_of(message_of(fields.get(number, [b""])[-1]))


def _repeated(fields: Fields, number: int) -> list[bytes]:
    return [message_of(value) for value in fields.get(number, ())]


def _text(fields: Fields, number: int) -> str:
    return message_of(fields.get(number, [b""])[-1]).decode()


def _place(rule: Rule, name: str, dtype: str, shape: tuple[int, ...]) -> Place | None:
    """Where an importer's rule puts a tensor; what the rule does not know keeps its name. None: it is no tensor."""

    def unread() -> NDArray[Any]:
        raise NotImplementedError

    place = rule(ForeignTensor(name, dtype, shape, unread))
    return None if isinstance(place, Ignored) else place or Place(name)


Leaf = tuple[str, str, tuple[int, ...], tuple[tuple[int, int], ...]]


def _walk_flax(parser: "_Msgpack", prefix: str) -> Iterator[Leaf]:
    """Every array of a map, by the path that leads to it, nothing of its values read. Raises ValueError."""
    for key in _keys(parser):
        name = f"{prefix}{key}"
        if parser.is_extension():
            dtype, shape, span = parser.array()
            yield name, dtype, shape, (span,)
        elif parser.peek_key() == FLAX_CHUNKED:
            yield (name, *_chunked(parser))
        else:
            yield from _walk_flax(parser, f"{name}/")


def _keys(parser: "_Msgpack") -> Iterator[str]:
    seen = set()
    for _ in range(parser.map()):
        key = parser.text()
        if key in seen:
            raise ValueError(f"{key!r} stands twice")
        seen.add(key)
        yield key


def _chunked(parser: "_Msgpack") -> tuple[str, tuple[int, ...], tuple[tuple[int, int], ...]]:
    """An array in flat pieces: {mark: true, shape: {axis: size}, chunks: {number: array}}."""
    shape: tuple[int, ...] = ()
    pieces: list[tuple[str, tuple[int, int]]] = []
    for key in _keys(parser):
        if key == "shape":
            shape = tuple(parser.integer() for _ in _keys(parser))
        elif key == "chunks":
            for number, chunk in enumerate(_keys(parser)):
                if chunk != str(number):
                    raise ValueError(f"expected piece {number}; found {chunk!r}")
                dtype, _, span = parser.array()
                pieces.append((dtype, span))
        else:
            parser.true()
    dtypes, spans = {dtype for dtype, _ in pieces}, tuple(span for _, span in pieces)
    if len(dtypes) != 1:
        raise ValueError(f"an array in pieces of {show(sorted(dtypes))}")
    dtype = dtypes.pop()
    if sum(length for _, length in spans) != math.prod(shape) * ITEM_SIZES[dtype]:
        raise ValueError(f"the pieces of {dtype} {show(shape)} have another size")
    return dtype, shape, spans


class _Msgpack:
    """The part of msgpack that Flax writes (github.com/msgpack/msgpack/blob/master/spec.md), an object at a time."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data = data
        self.position = 0

    def map(self) -> int:
        return self._length({0xDE: ">H", 0xDF: ">I"}, fix=(0x80, 0x8F))

    def text(self) -> str:
        return self._bytes(self._length({0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}, fix=(0xA0, 0xBF))).decode()

    def integer(self) -> int:
        return self._length({0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}, fix=(0x00, 0x7F))

    def true(self) -> None:
        if self._bytes(1) != b"\xc3":
            raise ValueError("expected true")

    def is_extension(self) -> bool:
        return 0xC7 <= self._data[self.position] <= 0xC9

    def peek_key(self) -> str | None:
        """The first key of the map that comes next."""
        start = self.position
        try:
            return self.text() if self.map() else None
        finally:
            self.position = start

    def array(self) -> tuple[str, tuple[int, ...], tuple[int, int]]:
        """An array's extension: safetensors' dtype, shape, and where its bytes are."""
        length = self._length({0xC7: ">B", 0xC8: ">H", 0xC9: ">I"})
        kind, end = self._bytes(1)[0], self.position + length
        if kind != FLAX_ARRAY or self._bytes(1) != b"\x93":
            raise ValueError(f"expected an array (extension {FLAX_ARRAY}); found extension {kind}")
        shape = tuple(self.integer() for _ in range(self._length({0xDC: ">H"}, fix=(0x90, 0x9F))))
        text = self.text()
        dtype = next((dtype for dtype, name in FLAX_TYPES.items() if name == text), "another")
        size = self._length({0xC4: ">B", 0xC5: ">H", 0xC6: ">I"})
        span = self.position, size
        self.position += size
        if self.position != end or size != math.prod(shape) * ITEM_SIZES.get(dtype, 0) or end > len(self._data):
            raise ValueError(f"an array of {dtype} {show(shape)} has {size} bytes")
        return dtype, shape, span

    def _length(self, markers: dict[int, str], fix: tuple[int, int] = (1, 0)) -> int:
        """A number in the marker itself, or after it."""
        marker = self._bytes(1)[0]
        if fix[0] <= marker <= fix[1]:
            return marker - fix[0]
        if marker not in markers:
            raise ValueError(f"byte {self.position - 1} is {marker:#x}, which is not expected there")
        layout = markers[marker]
        return int(struct.unpack(layout, self._bytes(struct.calcsize(layout)))[0])

    def _bytes(self, count: int) -> bytes:
        if self.position + count > len(self._data):
            raise ValueError("it is cut short")
        self.position += count
        return self._data[self.position - count : self.position]

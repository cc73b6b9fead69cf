"""Where a LiteRT artifact's model holds each tensor, found without LiteRT or the flatbuffers library."""

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

from yizhi.errors import InputError, show
from yizhi.model.layout import LITERT_CONSTANT, LITERT_MODEL
from yizhi.model.rotary import find_wrong_table, is_table_name
from yizhi.reading.safetensors_file import ITEM_SIZES, MAX_RANK
from yizhi.reading.stored_tensors import MOST_OF_ITS_OWN, TensorPlace
from yizhi.storage.flatbuffer import Table

# Fields of the schema's tables (tflite/schema/schema.fbs of LiteRT).
_SUBGRAPHS, _BUFFERS, _EXTERNAL_BUFFERS = 2, 4, 9
_TENSORS, _SUBGRAPH_NAME = 0, 4
_SHAPE, _TYPE, _BUFFER, _NAME, _QUANTIZATION, _SPARSITY, _EXTERNAL_BUFFER = 0, 1, 2, 3, 4, 6, 10
_SCALE, _ZERO_POINT, _DETAILS, _DIMENSION = 2, 3, 5, 6
_DATA, _OFFSET, _SIZE = 0, 1, 2
_TYPES = {0: "F32", 1: "F16", 2: "I32", 3: "U8", 4: "I64", 6: "BOOL", 9: "I8"}


def read_litert(folder: Path) -> list[TensorPlace]:
    """The tensors of the model's buffers, once for each subgraph, and the scales of int8 tensors as NAME.scale.

    Raises InputError for a file that is no model, and for a model with numbers that belong to no tensor: no digest
    covers them.
    """
    path = folder / LITERT_MODEL
    faults: list[str] = []
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model = Table.root(data, b"TFL3")
            if _EXTERNAL_BUFFERS in model:
                raise ValueError("it has buffers in other files")
            buffers = [_find(buffer, len(data)) for buffer in model.tables(_BUFFERS)]
            found = []
            for subgraph in model.tables(_SUBGRAPHS):
                name = f"{LITERT_MODEL}: {subgraph.text(_SUBGRAPH_NAME)}"
                places = [place for tensor in subgraph.tables(_TENSORS) for place in _read(tensor, buffers, path, name)]
                faults += [f"{name}: {fault}" for fault in _find_own_numbers(places)]
                found += [place for place in places if not place.name.startswith(LITERT_CONSTANT)]
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(path, f"is not a LiteRT model, or is damaged: {error}") from None
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    if faults:
        raise InputError(path, sorted(faults))
    return found


def _find(buffer: Table, end: int) -> tuple[int, int]:
    """Where its bytes are, and how many, in a file that ends there. Raises ValueError."""
    start, size = buffer.vector(_DATA, 1)
    far = buffer.number(_OFFSET, "Q"), buffer.number(_SIZE, "Q")
    if (size and any(far)) or sum(far) > end:
        raise ValueError(f"a buffer's bytes are in two places, or beyond byte {end}, the end")
    return far if any(far) else (start, size)


def _read(tensor: Table, buffers: list[tuple[int, int]], path: Path, file: str) -> Iterator[TensorPlace]:
    """The tensor, if it is stored, and its scales. Raises ValueError."""
    name, number = tensor.text(_NAME), tensor.number(_BUFFER, "I")
    if number >= len(buffers) or _SPARSITY in tensor or _EXTERNAL_BUFFER in tensor:
        raise ValueError(f"{name}: expected one of {len(buffers)} dense buffers; found {number}, or a sparse tensor")
    start, length = buffers[number]
    if not length:
        return
    shape = tensor.numbers(_SHAPE, "i")
    kind = tensor.number(_TYPE, "b")
    dtype = _TYPES.get(kind, f"type {kind}")
    if min((*shape, 0)) < 0 or len(shape) > MAX_RANK or length != math.prod(shape) * ITEM_SIZES.get(dtype, 0):
        raise ValueError(f"{name}: {dtype} {show(list(shape))} does not take {length} bytes")
    # FULLY_CONNECTED takes the outlier channels of an int8 kernel as [outputs, count]; elsewhere they are columns.
    yield TensorPlace(name, dtype, shape, path, ((start, length),), file, transposed=name.endswith(".outliers"))
    quantization = tensor.table(_QUANTIZATION)
    place, count = quantization.vector(_SCALE, 4) if quantization else (0, 0)
    if quantization is None or not count:
        return
    plain = not any(quantization.numbers(_ZERO_POINT, "q")) and not quantization.number(_DIMENSION, "i")
    if not plain or _DETAILS in quantization or not shape or count != shape[0]:
        raise ValueError(f"{name}: expected a scale for each of {show(list(shape[:1]))} rows, around 0; found others")
    yield TensorPlace(f"{name}.scale", "F32", (count,), path, ((place, 4 * count),), file)


def _find_own_numbers(places: list[TensorPlace]) -> Iterator[str]:
    for place in places:
        if place.name.startswith(LITERT_CONSTANT) and is_table_name(name := place.name.removeprefix(LITERT_CONSTANT)):
            yield from find_wrong_table(name, place.array())
        elif place.name.startswith(LITERT_CONSTANT) and math.prod(place.shape) > MOST_OF_ITS_OWN:
            yield f"{place.name}: holds {math.prod(place.shape)} numbers of the graph's own"

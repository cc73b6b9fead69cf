"""Where an OpenVINO artifact holds each tensor, read from its graphs' XML without OpenVINO."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from yizhi.errors import InputError, show
from yizhi.model.layout import OPENVINO_WEIGHTS
from yizhi.model.rotary import find_wrong_table, is_table_name
from yizhi.reading.safetensors_file import ITEM_SIZES, MAX_RANK
from yizhi.reading.stored_tensors import TensorPlace

_TYPES = {"f32": "F32", "i8": "I8", "u8": "U8", "i32": "I32", "i64": "I64", "f16": "F16", "bf16": "BF16", "f64": "F64"}
# What the converter calls a graph's own constants, and how many numbers one may have: axes, shapes, factors.
_OWN = re.compile(r"Constant(_\d+)?")
_MOST_OF_ITS_OWN = 8
_LONGEST_NUMBER = 19


def read_openvino(folder: Path) -> list[TensorPlace]:
    """The tensors of the file of weights, once for each graph, without the graph's own constants.

    Raises InputError for a file that is no graph, and for a graph with many numbers of its own: no digest covers
    them.
    """
    found, faults = [], []
    for path in sorted(folder.glob("*.xml")):
        try:
            constants = read_constants(path)
        except InputError as error:
            faults += [f"{path.name}: {fault}" for fault in error.faults]
            continue
        for constant in constants:
            if is_table_name(constant.name):
                faults += [f"{path.name}: {fault}" for fault in find_wrong_table(constant.name, constant.array())]
            elif not _OWN.fullmatch(constant.name):
                found.append(constant)
            elif math.prod(constant.shape) > _MOST_OF_ITS_OWN:
                faults.append(f"{path.name}: {constant.name}: holds {math.prod(constant.shape)} numbers of its own")
    if not found and not faults:
        faults.append("expected OpenVINO graphs over a file of weights; found none")
    if faults:
        raise InputError(folder, faults)
    return found


def read_constants(path: Path) -> list[TensorPlace]:
    """Every constant of a graph, its own too. Raises InputError for a file that is no graph, or is damaged."""
    try:
        text = path.read_bytes().decode()
        if "<!" in text:
            raise ValueError("it declares entities or a type, or has comments")
        return list(_constants(ElementTree.fromstring(text), path))
    except (ValueError, ElementTree.ParseError) as error:
        raise InputError(path, f"is not an OpenVINO graph, or is damaged: {error}") from None
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None


def _constants(root: ElementTree.Element, path: Path) -> Iterator[TensorPlace]:
    if root.tag != "net":
        raise ValueError(f"expected <net>; found <{root.tag}>")
    for layer in root.iter("layer"):
        if layer.get("type") != "Const":
            continue
        name, data = layer.get("name", ""), layer.find("data")
        place = {} if data is None else data.attrib
        given = place.get("element_type", "nothing")
        dtype = _TYPES.get(given, given)
        shape = tuple(_number(name, part.strip()) for part in place.get("shape", "").split(",") if part.strip())
        offset, size = (_number(name, place.get(key, "")) for key in ("offset", "size"))
        if len(shape) > MAX_RANK or size != math.prod(shape) * ITEM_SIZES.get(dtype, 0):
            raise ValueError(f"{name}: {dtype} {show(list(shape))} does not take {size} bytes")
        yield TensorPlace(name, dtype, shape, path.with_name(OPENVINO_WEIGHTS), ((offset, size),), path.name)


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > _LONGEST_NUMBER:
        raise ValueError(f"{name}: expected a shape, an offset and a size; found {show(text)}")
    return int(text)

"""Compares an ONNX artifact's graphs, node by node, with the graphs that this version of Yizhi writes.

Cases and texts show only the answers for them. A manipulated graph could answer these rightly and others wrongly.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from yizhi.converters import to_onnx
from yizhi.converters.quantize import Outliers
from yizhi.converters.weight_file import StoredTensor
from yizhi.errors import show
from yizhi.model.spec import EncoderSpec
from yizhi.reading.stored_tensors import read_onnx
from yizhi.release.artifact import Artifact

# Of the weight file: onnx's type, and bytes of a number.
_TYPES: Mapping[str, tuple[int, int]] = {"float32": (TensorProto.FLOAT, 4), "int8": (TensorProto.INT8, 1)}


def compare_graphs(artifact: Artifact, spec: EncoderSpec) -> tuple[int, list[str]]:
    """The number of compared graphs, and their differences from graphs made again from spec and stored tensors.

    The tensors' places are trusted here: `yizhi.parity.weights` compares the tensors. Raises InputError if the files
    cannot be read.
    """
    faults: list[str] = []
    names = set()
    for name, expected in _build_again(artifact, spec):
        names.add(name)
        path = artifact.folder / name
        if not path.is_file():
            faults.append(f"{name}: is missing")
            continue
        found = _read(path)
        if found is None:
            faults.append(f"{name}: is no ONNX graph")
        elif found != expected:
            faults.append(f"{name}: is not the graph that this version writes: {_say_where(found, expected)}")
    extra = {path.name for path in artifact.folder.glob("*.onnx")} - names
    faults += [f"{name}: no graph of this artifact" for name in sorted(extra)]
    return len(names), faults


def _build_again(artifact: Artifact, spec: EncoderSpec) -> Iterator[tuple[str, ModelProto]]:
    quantization: Mapping[str, Any] | None = artifact.description.get("quantization")
    if quantization is None:
        places = {
            place.name: StoredTensor(to_onnx.TYPES.get(place.dtype, TensorProto.FLOAT), place.shape, *place.spans[0])
            for place in read_onnx(artifact.folder)
        }
        return to_onnx.build_fp32_graphs(spec, places)
    from yizhi.converters import to_onnx_int8  # which calibrates too, with more than these graphs need

    stored = {
        name: _place(*_TYPES[said["dtype"]], tuple(said["shape"]), said["offset"])
        for name, said in quantization["stored"].items()
    }
    outliers = Outliers(quantization["outliers"], quantization.get("smoothed", ()))
    return to_onnx_int8.build_graphs(spec, stored, outliers, quantization["checked"])


def _place(dtype: int, size: int, shape: tuple[int, ...], offset: int) -> StoredTensor:
    return StoredTensor(dtype, shape, offset, math.prod(shape) * size)


def _read(path: Path) -> ModelProto | None:
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        return None
    return model


def _say_where(found: ModelProto, expected: ModelProto) -> str:
    """The first difference, as text."""
    for kind in ("node", "input", "output", "initializer"):
        for one, other in zip_longest(getattr(found.graph, kind), getattr(expected.graph, kind)):
            if one != other:
                told = [show(item.name) if item is not None else "none" for item in (other, one)]
                what = "its content differs" if told[0] == told[1] else f"found {told[1]}"
                return f"{kind}: expected {told[0]}; {what}"
    return "its header differs"

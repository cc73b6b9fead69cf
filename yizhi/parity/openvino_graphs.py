"""Compares an OpenVINO artifact's graphs, character by character, with the graphs that this version of Yizhi writes.

As for ONNX (`yizhi.parity.onnx_graphs`): cases and texts show only the answers for them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from openvino import Model

from yizhi.converters import to_openvino
from yizhi.converters.openvino_graph import FLOAT, INT8, Weights, own_constants, write_text
from yizhi.converters.quantize import Outliers
from yizhi.converters.weight_file import StoredTensor
from yizhi.errors import InputError, show
from yizhi.model.spec import EncoderSpec
from yizhi.reading.openvino_tensors import read_constants
from yizhi.release.artifact import Artifact


def compare_graphs(artifact: Artifact, spec: EncoderSpec) -> tuple[int, list[str]]:
    """The number of compared graphs, and their differences from graphs made again from the spec.

    The tensors' places are trusted here: `yizhi.parity.weights` compares the tensors. A graph's own constants are
    compared here. Raises InputError if the weight file cannot be read.
    """
    faults: list[str] = []
    names = set()
    for name, model in _build_again(artifact, spec):
        names.add(name)
        path = artifact.folder / name
        if not path.is_file():
            faults.append(f"{name}: is missing")
            continue
        try:
            constants = {constant.name: constant for constant in read_constants(path)}
        except InputError as error:
            faults += [f"{name}: {fault}" for fault in error.faults]
            continue
        offsets = {one: constant.spans[0][0] for one, constant in constants.items()}
        expected = write_text(model, defaultdict(int, offsets))
        found = path.read_bytes()
        if found != expected:
            faults.append(f"{name}: is not the graph that this version writes: {_say_where(found, expected)}")
            continue
        faults += [
            f"{name}: {node}: expected {show(array.tolist())}; found {show(constants[node].array().tolist())}"
            for node, array in own_constants(model).items()
            if constants[node].array().tobytes() != array.tobytes()
        ]
    extra = {path.name for path in artifact.folder.glob("*.xml")} - names
    faults += [f"{name}: no graph of this artifact" for name in sorted(extra)]
    return len(names), faults


def _build_again(artifact: Artifact, spec: EncoderSpec) -> Iterator[tuple[str, Model]]:
    """Over tensors of the right types and shapes, which is all that a graph's text has of them beside their places."""
    quantization: Mapping[str, Any] | None = artifact.description.get("quantization")
    if quantization is None:
        stored = {parameter.name: StoredTensor(FLOAT, parameter.shape, 0, 0) for parameter in spec.parameters()}
        return to_openvino.build_graphs(partial(Weights, stored), spec)
    from yizhi.converters import to_openvino_int8  # which calibrates too, with more than these graphs need

    stored = {
        name: StoredTensor({"float32": FLOAT, "int8": INT8}[said["dtype"]], tuple(said["shape"]), 0, 0)
        for name, said in quantization["stored"].items()
    }
    outliers = Outliers(quantization["outliers"], quantization["smoothed"])
    return to_openvino_int8.build_graphs(spec, stored, outliers, quantization["checked"])


def _say_where(found: bytes, expected: bytes) -> str:
    """The first line that differs."""
    for one, other in zip(found.splitlines(), expected.splitlines(), strict=False):
        if one != other:
            return f"expected {show(other.decode().strip())}; found {show(one.decode(errors='replace').strip())}"
    return "one ends before the other"

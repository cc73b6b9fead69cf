"""Faults that only an int8 artifact can have, in its files or in the graph that quantizes."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yizhi.converters.targets import TARGETS
from yizhi.model.spec import Layer
from yizhi.release.artifact import Artifact

if TYPE_CHECKING:
    from openvino import Node

    from yizhi.converters.onnx_int8_graph import Int8Graph
    from yizhi.converters.openvino_int8_graph import Int8Weights


def scale_one_channel(folder: Path, layer: Layer) -> None:
    """Four times the scale of the first output of the layer's last kernel."""
    _change(folder, f"{layer.output.weight}.scale", lambda scales: np.r_[scales[:1] * 4, scales[1:]])


def scale_one_kernel(folder: Path, layer: Layer) -> None:
    """Every scale of the layer's last kernel 3 % too large."""
    _change(folder, f"{layer.output.weight}.scale", lambda scales: scales * 1.03)


def swap_scales(folder: Path, layer: Layer) -> None:
    """Value's scales and the attention output's."""
    names = [f"{part.weight}.scale" for part in (layer.value, layer.attention_output)]
    value, output = (_change(folder, name, lambda scales: scales) for name in names)
    _change(folder, names[0], lambda _: output)
    _change(folder, names[1], lambda _: value)


def roll_rows(folder: Path, layer: Layer) -> None:
    """Each output of the layer's last kernel has its neighbour's scale."""
    _change(folder, f"{layer.output.weight}.scale", lambda scales: np.roll(scales, 1))


def quantize_per_batch(graph: "Int8Graph", x: str) -> tuple[str, str]:
    """`Int8Graph.quantize` with one scale for all rows, as in DynamicQuantizeLinear."""
    from yizhi.converters.onnx_int8_graph import FLOAT, INT64
    from yizhi.converters.quantize import LARGEST, TINY

    if x not in graph._quantized:
        axes = graph.constant("all_axes", INT64, [0, 1])
        highest = graph.node(x, "ReduceMax", [graph.node(x, "Abs", [x]), axes])  # [1, 1]
        largest = graph.node(x, "Max", [highest, graph.constant("tiny", FLOAT, TINY)])
        scale = graph.node(x, "Div", [largest, graph.constant("largest_int8", FLOAT, LARGEST)])
        flat = graph.node(x, "Squeeze", [scale])
        graph._quantized[x] = graph.node(x, "QuantizeLinear", [x, flat, graph._zero_point()]), scale
    return graph._quantized[x]


def scale_per_batch(weights: "Int8Weights", x: "Node") -> "Node":
    """`Int8Weights.magnitudes` over all rows."""
    from openvino import opset15 as ops

    axes = list(range(x.get_output_partial_shape(0).rank.get_length()))
    return ops.reduce_max(ops.abs(x), axes, keep_dims=True)


def _change(folder: Path, name: str, become: Callable[[NDArray], NDArray]) -> NDArray[np.float32]:
    """Rewrite one float32 vector of the file of weights in place; returns what was there."""
    tensors = TARGETS[Artifact.read(folder).target].stored_tensors(folder)
    place = next(tensor for tensor in tensors if tensor.name == name)
    ((offset, length),) = place.spans
    with open(place.path, "r+b") as file:
        file.seek(offset)
        found = np.frombuffer(file.read(length), np.float32)
        file.seek(offset)
        file.write(become(found).astype(np.float32).tobytes())
    return found

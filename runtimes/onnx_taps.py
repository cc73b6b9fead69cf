"""The values inside a layer of an ONNX artifact, found by the canonical names of the nodes that compute them."""

import importlib.util
from pathlib import Path

from yizhi.converters.onnx_files import graph_file
from yizhi.model.architectures import build_spec
from yizhi.model.config import EncoderConfig
from yizhi.model.spec import Layer


def expose(folder: Path, config: EncoderConfig, number: int) -> tuple[bytes, dict[str, str]] | None:
    """The graph with one layer's values as its outputs, and the value's name for each tap.

    None if onnx is not installed, or if the layer runs several times under one name.
    """
    if importlib.util.find_spec("onnx") is None:
        return None
    import onnx

    model = onnx.load(folder / graph_file("hidden_states"), load_external_data=False)
    spec = build_spec(config, {tensor.name for tensor in model.graph.initializer})
    layer = spec.layers[number]
    if spec.layers.count(layer) > 1:
        return None
    computed = {output for node in model.graph.node for output in node.output}
    names = {tap: next((name for name in choices if name in computed), "") for tap, choices in _names(layer).items()}
    names = {tap: name for tap, name in names.items() if name}
    if (
        not layer.gated and f"{layer.intermediate.name}/Slice" in computed
    ):  # int8: zeros there for channels that are computed apart
        names.pop("intermediate", None)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names.values())
    return model.SerializeToString(), names


def _names(layer: Layer) -> dict[str, list[str]]:
    """The possible node names of each tap. A linear layer ends in a Gemm, or in int8 in the addition of its bias."""
    linear = {
        "query": layer.query,
        "key": layer.key,
        "value": layer.value,
        "attention_output": layer.attention_output,
        "output": layer.output,
    }
    names = {tap: [f"{part.name}/Gemm", f"{part.name}/Add"] for tap, part in linear.items()}
    names["context"] = [f"{layer.query.name.rpartition('.')[0]}/Reshape"]
    if layer.fused:  # parts of what one linear layer gives
        parts = {"query": "Slice", "key": "Slice_1", "value": "Slice_2"}
        names |= {tap: [f"{layer.query.name}/{part}"] for tap, part in parts.items()}
    names["intermediate"] = [f"{layer.intermediate.name}/{operator}" for operator in ("Gelu", "Relu")]
    if layer.gated:
        names["intermediate"] = [f"{layer.intermediate.name}/Mul_1", f"{layer.intermediate.name}/Mul"]
    after = layer.attention_output.name
    if layer.up:
        names["intermediate"] = [f"{layer.up.name.rpartition('.')[0]}/Mul"]
    if layer.norm_first or not layer.attention_norm:
        names["after_attention"] = [f"{after}/Add_1", f"{after}/Add"]
        return names
    normed = f"{layer.attention_norm.name}/LayerNormalization"
    if layer.attention_adapter is None:
        names["after_attention"] = [normed]
    elif layer.attention_adapter.adds is not None:
        names["after_attention"] = [f"{normed}_1", normed]  # the adapter may have read the first
    return names

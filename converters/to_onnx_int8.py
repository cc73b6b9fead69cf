"""Write ONNX graphs over int8 weights, with activations quantized per token. docs/int8.md is the contract."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from yizhi.converters import to_onnx
from yizhi.converters.int8_graph import Int8Graph, build_integer_check
from yizhi.converters.int8_outliers import choose_calibration, find_outliers, may_have_outliers
from yizhi.converters.onnx_files import (
    INTEGERS,
    U8S8,
    U8U8,
    WEIGHT_FILE,
    StoredTensor,
    WeightFile,
    graph_file,
    outliers_of,
    scale_of,
)
from yizhi.converters.quantize import Outliers, quantize_in_chunks
from yizhi.converters.sentence_transformers import write_modules
from yizhi.converters.shared_files import say_columns
from yizhi.converters.to_onnx import write_graphs
from yizhi.errors import InputError
from yizhi.model.spec import KERNEL, EncoderSpec, MaskedLMHead
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter

FLOAT, INT8 = TensorProto.FLOAT, TensorProto.INT8


def convert(
    checkpoint: Checkpoint,
    writer: ArtifactWriter,
    keep_fp32: Collection[str] = (),
    calibration: Sequence[Sequence[int]] = (),
    outlier_channels: bool = True,
) -> None:
    """Write `model.onnx.data`, with kernels and word embeddings as int8, and graphs over it, two per signature.

    keep_fp32: beginnings of the names of parameters that stay float32, as in `kept_names`.
    calibration: rows of ids, special tokens included, to find outlier channels on; as `choose_calibration` if none.
    outlier_channels: False treats none apart, to show what that is worth.
    Raises InputError for a beginning that no quantized parameter has.
    """
    spec = checkpoint.spec
    names = quantized_names(spec) - kept_names(spec, keep_fp32)
    chosen = choose_calibration(checkpoint, calibration)
    sought = names & may_have_outliers(spec) if outlier_channels else set()
    outliers = find_outliers(checkpoint, sought, chosen.rows)
    with writer.open(WEIGHT_FILE) as file:
        weights = write_weights(file, checkpoint, names, outliers)
    checked = [name for name in one_of_each_kind(spec) if name in names]
    write_graphs(writer, build_graphs(spec, weights.stored, outliers, checked))
    say_columns(writer, spec)
    write_modules(writer, checkpoint, {"file_name": graph_file("features")})
    places = describe_stored(weights.stored)
    found = {"outliers": outliers.channels, "smoothed": outliers.smoothed, "calibration": chosen.describe()}
    writer.say("quantization", {"checked": checked, "stored": places, **found})


def write_weights(
    file: BinaryIO,
    checkpoint: Checkpoint,
    names: Collection[str],
    outliers: Outliers,
    types: tuple[Any, Any] = (FLOAT, INT8),
) -> WeightFile:
    """Append every parameter, and of those named what int8 makes of them.

    types: what the graphs call float32 and int8.
    """
    float32, int8 = types
    weights = WeightFile(file)
    with ThreadPoolExecutor() as pool:
        for parameter in checkpoint.parameters():
            if parameter.name not in names:
                weights.add(parameter.name, float32, parameter.shape, checkpoint.chunks(parameter))
                continue
            scales: list[NDArray[np.float32]] = []
            kernel = checkpoint.array(parameter.name)
            if outliers.in_float32(parameter.name):
                columns = np.ascontiguousarray(kernel[:, outliers.of(parameter.name)].T)
                weights.add(outliers_of(parameter.name), float32, columns.shape, [columns.data])
            rows = quantize_in_chunks(kernel, scales, pool, partial(outliers.prepare, parameter.name))
            weights.add(parameter.name, int8, parameter.shape, (chunk.data for chunk in rows))
            weights.add(scale_of(parameter.name), float32, parameter.shape[:1], (chunk.data for chunk in scales))
            checkpoint.release(parameter.name)
    return weights


def describe_stored(stored: Mapping[str, StoredTensor]) -> dict[str, dict[str, Any]]:
    """For `artifact.json`, where each tensor lies. Those with a scale are int8."""
    return {
        name: {
            "dtype": "int8" if scale_of(name) in stored else "float32",
            "offset": tensor.offset,
            "shape": tensor.shape,
        }
        for name, tensor in stored.items()
    }


def build_graphs(
    spec: EncoderSpec, stored: Mapping[str, StoredTensor], outliers: Outliers, checked: Sequence[str]
) -> Iterator[tuple[str, ModelProto]]:
    """By file name, the graphs of `to_onnx.build_graphs` over int8 weights, for both products, and of integer sums.

    stored, outliers: as Int8Graph takes them. checked: kernels whose sums are to be seen.
    """
    for products in (U8U8, U8S8):
        yield from to_onnx.build_graphs(partial(Int8Graph, stored, products, outliers), spec, products)
        if checked:
            graph = Int8Graph(stored, products)
            build_integer_check(graph, checked)
            yield graph_file(INTEGERS, products), graph.model()


def one_of_each_kind(spec: EncoderSpec) -> list[str]:
    """The kernels whose integer sums `verify` compares with exact ones: each kind of a layer's, and the head's."""
    layer = spec.layers[0]
    parts = [layer.query, layer.attention_output, layer.intermediate, layer.output]
    names = [part.weight for part in parts]
    if isinstance(spec.head, MaskedLMHead):
        names += [spec.head.dense.weight, spec.head.decoder]
    return names


def quantized_names(spec: EncoderSpec) -> set[str]:
    """The parameters stored as int8: kernels, word embeddings and the MLM decoder.

    Position and token-type embeddings stay float32: they are small, and every token adds them.
    """
    names = {parameter.name for parameter in spec.parameters() if parameter.kind == KERNEL}
    names.add(spec.word_embeddings.weight)
    if isinstance(spec.head, MaskedLMHead):
        names.add(spec.head.decoder)
    return names


def kept_names(spec: EncoderSpec, beginnings: Collection[str]) -> set[str]:
    """The quantized parameters whose names begin so, part by part, with or without the family's prefix.

    `encoder.layer.1` is that layer, and not layer 11. Raises InputError for a beginning that none has.
    """
    kept: set[str] = set()
    faults = []
    for beginning in beginnings:
        found = {
            name
            for name in quantized_names(spec)
            if any(f"{form}.".startswith(f"{beginning}.") for form in (name, name.partition(".")[2]))
        }
        if not found:
            faults.append(f"{beginning}: no quantized parameter's name begins so")
        kept |= found
    if faults:
        raise InputError("`keep_fp32`", faults)
    return kept

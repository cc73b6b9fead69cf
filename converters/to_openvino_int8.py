"""Write OpenVINO's IR over int8 weights, with activations quantized per token. docs/int8.md is the contract."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from openvino import Model

from yizhi.converters import to_openvino
from yizhi.converters.int8_plan import describe_stored, plan_int8, write_weights
from yizhi.converters.openvino_files import graph_file
from yizhi.converters.openvino_graph import FLOAT, INT8
from yizhi.converters.openvino_int8_graph import Int8Weights, build_integer_check
from yizhi.converters.quantize import INTEGERS, Outliers
from yizhi.converters.sentence_transformers import write_modules
from yizhi.converters.shared_files import say_columns
from yizhi.converters.to_openvino import write_graphs
from yizhi.converters.weight_file import StoredTensor
from yizhi.model.layout import OPENVINO_WEIGHTS
from yizhi.model.spec import EncoderSpec
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter


def convert(
    checkpoint: Checkpoint,
    writer: ArtifactWriter,
    keep_fp32: Collection[str] = (),
    calibration: Sequence[Sequence[int]] = (),
    outlier_channels: bool = True,
) -> None:
    """Write `openvino_model.bin`, with kernels and word embeddings as int8, and graphs over it.

    The arguments and errors are those of `plan_int8`. The weights are those of `onnx-int8`, except that a layer's two
    inputs are always smoothed: products of few columns take longer here than in ONNX Runtime.
    """
    spec, plan = checkpoint.spec, plan_int8(checkpoint, keep_fp32, calibration, outlier_channels)
    found = plan.outliers.channels
    plan = replace(plan, outliers=Outliers(found, sorted(after_norms(spec) & found.keys())))
    with writer.open(OPENVINO_WEIGHTS) as file:
        weights = write_weights(file, checkpoint, plan, FLOAT, INT8)
        places = describe_stored(weights.stored)
        graphs = write_graphs(build_graphs(spec, dict(weights.stored), plan.outliers, plan.checked), weights)
    for name, text in graphs.items():
        writer.write(name, text)
    say_columns(writer, spec)
    write_modules(writer, checkpoint, {})
    writer.say("quantization", plan.describe(places))


def build_graphs(
    spec: EncoderSpec, stored: Mapping[str, StoredTensor], outliers: Outliers, checked: Sequence[str]
) -> Iterator[tuple[str, Model]]:
    """By file name, the models of `to_openvino.build_graphs` over int8 weights, and one of integer sums.

    stored, outliers: as Int8Weights takes them. checked: kernels whose integer sums `verify` compares.
    """
    yield from to_openvino.build_graphs(partial(Int8Weights, stored, outliers), spec)
    if checked:
        yield graph_file(INTEGERS), build_integer_check(Int8Weights(stored), checked)


def after_norms(spec: EncoderSpec) -> set[str]:
    """The kernels of a layer's two inputs: attention's, and the feed-forward's first."""
    parts = [(layer.query, layer.key, layer.value, layer.intermediate, layer.up) for layer in spec.layers]
    return {part.weight for of_layer in parts for part in of_layer if part}

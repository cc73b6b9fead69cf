"""Write ONNX graphs over int8 weights, with activations quantized per token. docs/int8.md is the contract."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

from onnx import ModelProto, TensorProto

from yizhi.converters import to_onnx
from yizhi.converters.int8_plan import describe_stored, plan_int8, write_weights
from yizhi.converters.onnx_files import U8S8, U8U8, WEIGHT_FILE, graph_file
from yizhi.converters.onnx_int8_graph import Int8Graph, build_integer_check
from yizhi.converters.quantize import INTEGERS, Outliers
from yizhi.converters.sentence_transformers import write_modules
from yizhi.converters.shared_files import say_columns
from yizhi.converters.to_onnx import write_graphs
from yizhi.converters.weight_file import StoredTensor
from yizhi.model.spec import EncoderSpec
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

    The arguments and errors are those of `plan_int8`.
    """
    spec, plan = checkpoint.spec, plan_int8(checkpoint, keep_fp32, calibration, outlier_channels)
    with writer.open(WEIGHT_FILE) as file:
        weights = write_weights(file, checkpoint, plan, FLOAT, INT8)
    write_graphs(writer, build_graphs(spec, weights.stored, plan.outliers, plan.checked))
    say_columns(writer, spec)
    write_modules(writer, checkpoint, {"file_name": graph_file("features")})
    writer.say("quantization", plan.describe(describe_stored(weights.stored)))


def build_graphs(
    spec: EncoderSpec, stored: Mapping[str, StoredTensor], outliers: Outliers, checked: Sequence[str]
) -> Iterator[tuple[str, ModelProto]]:
    """By file name, the graphs of `to_onnx.build_graphs` over int8 weights, for both products, and of integer sums.

    stored, outliers: as Int8Graph takes them. checked: kernels whose integer sums `verify` compares.
    """
    for products in (U8U8, U8S8):
        yield from to_onnx.build_graphs(partial(Int8Graph, stored, products, outliers), spec, products)
        if checked:
            graph = Int8Graph(stored, products)
            build_integer_check(graph, checked)
            yield graph_file(INTEGERS, products), graph.model()

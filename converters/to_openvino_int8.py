"""Write OpenVINO's IR over int8 weights, with activations quantized per token. docs/int8.md is the contract."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

from openvino import Model

from yizhi.converters import to_openvino
from yizhi.converters.int8_outliers import choose_calibration, find_outliers, may_have_outliers
from yizhi.converters.onnx_files import INTEGERS, StoredTensor
from yizhi.converters.openvino_files import graph_file
from yizhi.converters.openvino_graph import FLOAT, INT8
from yizhi.converters.openvino_int8 import Int8Weights, build_integer_check
from yizhi.converters.quantize import Outliers
from yizhi.converters.sentence_transformers import write_modules
from yizhi.converters.shared_files import say_columns
from yizhi.converters.to_onnx_int8 import describe_stored, kept_names, one_of_each_kind, quantized_names, write_weights
from yizhi.converters.to_openvino import write_graphs
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

    The arguments and errors are those of `to_onnx_int8.convert`, and so are the weights, but that attention's input is
    smoothed, too: products of few columns take longer here than in ONNX Runtime.
    """
    spec = checkpoint.spec
    names = quantized_names(spec) - kept_names(spec, keep_fp32)
    chosen = choose_calibration(checkpoint, calibration)
    sought = names & may_have_outliers(spec) if outlier_channels else set()
    found = find_outliers(checkpoint, sought, chosen.rows).channels
    outliers = Outliers(found, sorted(after_norms(spec) & found.keys()))
    checked = [name for name in one_of_each_kind(spec) if name in names]
    with writer.open(OPENVINO_WEIGHTS) as file:
        weights = write_weights(file, checkpoint, names, outliers, (FLOAT, INT8))
        places = describe_stored(weights.stored)
        graphs = write_graphs(build_graphs(spec, dict(weights.stored), outliers, checked), weights)
    for name, text in graphs.items():
        writer.write(name, text)
    say_columns(writer, spec)
    write_modules(writer, checkpoint, {})
    said = {"outliers": outliers.channels, "smoothed": outliers.smoothed, "calibration": chosen.describe()}
    writer.say("quantization", {"checked": checked, "stored": places, **said})


def build_graphs(
    spec: EncoderSpec, stored: Mapping[str, StoredTensor], outliers: Outliers, checked: Sequence[str]
) -> Iterator[tuple[str, Model]]:
    """By file name, the models of `to_openvino.build_graphs` over int8 weights, and one of integer sums.

    stored, outliers: as Int8Weights takes them. checked: kernels whose sums are to be seen.
    """
    yield from to_openvino.build_graphs(partial(Int8Weights, stored, outliers), spec)
    if checked:
        yield graph_file(INTEGERS), build_integer_check(Int8Weights(stored), checked)


def after_norms(spec: EncoderSpec) -> set[str]:
    """The kernels that read a layer's input: what a LayerNorm gave."""
    return {part.weight for layer in spec.layers for part in (layer.query, layer.key, layer.value, layer.intermediate)}

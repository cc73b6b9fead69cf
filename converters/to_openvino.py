"""Write OpenVINO's IR: a graph per signature over one file of float32 weights.

A compiled model computes all its outputs. So each named group of outputs has a small graph of its own.
`Core.read_model(graph, weights)` opens any of them over the one file of weights.
"""

from collections.abc import Callable, Iterator
from functools import partial

from openvino import Model

from yizhi.converters.forwards.openvino import build_encoder, build_logits_at
from yizhi.converters.openvino_files import graph_file
from yizhi.converters.openvino_graph import FLOAT, Weights, own_constants, write_text
from yizhi.converters.sentence_transformers import write_modules
from yizhi.converters.shared_files import say_columns
from yizhi.converters.weight_file import WeightFile
from yizhi.model.label_heads import ANSWER
from yizhi.model.layout import OPENVINO_WEIGHTS
from yizhi.model.spec import LOGITS_AT, SPAN_LOGITS, EncoderSpec, MaskedLMHead
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter


def convert(checkpoint: Checkpoint, writer: ArtifactWriter) -> None:
    """Write `openvino_model.bin`, every parameter once as float32, and `openvino_model.xml` and its sisters."""
    with writer.open(OPENVINO_WEIGHTS) as file:
        weights = WeightFile(file)
        for parameter in checkpoint.parameters():
            weights.add(parameter.name, FLOAT, parameter.shape, checkpoint.chunks(parameter))
        graphs = write_graphs(build_graphs(partial(Weights, dict(weights.stored)), checkpoint.spec), weights)
    for name, text in graphs.items():
        writer.write(name, text)
    say_columns(writer, checkpoint.spec)
    write_modules(writer, checkpoint, {})


def build_graphs(new: Callable[[], Weights], spec: EncoderSpec) -> Iterator[tuple[str, Model]]:
    """By file name, a model per signature, and one for a masked-language model's logits at chosen positions.

    A reader's default model also gives SPAN_LOGITS, which optimum-intel reads. new: makes a model's weights.
    """
    signatures = spec.signatures()
    if spec.task == ANSWER:
        signatures["serving_default"] += SPAN_LOGITS
    for signature, outputs in signatures.items():
        yield graph_file(signature), build_encoder(new(), spec, outputs)
    if isinstance(spec.head, MaskedLMHead):
        yield graph_file(LOGITS_AT), build_logits_at(new(), spec, spec.head)


def write_graphs(graphs: Iterator[tuple[str, Model]], weights: WeightFile) -> dict[str, bytes]:
    """By file name, each model's text, once its own constants lie in the file of weights, too: equal ones once."""
    texts = {}
    for name, model in graphs:
        offsets = {name: stored.offset for name, stored in weights.stored.items()}
        for node, array in own_constants(model).items():
            key = f"{array.dtype}{array.shape}{array.tobytes().hex()}"
            if key not in weights.stored:
                weights.add(key, str(array.dtype), array.shape, [array.tobytes()])
            offsets[node] = weights.stored[key].offset
        texts[name] = write_text(model, offsets)
    return texts

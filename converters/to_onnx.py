"""Write ONNX graphs, one per signature, over one file of float32 weights.

ONNX Runtime computes every output of a graph, also those that the caller does not fetch. So each
named group of outputs has a small graph of its own, and the graphs share the weights.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from onnx import ModelProto, TensorProto

from yizhi.converters.forwards.onnx import build_encoder, build_logits_at, build_step
from yizhi.converters.onnx_files import U8U8, WEIGHT_FILE, graph_file
from yizhi.converters.onnx_graph import Graph
from yizhi.converters.sentence_transformers import write_modules
from yizhi.converters.shared_files import say_columns
from yizhi.converters.weight_file import StoredTensor, WeightFile
from yizhi.model.label_heads import ANSWER
from yizhi.model.spec import LOGITS_AT, SPAN_LOGITS, STEP, Embedding, EncoderSpec, MaskedLMHead
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter


class Float32Graph(Graph):
    """Each linear layer is a Gemm over the checkpoint's own [outputs, inputs] kernel."""

    def lookup(self, table: Embedding, ids: str) -> str:
        """Rows of an embedding table: […] -> […, E]."""
        rows = self.node(table.name, "Gather", [self.stored(table.weight), ids], axis=0)
        return self.widened(table.name, rows) if self.is_half(table.weight) else rows

    def linear(self, scope: str, weight: str, bias: str | None, x: str) -> str:
        """x Wᵀ + b, or x Wᵀ: [N, inputs] -> [N, outputs]."""
        inputs = [x, self.weight(weight), *([self.weight(bias)] if bias else [])]
        return self.node(scope, "Gemm", inputs, transB=1)


# What the weight file holds: safetensors' names, and onnx's.
TYPES = {"F32": TensorProto.FLOAT, "BF16": TensorProto.BFLOAT16}


def convert(checkpoint: Checkpoint, writer: ArtifactWriter, keep_bf16: bool = False) -> None:
    """Write `model.onnx.data`, every parameter once as float32, and `model.onnx` and its sisters.

    keep_bf16: the checkpoint's bfloat16 tensors stay bfloat16. The graphs make them float32.
    """
    with writer.open(WEIGHT_FILE) as file:
        weights = WeightFile(file)
        for parameter in checkpoint.parameters():
            dtype = checkpoint.dtype_of(parameter.name, keep_bf16)
            chunks = checkpoint.chunks(parameter, dtype=dtype)
            weights.add(parameter.name, TYPES[dtype], parameter.shape, chunks)
    write_graphs(writer, build_fp32_graphs(checkpoint.spec, weights.stored))
    say_columns(writer, checkpoint.spec)
    write_modules(writer, checkpoint, {"file_name": graph_file("features")}, keep_bf16)


def build_fp32_graphs(spec: EncoderSpec, stored: Mapping[str, StoredTensor]) -> Iterator[tuple[str, ModelProto]]:
    """By file name, the graphs of `build_graphs` over float32 or bfloat16 weights. `stored` says where they are."""
    return build_graphs(partial(Float32Graph, stored), spec)


def build_graphs(new: Callable[[], Graph], spec: EncoderSpec, products: str = U8U8) -> Iterator[tuple[str, ModelProto]]:
    """By file name, a graph per signature, one for a masked-language model's logits at chosen positions, and a step's.

    A reader's `model.onnx` also gives SPAN_LOGITS, which optimum reads.
    new: makes the empty graph. products: how it multiplies; part of the file's name.
    """
    signatures = spec.signatures()
    if spec.task == ANSWER:
        signatures["serving_default"] += SPAN_LOGITS
    for signature, outputs in signatures.items():
        graph = new()
        build_encoder(graph, spec, outputs)
        yield graph_file(signature, products), graph.model()
    if isinstance(spec.head, MaskedLMHead):
        graph = new()
        build_logits_at(graph, spec, spec.head)
        yield graph_file(LOGITS_AT, products), graph.model()
        if spec.steps:
            graph = new()
            build_step(graph, spec, spec.head)
            yield graph_file(STEP, products), graph.model()


def write_graphs(writer: ArtifactWriter, graphs: Iterable[tuple[str, ModelProto]]) -> None:
    """Write each into its file, equal graphs as equal bytes."""
    for name, model in graphs:
        writer.write(name, model.SerializeToString(deterministic=True))

"""Write the .tflite model that LiteRT opens: a signature for each group of outputs, over weights that all share."""

from collections.abc import Callable

from ai_edge_litert import schema_py_generated as schema

from yizhi.converters.forwards.litert import build_encoder, build_logits_at
from yizhi.converters.litert_file import write_model
from yizhi.converters.litert_graph import FLOAT, Buffers, Graph, Signature, Value, Weight
from yizhi.converters.litert_operators import gather
from yizhi.model.layout import LITERT_MODEL
from yizhi.model.spec import LOGITS_AT, Embedding, EncoderSpec, MaskedLMHead
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter


class Float32Graph(Graph):
    """Each linear layer is a FULLY_CONNECTED over the checkpoint's own [outputs, inputs] kernel."""

    def lookup(self, table: Embedding, ids: Value) -> Value:
        """Rows of an embedding table: […] -> […, E]."""
        return gather(self, table.name, self.weight(table.weight), ids, axis=0)

    def linear(self, scope: str, weight: str, bias: str | None, x: Value) -> Value:
        """x Wᵀ + b, or x Wᵀ, over the last axis: […, inputs] -> […, outputs]."""
        kernel = self.weight(weight)
        options = schema.FullyConnectedOptionsT(keepNumDims=True)
        inputs = [x, kernel, self.weight(bias) if bias else self.missing()]
        return self.node(scope, "FULLY_CONNECTED", inputs, (*x.shape[:-1], kernel.shape[0]), options, version=5)


def convert(checkpoint: Checkpoint, writer: ArtifactWriter) -> None:
    """Write `model.tflite`, every parameter once as float32."""
    parameters = {parameter.name: parameter for parameter in checkpoint.parameters()}
    buffers = Buffers({name: Weight(FLOAT, parameter.shape) for name, parameter in parameters.items()})
    with writer.open(LITERT_MODEL) as file:
        signatures = build_signatures(lambda: Float32Graph(buffers), checkpoint.spec)
        write_model(file, buffers, signatures, lambda name: checkpoint.chunks(parameters[name]))


def build_signatures(new: Callable[[], Graph], spec: EncoderSpec) -> dict[str, Signature]:
    """One for each group of outputs, and one for a masked-language model's logits at chosen positions.

    LiteRT prepares every subgraph when the first is called, and keeps a copy of the kernels of each. So signatures
    share a subgraph, unless it would compute vocabulary logits that the signature does not give.

    new: makes the empty graph.
    """
    groups = spec.signatures()
    everything = new()
    build_encoder(everything, spec, groups["hidden_states"])
    found = {name: Signature(everything, outputs) for name, outputs in groups.items()}
    if isinstance(spec.head, MaskedLMHead):
        headless, chosen = new(), new()
        build_encoder(headless, spec, groups["features"])
        build_logits_at(chosen, spec, spec.head)
        found |= {"features": Signature(headless, groups["features"]), LOGITS_AT: Signature(chosen, ("logits",))}
    return found

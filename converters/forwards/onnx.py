"""ONNX: the encoder as a graph of standard operators, built node by node.

The functions are those of the PyTorch forward, in the same order. A token is a row: x is [N, H] with
N = B·T, or [M, H] where M of them are chosen, so that a linear layer is one Gemm over the checkpoint's
own [outputs, inputs] bytes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx import TensorProto

from yizhi.converters.forwards.passes import Tap, ignore
from yizhi.converters.onnx_files import PAST, PRESENT, cache_names
from yizhi.converters.onnx_graph import Graph
from yizhi.model.spec import (
    FLOAT_INPUTS,
    IMAGE_PREFIX,
    INPUT,
    MASK_VALUE,
    MATCH_LOGITS,
    OUTPUT,
    POSITIONS,
    REGION_LOGITS,
    SENTENCE_EMBEDDING,
    SHORTEST_NORM,
    SPAN_LOGITS,
    SUM,
    TERM_WEIGHTS,
    TOKEN_VECTORS,
    TOKEN_WEIGHTS,
    Adapter,
    Dense,
    EncoderSpec,
    ImageStream,
    Layer,
    Linear,
    LinearHead,
    MaskedLMHead,
    Norm,
    Pooling,
    Rotary,
    Scaling,
)

BOOL, DOUBLE, FLOAT, INT64 = TensorProto.BOOL, TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.INT64


@dataclass(frozen=True)
class Pass:
    """One run of an encoder as nodes of a graph: `passes.Pass`, with the names of values for the values.

    mask: what is added to attention scores, [B, 1, 1, T]; the layers need it.
    past: the mask of causal layers: what hides padding and what comes after a token, [B, 1, T, T].
    cached: of each layer, the keys and values [B, K, P, d] of P tokens before; the mask then has P + T columns.
    windows: by window, the mask of layers that have it: what hides padding and what is further away, [B, 1, T, T].
    angles: by base, the cosines and sines of rotary positions, [T, d / 2] each.
    relative: what a key's distance adds to it and to its value, [T, T, d], where the layers have that.
    positions: the tokens [M, 2], each by row and position, that the last layer is to compute; all [N] if None.
    shape: B, T of the rows that it runs over.
    """

    graph: Graph
    spec: EncoderSpec
    tap: Tap[str] = ignore
    mask: str = ""
    past: str = ""
    cached: tuple[tuple[str, str], ...] = ()
    windows: Mapping[int, str] = field(default_factory=dict)
    angles: Mapping[float, tuple[str, str]] = field(default_factory=dict)
    relative: str | None = None
    positions: str | None = None
    shape: str = "tokens_shape"

    def in_layer(self, number: int) -> "Pass":
        """As layer `number` sees it: taps begin with `layers.N.`, and only the last layer computes fewer tokens.

        `cached` has its own keys and values alone.
        """
        last = number == len(self.spec.layers) - 1
        return replace(
            self,
            tap=lambda name, x: self.tap(f"layers.{number}.{name}", x),
            cached=self.cached[number : number + 1],
            positions=self.positions if last else None,
        )


def gelu_erf(g: Graph, scope: str, x: str) -> str:
    """x Φ(x), with the exact normal distribution function (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return g.node(scope, "Gelu", [x], approximate="none")


def gelu_tanh(g: Graph, scope: str, x: str) -> str:
    """The tanh approximation of `gelu_erf`, from the same paper."""
    return g.node(scope, "Gelu", [x], approximate="tanh")


def relu(g: Graph, scope: str, x: str) -> str:
    """max(x, 0)."""
    return g.node(scope, "Relu", [x])


def silu(g: Graph, scope: str, x: str) -> str:
    """x / (1 + exp(−x)) (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return g.node(scope, "Mul", [x, g.node(scope, "Sigmoid", [x])])


def tanh(g: Graph, scope: str, x: str) -> str:
    """The hyperbolic tangent."""
    return g.node(scope, "Tanh", [x])


def identity(g: Graph, scope: str, x: str) -> str:
    """x."""
    return x


ACTIVATIONS = {
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "relu": relu,
    "silu": silu,
    "tanh": tanh,
    "identity": identity,
}


def build_encoder(g: Graph, spec: EncoderSpec, outputs: Sequence[str]) -> None:
    """Add the encoder with its head to `g`; the named outputs become the graph's, in that order.

    Inputs are int64 [batch, length], and those of an image stream; outputs are float32 with the axes of
    `spec.output_axes`.
    """
    given = inputs(g, spec)
    attention_mask = given["attention_mask"]
    found: dict[str, tuple[int | str, ...]] = {}

    def tap(name: str, x: str) -> str:
        if name in outputs:
            inside = name.startswith("layers.")
            axes = found[name] = ("batch", "length", "width") if inside else spec.output_axes(name)
            if axes[:2] == ("batch", "length"):
                to_tokens(g, name, x, [-1] * len(axes[2:]), result=name)
            elif axes[:2] == ("batch", "regions"):
                to_tokens(g, name, x, [-1] * len(axes[2:]), result=name, shape="regions_shape")
            else:
                g.node(name, "Identity", [x], result=name)
        return x

    p = Pass(g, spec, tap)
    x, regions = encode(p, given, outputs)  # [N, H], [B · R, H]
    tap("last_hidden_state", x)
    pooled = tap("pooler_output", pooler(p, spec.pooler, x)) if spec.pooler else ""  # [B, H]
    if SENTENCE_EMBEDDING in outputs and spec.pooling:
        tap(SENTENCE_EMBEDDING, sentence_embedding(p, spec.pooling, x, attention_mask))
    if TOKEN_WEIGHTS in outputs and spec.token_weights:
        tap(TOKEN_WEIGHTS, token_weights(p, spec.token_weights, x, attention_mask))
    if TOKEN_VECTORS in outputs and spec.token_vectors:
        tap(TOKEN_VECTORS, token_vectors(p, spec.token_vectors, x, attention_mask))
    if "logits" in outputs and isinstance(spec.head, MaskedLMHead):
        logits = tap("logits", mlm_head(p, spec.head, x))
        if TERM_WEIGHTS in outputs:
            tap(TERM_WEIGHTS, term_weights(p, logits, attention_mask))
    elif "logits" in outputs and isinstance(spec.head, LinearHead):
        logits = tap("logits", linear_head(p, spec.head, x, pooled, attention_mask))
        for column, name in enumerate(SPAN_LOGITS if SPAN_LOGITS[0] in outputs else ()):
            tap(name, g.node(name, "Gather", [logits, g.constant(f"column.{column}", INT64, column)], axis=1))  # [N]
    if spec.image and spec.reads_image(outputs):
        image_stream(p, spec.image, regions, given["image_mask"], pooled)
    for name in outputs:
        g.output(name, FLOAT, found[name])


def build_logits_at(g: Graph, spec: EncoderSpec, head: MaskedLMHead) -> None:
    """Add the encoder with its head to `g` for the tokens at `positions` alone.

    Inputs are those of `build_encoder` and `positions`, int64 [count, 2], pairs of row and position; the output is
    `logits` [count, V]. After attention, the last layer computes nothing for other tokens.
    """
    given = inputs(g, spec)
    p = Pass(g, spec, positions=g.input(POSITIONS, INT64, ("count", 2)))
    x, _ = encode(p, given)  # [M, H]
    g.node("logits", "Identity", [mlm_head(p, head, x)], result="logits")
    g.output("logits", FLOAT, ("count", head.vocab_size))


def build_step(g: Graph, spec: EncoderSpec, head: MaskedLMHead) -> None:
    """Add a causal language model to `g` for tokens that follow those of a cache.

    Inputs are `input_ids`, int64 [batch, length]; `attention_mask`, int64 [batch, past + length], 1 for a token; and
    for each layer N `past_key_values.N.key` and `.value`, float32 [batch, K, past, d], where past may be 0. Outputs are
    `logits` [batch, length, V], and `present.N.key` and `.value` [batch, K, past + length, d]: the next step's cache.

    Token j is at position past + j, whatever the mask says: a whole pass counts padding, too. Keys are cached as their
    positions turned them.
    """
    count, d = spec.config.num_key_value_heads, spec.config.head_size
    input_ids = g.input("input_ids", INT64, ("batch", "length"))
    attention_mask = g.input("attention_mask", INT64, ("batch", "past + length"))
    names = cache_names(PAST, len(spec.layers))
    given = [g.input(name, FLOAT, ("batch", count, "past", d)) for name in names]
    g.node("tokens_shape", "Shape", [input_ids], result="tokens_shape")  # B, T
    found = {}

    def tap(name: str, x: str) -> str:
        found[name] = x
        return x

    p = Pass(g, spec, tap, cached=tuple(zip(given[::2], given[1::2], strict=True)))
    x, _ = encode(p, {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": ""})  # [N, H]
    to_tokens(g, "logits", mlm_head(p, head, x), [-1], result="logits")
    g.output("logits", FLOAT, ("batch", "length", head.vocab_size))
    for name in cache_names(PRESENT, len(spec.layers)):
        _, number, part = name.split(".")
        g.node(name, "Identity", [found[f"layers.{number}.present.{part}"]], result=name)
        g.output(name, FLOAT, ("batch", count, "past + length", d))


def inputs(g: Graph, spec: EncoderSpec) -> dict[str, str]:
    """Declare the inputs, and keep for `to_tokens` the shape of tokens and of regions."""
    given = {
        name: g.input(name, FLOAT if name in FLOAT_INPUTS else INT64, axes) for name, axes in spec.input_axes().items()
    }
    g.node("tokens_shape", "Shape", [given["input_ids"]], result="tokens_shape")  # B, T
    if spec.image:
        g.node("regions_shape", "Shape", [given["image_mask"]], result="regions_shape")  # B, R
    return given


def encode(p: Pass, given: Mapping[str, str], outputs: Sequence[str] = ()) -> tuple[str, str]:
    """The last hidden states [N, H] of the inputs' tokens, and the regions [B · R, H] after the shared blocks, if any.

    outputs: those that the pass taps.
    """
    x, regions, start = embeddings(p, given["input_ids"], given["token_type_ids"]), "", 0
    if p.spec.image:
        start = p.spec.image.shared
        regions = region_embeddings(p, p.spec.image, given["image_features"], given["image_boxes"])
        masks = given["attention_mask"], given["image_mask"]
        x, regions = shared_encoder(p, start, x, regions, *masks, outputs)
    return encoder(see(p, given["attention_mask"]), x, start), regions


def embeddings(p: Pass, input_ids: str, token_type_ids: str) -> str:
    """Word + token type + position, then LayerNorm and a projection to H where the family has them."""
    g, scope = p.graph, p.spec.word_embeddings.name.rpartition(".")[0]
    x = g.lookup(p.spec.word_embeddings, input_ids)  # [B, T, E]
    if p.spec.token_type_embeddings:
        x = g.node(scope, "Add", [x, g.lookup(p.spec.token_type_embeddings, token_type_ids)])
    if p.spec.position_embeddings:
        x = g.node(scope, "Add", [x, g.lookup(p.spec.position_embeddings, position_ids(p, input_ids))])
    if p.spec.task_type_embeddings:
        row = g.lookup(p.spec.task_type_embeddings, g.constant("zero", INT64, 0))  # [E]
        x = g.node(scope, "Add", [x, row])
    x = to_rows(g, scope, x, p.spec.word_embeddings.size)  # [N, E]
    if p.spec.embeddings_norm:
        x = layer_norm(p, p.spec.embeddings_norm, x)
    return linear(p, p.spec.embeddings_projection, x) if p.spec.embeddings_projection else x  # [N, H]


def position_ids(p: Pass, input_ids: str) -> str:
    """Rows of the position table: 0, 1, 2, … [T]; or counted from `padding_idx` on, past padding [B, T]."""
    g, scope = p.graph, "position_ids"
    if p.spec.padding_idx is None:
        length = g.node(scope, "Squeeze", [g.node(scope, "Shape", [input_ids], start=1)])
        return g.node(scope, "Range", [g.constant("zero", INT64, 0), length, g.constant("step", INT64, 1)])
    padding = g.constant("padding_idx", INT64, p.spec.padding_idx)
    kept = g.node(scope, "Not", [g.node(scope, "Equal", [input_ids, padding])])
    kept = g.node(scope, "Cast", [kept], to=INT64)
    counted = g.node(scope, "Mul", [g.node(scope, "CumSum", [kept, g.constant("step", INT64, 1)]), kept])
    return g.node(scope, "Add", [counted, padding])


def see(p: Pass, attention_mask: str) -> Pass:
    """The pass with what attention needs beside the hidden states: masks, and the angles of rotary positions."""
    g, scope, d = p.graph, "positions", p.spec.config.head_size
    mask = mask_scores(g, attention_mask)
    if not p.spec.causal and not p.spec.windows and not p.spec.rotary_bases and p.spec.farthest is None:
        return replace(p, mask=mask)

    def number(name: str, value: float, dtype: int = DOUBLE) -> str:
        return g.constant(f"{name}.{value}", dtype, value)

    columns = g.constant("columns", INT64, [1])
    length = g.node(scope, "Squeeze", [g.node(scope, "Shape", [attention_mask], start=1)])
    ends = [number("place", 0.0), g.node(scope, "Cast", [length], to=DOUBLE), number("place", 1.0)]
    places = g.node(scope, "Range", ends)  # [T]
    column = own_rows(p, scope, g.node(scope, "Unsqueeze", [places, columns]))  # [T, 1]
    past, windows, angles = "", {}, {}
    if p.spec.causal:
        seen = g.node(scope, "LessOrEqual", [places, column])  # [T, P + T]
        ahead = [seen, g.constant("nothing", FLOAT, 0.0), g.constant("mask_value", FLOAT, MASK_VALUE)]
        past = g.node(scope, "Min", [mask, g.node(scope, "Where", ahead)])  # not their sum, which overflows
    for window in p.spec.windows:
        distances = g.node(scope, "Abs", [g.node(scope, "Sub", [column, places])])  # [T, T]
        near = g.node(scope, "LessOrEqual", [distances, number("window", float(window))])
        far = [near, g.constant("nothing", FLOAT, 0.0), g.constant("mask_value", FLOAT, MASK_VALUE)]
        windows[window] = g.node(scope, "Min", [mask, g.node(scope, "Where", far)])

    def turns(column: str, base: float) -> tuple[str, str]:
        """Cosines and sines of column · base^(−2i / d): [rows, 1] -> [rows, d / 2]."""
        # In float64: an angle in float32 is off by 4e-4 at position 8,191, as it is in transformers' ModernBERT.
        pairs = g.node(scope, "Range", [number("place", 0.0), number("pairs", d / 2), number("place", 1.0)])
        exponents = g.node(scope, "Mul", [pairs, number("exponent", -2 / d)])
        frequencies = g.node(scope, "Pow", [number("base", base), exponents])  # [d / 2]
        angle = g.node(scope, "Mul", [column, frequencies])
        # cos x = sin (x + π / 2): ONNX Runtime 1.17 has no cosine of float64.
        ahead = g.node(scope, "Add", [angle, g.constant("quarter", DOUBLE, math.pi / 2)])
        cos, sin = (g.node(scope, "Cast", [g.node(scope, "Sin", [x])], to=FLOAT) for x in (ahead, angle))
        return cos, sin

    for base in p.spec.rotary_bases:
        angles[base] = turns(column, base)
    relative = None
    if p.spec.farthest is not None:  # what a key's distance adds to it and to its value: [T, T, d]
        farthest = number("farthest", float(p.spec.farthest))
        ends = [number("place", 0.0), number("distances", 2.0 * p.spec.farthest + 1), number("place", 1.0)]
        cos, sin = turns(g.node(scope, "Unsqueeze", [g.node(scope, "Range", ends), columns]), 10_000.0)
        both = [g.node(scope, "Unsqueeze", [part, g.constant("last_axis", INT64, [-1])]) for part in (sin, cos)]
        table = to_rows(g, scope, g.node(scope, "Concat", both, axis=-1), d)  # [2 · farthest + 1, d]
        distances = g.node(scope, "Sub", [places, column])  # [T, T]
        near = g.node(scope, "Clip", [distances, number("farthest", -float(p.spec.farthest)), farthest])
        near = g.node(scope, "Cast", [g.node(scope, "Add", [near, farthest])], to=INT64)
        relative = g.node(scope, "Gather", [table, near], axis=0)
    return replace(p, mask=mask, past=past, windows=windows, angles=angles, relative=relative)


def own_rows(p: Pass, scope: str, x: str) -> str:
    """[P + T, …] -> [T, …]: those of the pass's own tokens, after the cached ones; without any, x as it is."""
    if not p.cached:
        return x
    g = p.graph
    count = g.node(scope, "Gather", [p.shape, g.constant("columns", INT64, [1])])  # [1]
    ends = [g.node(scope, "Neg", [count]), g.constant("end.last", INT64, [2**63 - 1])]
    return g.node(scope, "Slice", [x, *ends, g.constant("rows", INT64, [0])])


def mask_scores(g: Graph, attention_mask: str) -> str:
    """What is added to attention scores: 0 for a token, MASK_VALUE for padding: [B, 1, 1, T]."""
    scope = "attention_mask"
    kept = g.node(scope, "Cast", [attention_mask], to=FLOAT)  # [B, T]
    hidden = g.node(scope, "Sub", [g.constant("one", FLOAT, 1.0), kept])
    scores = g.node(scope, "Mul", [hidden, g.constant("mask_value", FLOAT, MASK_VALUE)])
    return g.node(scope, "Unsqueeze", [scores, g.constant("heads_and_queries", INT64, [1, 2])])


def region_embeddings(p: Pass, image: ImageStream, features: str, boxes: str) -> str:
    """LayerNorm of the sum of both linear layers: [B, R, F] and [B, R, 5] -> [B · R, H]."""
    g, scope = p.graph, image.norm.name
    x = linear(p, image.features, to_rows(g, scope, features, image.features.inputs))
    place = linear_of_rows(p, image.boxes, to_rows(g, scope, boxes, image.boxes.inputs))
    return layer_norm(p, image.norm, g.node(scope, "Add", [x, place]))


def shared_encoder(
    p: Pass, shared: int, x: str, y: str, attention_mask: str, image_mask: str, outputs: Sequence[str]
) -> tuple[str, str]:
    """The blocks that tokens x [N, H] and regions y [B · R, H] go through as one row, regions first."""
    g, scope, width = p.graph, "shared", p.spec.config.hidden_size
    mask = join_masks(p, attention_mask, image_mask)
    g.node("joined_shape", "Shape", [mask], result="joined_shape")  # B, R + T
    regions = g.node(scope, "Shape", [image_mask], start=1)  # [1]: R
    ends = [g.constant("regions.start", INT64, [0]), regions, g.constant("tokens.end", INT64, [2**63 - 1])]

    def split(z: str) -> tuple[str, str]:
        states = to_tokens(g, scope, z, [-1], shape="joined_shape")
        columns = g.constant("columns", INT64, [1])
        y, x = (g.node(scope, "Slice", [states, *ends[part : part + 2], columns]) for part in (0, 1))
        return to_rows(g, scope, x, width), to_rows(g, scope, y, width)

    def tap(name: str, z: str) -> str:
        if {name, f"{IMAGE_PREFIX}{name}"} & set(outputs):
            for prefix, part in zip(("", IMAGE_PREFIX), split(z), strict=True):
                p.tap(f"{prefix}{name}", part)
        return z

    both = [to_tokens(g, scope, y, [width], shape="regions_shape"), to_tokens(g, scope, x, [width])]
    z = to_rows(g, scope, g.node(scope, "Concat", both, axis=1), width)
    joined = replace(see(p, mask), tap=tap, shape="joined_shape")
    return split(run_blocks(joined, z, 0, shared))


def join_masks(p: Pass, attention_mask: str, image_mask: str) -> str:
    """The mask of regions and tokens as one row, [B, R + T]."""
    return p.graph.node("shared", "Concat", [image_mask, attention_mask], axis=1)


def image_stream(p: Pass, image: ImageStream, y: str, image_mask: str, pooled: str) -> None:
    """Tap what the image's own blocks and heads make of regions y [B · R, H], after the shared blocks.

    pooled: the text's pooler output.
    """
    own = replace(p, spec=p.spec.of_image, tap=lambda name, z: p.tap(f"{IMAGE_PREFIX}{name}", z), shape="regions_shape")
    y = own.tap("last_hidden_state", encoder(see(own, image_mask), y, image.shared))
    image_pooled = own.tap("pooler_output", pooler(own, image.pooler, y))
    p.tap(REGION_LOGITS, linear_head(own, image.region_head, y, "", image_mask))
    p.tap(MATCH_LOGITS, match(p, image, pooled, image_pooled))


def match(p: Pass, image: ImageStream, pooled: str, image_pooled: str) -> str:
    """Logits of whether text and image belong together, [B, 2], from both poolers' outputs [B, pooled]."""
    operator = "Mul" if image.fusion == "mul" else "Add"
    return linear_of_rows(p, image.match, p.graph.node(image.match.name, operator, [pooled, image_pooled]))


def encoder(p: Pass, x: str, start: int = 0) -> str:
    """Every block from `start` on; `hidden_states.N` is the input of block N, the last is the result."""
    x = run_blocks(p, x, start, len(p.spec.blocks))
    if p.spec.final_norm:
        x = layer_norm(p, p.spec.final_norm, x)
    return p.tap(f"hidden_states.{len(p.spec.blocks)}", x)


def run_blocks(p: Pass, x: str, start: int, end: int) -> str:
    """Blocks `start` … `end` − 1 in turn."""
    for index, block in p.spec.numbered_blocks[start:end]:
        x = p.tap(f"hidden_states.{index}", x)
        for number, layer in block:
            x = encoder_layer(p.in_layer(number), layer, x)
    return x


def encoder_layer(p: Pass, layer: Layer, x: str) -> str:
    """Attention and feed-forward, each with a residual; LayerNorm after each sum, or before each part.

    Gives [M, H] where the pass names positions.
    """
    g, scope = p.graph, layer.attention_output.name
    if layer.norm_first or not layer.attention_norm:
        attended = attention(p, layer, layer_norm(p, layer.attention_norm, x) if layer.attention_norm else x)
        x = p.tap("after_attention", g.node(scope, "Add", [tokens_at(p, scope, x), attended]))
        transformed = feed_forward(p, layer, layer_norm(p, layer.output_norm, x))
        return g.node(layer.output.name, "Add", [x, transformed])
    y = attention(p, layer, x)
    x = tokens_at(p, scope, x)
    x = p.tap("after_attention", add_and_norm(p, layer.attention_norm, layer.attention_adapter, x, y))
    return add_and_norm(p, layer.output_norm, layer.output_adapter, x, feed_forward(p, layer, x))


def add_and_norm(p: Pass, norm: Norm, part: Adapter | None, x: str, y: str) -> str:
    """LayerNorm(x + y) of a sub-layer's input and output, with an adapter on the way where there is one."""
    g = p.graph
    if part is None:
        return layer_norm(p, norm, g.node(norm.name, "Add", [x, y]))
    z = adapter(p, norm, part, x, y)
    if part.adds is None:
        return z
    return layer_norm(p, norm, g.node(norm.name, "Add", [z, x if part.adds == INPUT else y]))


def adapter(p: Pass, norm: Norm, part: Adapter, x: str, y: str) -> str:
    """A bottleneck and the residual around it: the z of `yizhi.model.spec.Adapter`."""
    g, scope = p.graph, part.up.name

    def take(which: str) -> str:
        if which in (INPUT, OUTPUT):
            return x if which == INPUT else y
        total = g.node(norm.name, "Add", [x, y])
        return total if which == SUM else layer_norm(p, norm, total)

    read = take(part.reads)  # [N, H]
    z = layer_norm(p, part.norm_before, read) if part.norm_before else read
    z = linear(p, part.up, ACTIVATIONS[part.activation](g, part.down.name, linear(p, part.down, z)))  # [N, H]
    if isinstance(part.scaling, Scaling):
        z = g.node(scope, "Mul", [z, g.weight(part.scaling.name)])
    elif part.scaling != 1.0:
        z = g.node(scope, "Mul", [z, g.constant("adapter_scaling", FLOAT, part.scaling)])
    residual = read if part.residual == part.reads else take(part.residual)
    if part.residual_in_norm:
        z = g.node(scope, "Add", [z, residual])
    if part.norm_after:
        z = layer_norm(p, part.norm_after, z)
    return z if part.residual_in_norm else g.node(scope, "Add", [z, residual])


def attention(p: Pass, layer: Layer, x: str) -> str:
    """softmax(Q Kᵀ / √d + mask) V over A heads of width d (Vaswani et al. 2017, arXiv:1706.03762), projected."""
    g, scope = p.graph, layer.query.name.rpartition(".")[0]
    count, shared, d = p.spec.config.num_attention_heads, p.spec.config.num_key_value_heads, p.spec.config.head_size

    def split(part: Linear, y: str, order: Sequence[int]) -> str:
        split = to_tokens(g, part.name, y, [heads_of(p, part), d], shape=p.shape)
        return g.node(part.name, "Transpose", [split], perm=order)

    def share(part: Linear, y: str) -> str:
        if heads_of(p, part) == count:
            return y
        owners = g.constant("owners", INT64, [head * shared // count for head in range(count)])
        return g.node(part.name, "Gather", [y, owners], axis=1)  # each head once for each that shares it

    def follow(part: Linear, name: str, earlier: str, y: str) -> str:
        y = split(part, y, (0, 2, 1, 3))  # [B, K, T, d]
        return p.tap(name, g.node(f"{part.name}/cached", "Concat", [earlier, y], axis=2))  # [B, K, P + T, d]

    query, key, value = projections(p, layer, x)
    if layer.query_norm and layer.key_norm:  # of each head, [N · A, d]
        query = layer_norm(p, layer.query_norm, to_rows(g, layer.query.name, query, d))
        key = layer_norm(p, layer.key_norm, to_rows(g, layer.key.name, key, d))
    if layer.rotary:
        query, key = rotary(p, layer.query, layer.rotary, query), rotary(p, layer.key, layer.rotary, key)
        value = rotary(p, layer.value, layer.rotary, value) if layer.rotary.values else value
    query = split(layer.query, query, (0, 2, 1, 3))  # [B, A, T, d]
    if p.cached:
        ((earlier_key, earlier_value),) = p.cached
        key = follow(layer.key, "present.key", earlier_key, key)
        key = g.node(f"{layer.key.name}/cached", "Transpose", [key], perm=(0, 1, 3, 2))
        value = follow(layer.value, "present.value", earlier_value, value)
    else:
        key = split(layer.key, key, (0, 2, 3, 1))
        value = split(layer.value, value, (0, 2, 1, 3))
    key, value = share(layer.key, key), share(layer.value, value)  # [B, A, d, P + T] and [B, A, P + T, d]
    scale = g.constant(f"attention_scale.{d}", FLOAT, d**-0.5)
    scores = g.node(f"{scope}/scores", "MatMul", [query, key])  # [B, A, T, T]
    if layer.farthest is not None and p.relative:
        apart = g.node(f"{scope}/scores", "Einsum", [query, p.relative], equation="baqd,qkd->baqk")
        scores = g.node(f"{scope}/scores", "Add", [scores, apart])
    scores = g.node(scope, "Mul", [scores, scale])
    mask = p.past if layer.causal else p.mask if layer.window is None else p.windows[layer.window]
    weights = g.node(scope, "Softmax", [g.node(scope, "Add", [scores, mask])], axis=-1)
    context = g.node(f"{scope}/context", "MatMul", [weights, value])  # [B, A, T, d]
    if layer.farthest is not None and p.relative:
        apart = g.node(f"{scope}/context", "Einsum", [weights, p.relative], equation="baqk,qkd->baqd")
        context = g.node(f"{scope}/context", "Add", [context, apart])
    context = g.node(scope, "Transpose", [context], perm=(0, 2, 1, 3))
    if p.positions:
        context = g.node(scope, "GatherND", [context, p.positions])  # [M, A, d]
    context = p.tap("context", to_rows(g, scope, context, count * d))  # [N, A · d] or [M, A · d]
    return p.tap("attention_output", linear(p, layer.attention_output, context))


def projections(p: Pass, layer: Layer, x: str) -> tuple[str, str, str]:
    """Queries [N, A · d], keys and values, [N, K · d] each of K heads."""
    if layer.fused:
        g, scope, all_three = p.graph, layer.query.name, linear(p, layer.query, x)
        hidden = p.spec.config.hidden_size
        ends = [g.constant(f"end.{end}", INT64, [end]) for end in (0, hidden, 2 * hidden, 3 * hidden)]
        axis = g.constant("last_axis", INT64, [-1])
        query, key, value = (g.node(scope, "Slice", [all_three, *ends[part : part + 2], axis]) for part in range(3))
    else:
        query, key, value = (linear(p, part, x) for part in (layer.query, layer.key, layer.value))
    return p.tap("query", query), p.tap("key", key), p.tap("value", value)


def rotary(p: Pass, part: Linear, turn: Rotary, x: str) -> str:
    """Each pair (a, b) of a head's elements turned by its position's angle: [N, A · d] -> [B, T, A, d], in two axes."""
    g, scope, pairs = p.graph, f"{part.name}/rotary", p.spec.config.head_size // 2
    axis = 4 if turn.interleaved else 3
    x = to_tokens(g, scope, x, [heads_of(p, part), *((pairs, 2) if turn.interleaved else (2, pairs))], shape=p.shape)
    a, b = (g.node(scope, "Gather", [x, g.constant(f"half.{half}", INT64, [half])], axis=axis) for half in (0, 1))
    # [T, d / 2] -> [T, 1, d / 2, 1], or [T, 1, 1, d / 2]
    axes = g.constant(f"angle.{axis}", INT64, [1, axis - 1])
    cos, sin = (g.node(scope, "Unsqueeze", [table, axes]) for table in p.angles[turn.base])

    def sum_of(operator: str, one: str, other: str) -> str:
        return g.node(scope, operator, [g.node(scope, "Mul", [one, cos]), g.node(scope, "Mul", [other, sin])])

    return g.node(scope, "Concat", [sum_of("Sub", a, b), sum_of("Add", b, a)], axis=axis)


def heads_of(p: Pass, part: Linear) -> int:
    """How many heads a linear layer gives; one that gives queries, keys and values has as many of each."""
    return min(part.outputs // p.spec.config.head_size, p.spec.config.num_attention_heads)


def tokens_at(p: Pass, scope: str, x: str) -> str:
    """[N, H] -> [M, H]: the tokens at (row, position) pairs [M, 2]; without any, x as it is."""
    if p.positions is None:
        return x
    g = p.graph
    # By row and position, not by their place among all rows: then a position beyond its row is an error.
    return g.node(scope, "GatherND", [to_tokens(g, scope, x, [p.spec.config.hidden_size], shape=p.shape), p.positions])


def feed_forward(p: Pass, layer: Layer, x: str) -> str:
    """Two linear layers with the activation between them, and its gate where there is one."""
    g, activation, part = p.graph, ACTIVATIONS[p.spec.config.activation], layer.intermediate
    if layer.up:
        scope, up = part.name.rpartition(".")[0], linear(p, layer.up, x)
        x = g.node(scope, "Mul", [activation(g, part.name, linear(p, part, x)), up])  # [N, I]
    elif layer.gated:
        x, middle = linear(p, part, x), layer.output.inputs  # [N, 2 I]
        ends = [g.constant(f"end.{end}", INT64, [end]) for end in (0, middle, 2 * middle)]
        axis = g.constant("last_axis", INT64, [-1])
        x, gate = (g.node(part.name, "Slice", [x, *ends[half : half + 2], axis]) for half in (0, 1))
        x = g.node(part.name, "Mul", [activation(g, part.name, x), gate])  # [N, I]
    else:
        x = g.activated(part, activation, x, layer.output)  # [N, I]
    return p.tap("output", linear(p, layer.output, p.tap("intermediate", x)))  # [N, H]


def pooler(p: Pass, dense: Dense, x: str) -> str:
    """A linear layer with its activation, tanh in most families, over the first token: [B, pooled]."""
    name = dense.linear.name
    return ACTIVATIONS[dense.activation](p.graph, name, linear(p, dense.linear, first_tokens(p, name, x)))


def sentence_embedding(p: Pass, pooling: Pooling, x: str, attention_mask: str) -> str:
    """[N, H] -> [B, D]: each row's own tokens as one vector."""
    g, scope = p.graph, "pooling"

    def axis(number: int) -> str:
        return g.constant(f"axis.{number}", INT64, [number])

    states = to_tokens(g, scope, x, [p.spec.config.hidden_size])  # [B, T, H]
    kept = g.node(scope, "Cast", [attention_mask], to=FLOAT)  # [B, T]
    if pooling.mode == "mean":
        # A product, because its sums do not change with padding after them, to the last bit; and of two equal rows,
        # because ONNX Runtime multiplies one by another kernel, which adds four tokens at a time.
        one = g.node(scope, "Unsqueeze", [kept, axis(1)])  # [B, 1, T]
        total = g.node(scope, "MatMul", [g.node(scope, "Concat", [one, one], axis=1), states])  # [B, 2, H]
        total = g.node(scope, "Gather", [total, g.constant("first", INT64, 0)], axis=1)  # [B, H]
        count = g.node(scope, "Max", [g.node(scope, "ReduceSum", [kept, axis(1)]), g.constant("one", FLOAT, 1.0)])
        pooled = g.node(scope, "Div", [total, count])
    elif pooling.mode == "max":
        lowest = g.node(scope, "Sub", [kept, g.constant("one", FLOAT, 1.0)])
        lowest = g.node(scope, "Mul", [lowest, g.constant("highest", FLOAT, -MASK_VALUE)])
        hidden = g.node(scope, "Add", [states, g.node(scope, "Unsqueeze", [lowest, axis(-1)])])  # [B, T, H]
        highest = g.node(scope, "ReduceMax", [hidden, axis(1)], keepdims=0)
        pooled = g.node(scope, "Mul", [highest, g.node(scope, "ReduceMax", [kept, axis(1)])])
    else:
        place = g.node(scope, "ArgMax", [kept], axis=1, select_last_index=int(pooling.mode == "last"))  # [B, 1]
        pooled = g.node(scope, "GatherND", [states, place], batch_dims=1)
    for dense in pooling.dense:
        name = dense.linear.name
        pooled = ACTIVATIONS[dense.activation](g, name, linear_of_rows(p, dense.linear, pooled))
    if pooling.dimensions:
        pooled = shorten(p, pooled, pooling.dimensions)
    return normalize(p, scope, pooled) if pooling.normalize else pooled


def shorten(p: Pass, x: str, size: int) -> str:
    """The first so many numbers of each vector."""
    g = p.graph
    ends = [g.constant(f"end.{end}", INT64, [end]) for end in (0, size)]
    return g.node("pooling", "Slice", [x, *ends, g.constant("axis.-1", INT64, [-1])])


def normalize(p: Pass, scope: str, x: str) -> str:
    """Each vector along the last axis over its L2 norm."""
    g = p.graph
    norm = g.node(scope, "ReduceL2", [x, g.constant("axis.-1", INT64, [-1])])
    return g.node(scope, "Div", [x, g.node(scope, "Max", [norm, g.constant("shortest", FLOAT, SHORTEST_NORM)])])


def token_weights(p: Pass, head: Dense, x: str, attention_mask: str) -> str:
    """[N, H] -> [N]: each token's weight for lexical matching, 0 at padding."""
    g, scope = p.graph, head.linear.name
    weights = ACTIVATIONS[head.activation](g, scope, linear(p, head.linear, x))  # [N, 1]
    return to_rows(g, scope, g.node(scope, "Mul", [weights, kept_tokens(p, scope, attention_mask)]), 1)


def token_vectors(p: Pass, dense: Linear, x: str, attention_mask: str) -> str:
    """[N, H] -> [N, D]: each token's vector of length 1, zeros at padding."""
    g, scope = p.graph, dense.name
    own = g.node(scope, "Mul", [linear(p, dense, x), kept_tokens(p, scope, attention_mask)])
    return normalize(p, scope, own)


def kept_tokens(p: Pass, scope: str, attention_mask: str) -> str:
    """1 for a token, 0 for padding: [B, T] -> [N, 1]."""
    return to_rows(p.graph, scope, p.graph.node(scope, "Cast", [attention_mask], to=FLOAT), 1)


def term_weights(p: Pass, logits: str, attention_mask: str) -> str:
    """[N, V] -> [B, V]: log(1 + relu) of the highest logit over a row's own tokens; both only grow."""
    g, scope = p.graph, "terms"
    own = g.node(scope, "Cast", [attention_mask], to=BOOL)  # [B, T]
    own = g.node(scope, "Unsqueeze", [own, g.constant("axis.-1", INT64, [-1])])
    zero = g.constant("zero.float", FLOAT, 0.0)
    shown = g.node(scope, "Where", [own, to_tokens(g, scope, logits, [-1]), zero])  # [B, T, V]
    highest = g.node(scope, "ReduceMax", [shown, g.constant("axis.1", INT64, [1])], keepdims=0)
    above = g.node(scope, "Add", [relu(g, scope, highest), g.constant("one", FLOAT, 1.0)])
    # Not Log: ONNX Runtime splits a batch's elements among threads, and those left over after whole vectors of the
    # processor have other last bits. A sum of one term has its logarithm taken alone.
    last = g.constant("axis.-1", INT64, [-1])
    return g.node(scope, "ReduceLogSum", [g.node(scope, "Unsqueeze", [above, last]), last], keepdims=0)


def mlm_head(p: Pass, head: MaskedLMHead, x: str) -> str:
    """Vocabulary logits [N, V]."""
    g = p.graph
    if head.dense:
        x = ACTIVATIONS[head.activation](g, head.dense.name, linear(p, head.dense, x))  # [N, E]
    if head.norm:
        x = layer_norm(p, head.norm, x)
    return g.linear(head.decoder_name, head.decoder, head.decoder_bias, x)


def linear_head(p: Pass, head: LinearHead, x: str, pooled: str, attention_mask: str) -> str:
    """Label logits over every token [N, labels]; the first, the mean of all or the pooler's output [B, labels]."""
    if head.over == "first_token":
        x = first_tokens(p, head.projection.name, x)
    elif head.over == "pooler":
        x = pooled
    elif head.over == "mean":
        x = sentence_embedding(p, Pooling("mean"), x, attention_mask)
    if head.dense:
        dense = head.dense.linear
        x = ACTIVATIONS[head.dense.activation](p.graph, dense.name, linear(p, dense, x))
        x = layer_norm(p, head.dense.norm, x) if head.dense.norm else x
    return linear(p, head.projection, x)


def linear(p: Pass, layer: Linear, x: str) -> str:
    """x Wᵀ + b, or x Wᵀ."""
    return p.graph.linear(layer.name, layer.weight, layer.bias, x)


def linear_of_rows(p: Pass, layer: Linear, x: str) -> str:
    """`linear` of one vector for each row, [B, inputs] -> [B, outputs], whose bits do not change with B.

    Of two equal batches, because ONNX Runtime multiplies a single row by another kernel.
    """
    g, scope = p.graph, layer.name
    twice = linear(p, layer, g.node(scope, "Concat", [x, x], axis=0))
    half = g.node(scope, "Shape", [x], end=1)  # [1]: B
    return g.node(scope, "Slice", [twice, g.constant("end.0", INT64, [0]), half])


def layer_norm(p: Pass, norm: Norm, x: str) -> str:
    """(x − mean) / √(variance + ε) · scale + offset over the last axis (Ba et al. 2016, arXiv:1607.06450).

    Where it is not centred, x / √(mean of x² + ε) · scale (Zhang and Sennrich 2019, arXiv:1910.07467).
    """
    g = p.graph
    if not norm.centred:
        square = g.node(norm.name, "Pow", [x, g.constant("two", FLOAT, 2.0)])
        mean = g.node(norm.name, "ReduceMean", [square, g.constant("last_axis", INT64, [-1])])
        mean = g.node(norm.name, "Add", [mean, g.constant(f"epsilon.{norm.epsilon}", FLOAT, norm.epsilon)])
        y = g.node(norm.name, "Div", [x, g.node(norm.name, "Sqrt", [mean])])
        return g.node(norm.name, "Mul", [y, g.weight(norm.weight)])
    if norm.bias:
        offset = g.weight(norm.bias)
    else:  # an offset may be left out, but ONNX Runtime 1.17 reads one where it fuses
        size = g.constant(f"shape.{norm.size}", INT64, [norm.size])
        offset = g.node(norm.name, "Expand", [g.constant("nothing", FLOAT, 0.0), size])
    inputs = [x, g.weight(norm.weight), offset]
    return g.node(norm.name, "LayerNormalization", inputs, axis=-1, epsilon=norm.epsilon)


def to_tokens(
    g: Graph, scope: str, rows: str, axes: Sequence[int], result: str = "", shape: str = "tokens_shape"
) -> str:
    """[N, …] -> [B, T, *axes]. shape: B, T."""
    if axes:
        name = "x".join(map(str, axes))
        shape = g.node(scope, "Concat", [shape, g.constant(f"axes.{name}", INT64, axes)], axis=0)
    return g.node(scope, "Reshape", [rows, shape], result=result)


def to_rows(g: Graph, scope: str, x: str, width: int) -> str:
    """[B, T, …] -> [N, width]."""
    return g.node(scope, "Reshape", [x, g.constant(f"rows.{width}", INT64, [-1, width])])


def first_tokens(p: Pass, scope: str, x: str) -> str:
    """[N, H] -> [B, H]."""
    g = p.graph
    tokens = to_tokens(g, scope, x, [p.spec.config.hidden_size], shape=p.shape)
    return g.node(scope, "Gather", [tokens, g.constant("zero", INT64, 0)], axis=1)

"""LiteRT: the encoder as a subgraph of built-in operators, built one by one.

The functions are those of the PyTorch forward, in the same order. B and T are the inputs' at each call: shapes that
depend on them are computed by `SHAPE`, which the interpreter does when its inputs are resized, before it runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from yizhi.converters.forwards.passes import Tap, ignore, keep
from yizhi.converters.litert_graph import ANY, FLOAT, INT32, Graph, Value
from yizhi.converters.litert_operators import add, as_float, cut, expand, gather, multiply, stride, subtract, swap
from yizhi.model.rotary import make_table, table_names
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


@dataclass(frozen=True)
class Pass:
    """One run of an encoder as operators of a graph: `passes.Pass`, with the graph's values.

    length: T as a value. heads: by A, the shape [B, T, A, d] as a value. rows: the shape [B, T, A · d] as a value.
    mask: what is added to attention scores, [B, 1, 1, T]. ones: [T, 1].
    past: the mask of causal layers: what hides padding and what comes after a token, [B, 1, T, T].
    windows: by window, the mask of layers that have it: what hides padding and what is further away, [B, 1, T, T].
    angles: by base, the cosines and sines of rotary positions, [T, 1, d / 2] each.
    relative: what a key's distance adds to it and to its value, [T, 1, T, d], where the layers have that.
    positions: the tokens [N, 2], each by row and position, that the last layer is to compute; all [B, T] if None.
    """

    graph: Graph
    spec: EncoderSpec
    length: Value
    heads: Mapping[int, Value]
    rows: Value
    mask: Value
    ones: Value
    past: Value | None = None
    windows: Mapping[int, Value] = field(default_factory=dict)
    angles: Mapping[float, tuple[Value, Value]] = field(default_factory=dict)
    relative: Value | None = None
    tap: Tap[Value] = ignore
    positions: Value | None = None

    def in_layer(self, number: int) -> "Pass":
        """As layer `number` sees it: taps begin with `layers.N.`, and only the last layer computes fewer tokens."""
        last = number == len(self.spec.layers) - 1
        return replace(
            self,
            tap=lambda name, x: self.tap(f"layers.{number}.{name}", x),
            positions=self.positions if last else None,
        )


def gelu_erf(g: Graph, scope: str, x: Value) -> Value:
    """x Φ(x), with the exact normal distribution function (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return g.node(scope, "GELU", [x], x.shape, schema.GeluOptionsT(approximate=False))


def gelu_tanh(g: Graph, scope: str, x: Value) -> Value:
    """The tanh approximation of `gelu_erf`, from the same paper."""
    return g.node(scope, "GELU", [x], x.shape, schema.GeluOptionsT(approximate=True))


def relu(g: Graph, scope: str, x: Value) -> Value:
    """max(x, 0)."""
    return g.node(scope, "RELU", [x], x.shape)


def silu(g: Graph, scope: str, x: Value) -> Value:
    """x / (1 + exp(−x)) (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return multiply(g, scope, x, g.node(scope, "LOGISTIC", [x], x.shape))


def tanh(g: Graph, scope: str, x: Value) -> Value:
    """The hyperbolic tangent."""
    return g.node(scope, "TANH", [x], x.shape)


def identity(g: Graph, scope: str, x: Value) -> Value:
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

    Inputs are int32 [batch, length], and those of an image stream; outputs are float32 with the axes of
    `spec.output_axes`.
    """
    given = inputs(g, spec)
    attention_mask = given["attention_mask"]
    found: dict[str, Value] = {}
    p = begin(g, spec, attention_mask, keep(outputs, found))
    x, regions = encode(p, given, outputs)  # [B, T, H], [B, R, H]
    p.tap("last_hidden_state", x)
    pooled = p.tap("pooler_output", pooler(p, spec.pooler, x)) if spec.pooler else None  # [B, H]
    if SENTENCE_EMBEDDING in outputs and spec.pooling:
        p.tap(SENTENCE_EMBEDDING, sentence_embedding(p, spec.pooling, x, attention_mask))
    if TOKEN_WEIGHTS in outputs and spec.token_weights:
        p.tap(TOKEN_WEIGHTS, token_weights(p, spec.token_weights, x, attention_mask))
    if TOKEN_VECTORS in outputs and spec.token_vectors:
        p.tap(TOKEN_VECTORS, token_vectors(p, spec.token_vectors, x, attention_mask))
    if "logits" in outputs and isinstance(spec.head, MaskedLMHead):
        logits = p.tap("logits", mlm_head(p, spec.head, x))
        if TERM_WEIGHTS in outputs:
            p.tap(TERM_WEIGHTS, term_weights(p, logits, attention_mask))
    elif "logits" in outputs and isinstance(spec.head, LinearHead):
        p.tap("logits", linear_head(p, spec.head, x, pooled, attention_mask))
    if spec.image and regions and pooled:
        image_stream(p, spec.image, regions, given["image_mask"], pooled)
    for name in outputs:
        g.output(name, found[name])


def build_logits_at(g: Graph, spec: EncoderSpec, head: MaskedLMHead) -> None:
    """Add the encoder with its head to `g` for the tokens at `positions` alone.

    Inputs are those of `build_encoder` and `positions`, int32 [count, 2], pairs of row and position; the output is
    `logits` [count, V]. After attention, the last layer computes nothing for other tokens.
    """
    given = inputs(g, spec)
    p = begin(g, spec, given["attention_mask"])
    x, _ = encode(replace(p, positions=g.input(POSITIONS, INT32, (ANY, 2))), given)  # [N, H]
    g.output("logits", mlm_head(p, head, x))


def inputs(g: Graph, spec: EncoderSpec) -> dict[str, Value]:
    """Declare the inputs."""
    return {
        name: g.input(
            name,
            FLOAT if name in FLOAT_INPUTS else INT32,
            tuple(axis if isinstance(axis, int) else ANY for axis in axes),
        )
        for name, axes in spec.input_axes().items()
    }


def begin(g: Graph, spec: EncoderSpec, attention_mask: Value, tap: Tap[Value] = ignore, scope: str = "tokens") -> Pass:
    """A pass over the rows that a mask [B, T] is of."""
    config = spec.config
    tokens = g.node(scope, "SHAPE", [attention_mask], (2,), schema.ShapeOptionsT(outType=INT32), dtype=INT32)

    def extend(shape: Value, *axes: int) -> Value:
        size = (shape.shape[0] + len(axes),)
        parts = [shape, g.constant(f"axes.{'x'.join(map(str, axes))}", axes)]
        return g.node(scope, "CONCATENATION", parts, size, schema.ConcatenationOptionsT(), dtype=INT32)

    length = gather(g, scope, tokens, g.constant("one", 1), axis=0, dtype=INT32)
    column = extend(gather(g, scope, tokens, g.constant("axis.1", [1]), axis=0, dtype=INT32), 1)
    count, shared, d = config.num_attention_heads, config.num_key_value_heads, config.head_size
    heads = {size: extend(tokens, size, d) for size in dict.fromkeys((count, shared))}
    rows = extend(tokens, count * d)
    ones = g.node(scope, "FILL", [column, g.constant("one.float", 1, np.float32)], (ANY, 1))
    return see(Pass(g, spec, length, heads, rows, mask_scores(g, attention_mask), ones, tap=tap))


def encode(p: Pass, given: Mapping[str, Value], outputs: Sequence[str] = ()) -> tuple[Value, Value | None]:
    """The last hidden states [B, T, H] of the tokens, and the regions [B, R, H] after the shared blocks, if any.

    outputs: those that the pass taps.
    """
    x, regions, start = embeddings(p, given["input_ids"], given["token_type_ids"]), None, 0
    if p.spec.image:
        start = p.spec.image.shared
        regions = region_embeddings(p, p.spec.image, given["image_features"], given["image_boxes"])
        x, regions = shared_encoder(p, start, x, regions, given["attention_mask"], given["image_mask"], outputs)
    return encoder(p, x, start), regions


def embeddings(p: Pass, input_ids: Value, token_type_ids: Value) -> Value:
    """Word + token type + position, then LayerNorm and a projection to H where the family has them."""
    g, spec, scope = p.graph, p.spec, p.spec.word_embeddings.name.rpartition(".")[0]
    x = g.lookup(spec.word_embeddings, input_ids)  # [B, T, E]
    if spec.token_type_embeddings:
        x = add(g, scope, x, g.lookup(spec.token_type_embeddings, token_type_ids))
    if spec.position_embeddings:
        x = add(g, scope, x, g.lookup(spec.position_embeddings, position_ids(p, input_ids)))
    if spec.task_type_embeddings:
        x = add(g, scope, x, g.lookup(spec.task_type_embeddings, g.constant("zero", 0)))
    if spec.embeddings_norm:
        x = layer_norm(p, spec.embeddings_norm, x)
    return linear(p, spec.embeddings_projection, x) if spec.embeddings_projection else x  # [B, T, H]


def position_ids(p: Pass, input_ids: Value) -> Value:
    """Rows of the position table: 0, 1, 2, … [T]; or counted from `padding_idx` on, past padding [B, T]."""
    g, scope, one = p.graph, "position_ids", p.graph.constant("one", 1)
    if p.spec.padding_idx is None:
        return g.node(scope, "RANGE", [g.constant("zero", 0), p.length, one], (ANY,), dtype=INT32)
    padding, shape = g.constant("padding_idx", p.spec.padding_idx), input_ids.shape
    kept = g.node(scope, "NOT_EQUAL", [input_ids, padding], shape, dtype=schema.TensorType.BOOL)
    kept = g.node(scope, "CAST", [kept], shape, dtype=INT32)
    counted = g.node(scope, "CUMSUM", [kept, one], shape, schema.CumsumOptionsT(), dtype=INT32)
    counted = g.node(scope, "MUL", [counted, kept], shape, schema.MulOptionsT(), dtype=INT32)
    return g.node(scope, "ADD", [counted, padding], shape, schema.AddOptionsT(), dtype=INT32)


def mask_scores(g: Graph, attention_mask: Value) -> Value:
    """What is added to attention scores: 0 for a token, MASK_VALUE for padding: [B, 1, 1, T]."""
    scope = "attention_mask"
    hidden = subtract(g, scope, g.constant("one.float", 1, np.float32), as_float(g, scope, attention_mask))  # [B, T]
    scores = multiply(g, scope, hidden, g.constant("mask_value", MASK_VALUE, np.float32))
    for _ in range(2):
        scores = expand(g, scope, scores, 1)
    return scores


def see(p: Pass) -> Pass:
    """The pass with what attention needs beside hidden states and mask: windows, and angles of rotary positions."""
    g, scope, config, kind = p.graph, "places", p.spec.config, np.float32
    if not p.spec.causal and not p.spec.windows and not p.spec.rotary_bases and p.spec.farthest is None:
        return p
    ends = [g.constant("zero", 0), p.length, g.constant("one", 1)]
    places = g.node(scope, "RANGE", ends, (ANY,), dtype=INT32)  # [T]
    past, windows, angles = None, {}, {}

    def hide(beyond: Value) -> Value:
        """The mask, and MASK_VALUE where an integer [T, T] is above 0: [B, 1, T, T]."""
        beyond = g.node(scope, "RELU", [beyond], beyond.shape)
        far = g.node(scope, "MINIMUM", [beyond, g.constant("one.float", 1, kind)], beyond.shape)  # 0 or 1
        far = multiply(g, scope, far, g.constant("mask_value", MASK_VALUE, kind))
        return g.node(scope, "MINIMUM", [p.mask, far], (ANY, 1, ANY, ANY))  # their sum might overflow

    if p.spec.causal:
        numbers = as_float(g, scope, places)
        past = hide(g.node(scope, "SUB", [numbers, expand(g, scope, numbers, 1)], (ANY, ANY)))
    for window in p.spec.windows:
        numbers = as_float(g, scope, places)
        distances = g.node(scope, "SUB", [expand(g, scope, numbers, 1), numbers], (ANY, ANY))
        distances = g.node(scope, "ABS", [distances], distances.shape)
        windows[window] = hide(subtract(g, scope, distances, g.constant(f"window.{window}", window, kind)))
    for base in p.spec.rotary_bases:
        tables = (
            g.constant(name, make_table(name, config.max_position_embeddings, config.head_size // 2)[:, None], kind)
            for name in table_names(base)
        )
        cos, sin = (gather(g, scope, table, places, axis=0) for table in tables)  # [T, 1, d / 2]
        angles[base] = cos, sin
    relative = None if p.spec.farthest is None else relative_positions(p, p.spec.farthest, places)
    return replace(p, past=past, windows=windows, angles=angles, relative=relative)


def relative_positions(p: Pass, farthest: int, places: Value) -> Value:
    """What a key's distance adds to it and to its value, [T, 1, T, d]; the formula: `yizhi.model.spec.Layer`."""
    g, scope, d, rows = p.graph, "places", p.spec.config.head_size, 2 * farthest + 1
    cos, sin = (g.constant(name, make_table(name, rows, d // 2), np.float32) for name in table_names(10_000.0))
    both = g.node(scope, "PACK", [sin, cos], (rows, d // 2, 2), schema.PackOptionsT(valuesCount=2, axis=2))
    table = g.node(scope, "RESHAPE", [both, g.constant("distances", [rows, d])], (rows, d))
    column = g.node(scope, "EXPAND_DIMS", [places, g.constant("axis.1", [1])], (ANY, 1), dtype=INT32)
    near = g.node(scope, "SUB", [places, column], (ANY, ANY), dtype=INT32)
    for operator, number in (("MINIMUM", farthest), ("MAXIMUM", -farthest), ("ADD", farthest)):
        near = g.node(scope, operator, [near, g.constant(f"distance.{number}", number)], near.shape, dtype=INT32)
    return expand(g, scope, gather(g, scope, table, near, axis=0), 1)


def region_embeddings(p: Pass, image: ImageStream, features: Value, boxes: Value) -> Value:
    """LayerNorm of the sum of both linear layers: [B, R, F] and [B, R, 5] -> [B, R, H]."""
    x, place = linear(p, image.features, features), linear(p, image.boxes, boxes)
    return layer_norm(p, image.norm, add(p.graph, image.norm.name, x, place))


def shared_encoder(
    p: Pass, shared: int, x: Value, y: Value, attention_mask: Value, image_mask: Value, outputs: Sequence[str]
) -> tuple[Value, Value]:
    """The blocks that tokens x [B, T, H] and regions y [B, R, H] go through as one row, regions first."""
    g, scope = p.graph, "shared"
    shape = g.node(scope, "SHAPE", [image_mask], (2,), schema.ShapeOptionsT(outType=INT32), dtype=INT32)
    regions = gather(g, scope, shape, g.constant("axis.1", [1]), axis=0, dtype=INT32)  # [1]: R

    def around(name: str, *numbers: int) -> Value:
        """R between two numbers: [3]."""
        parts = [g.constant(f"{name}.{axis}", [number]) for axis, number in zip((0, 2), numbers, strict=True)]
        parts.insert(1, regions)
        return g.node(scope, "CONCATENATION", parts, (3,), schema.ConcatenationOptionsT(), dtype=INT32)

    ends = (around("first", 0, 0), g.constant("sizes.all", [ANY, ANY, ANY]))
    ends_of_regions = (g.constant("begin.all", [0, 0, 0]), around("size", ANY, ANY))

    def split(z: Value) -> tuple[Value, Value]:
        x, y = (
            g.node(scope, "SLICE", [z, *places], z.shape, schema.SliceOptionsT()) for places in (ends, ends_of_regions)
        )
        return x, y

    def tap(name: str, z: Value) -> Value:
        if {name, f"{IMAGE_PREFIX}{name}"} & set(outputs):
            for prefix, part in zip(("", IMAGE_PREFIX), split(z), strict=True):
                p.tap(f"{prefix}{name}", part)
        return z

    options = schema.ConcatenationOptionsT(axis=1)
    z = g.node(scope, "CONCATENATION", [y, x], x.shape, options)  # [B, R + T, H]
    joined = begin(g, p.spec, join_masks(p, attention_mask, image_mask), tap, scope)
    return split(run_blocks(joined, z, 0, shared))


def join_masks(p: Pass, attention_mask: Value, image_mask: Value) -> Value:
    """The mask of regions and tokens as one row, [B, R + T]."""
    parts, options = [image_mask, attention_mask], schema.ConcatenationOptionsT(axis=1)
    return p.graph.node("shared", "CONCATENATION", parts, (ANY, ANY), options, dtype=INT32)


def image_stream(p: Pass, image: ImageStream, y: Value, image_mask: Value, pooled: Value) -> None:
    """Tap what the image's own blocks and heads make of regions y [B, R, H], after the shared blocks.

    pooled: the text's pooler output.
    """
    own = begin(p.graph, p.spec.of_image, image_mask, lambda name, z: p.tap(f"{IMAGE_PREFIX}{name}", z), "regions")
    y = own.tap("last_hidden_state", encoder(own, y, image.shared))
    image_pooled = own.tap("pooler_output", pooler(own, image.pooler, y))
    p.tap(REGION_LOGITS, linear_head(own, image.region_head, y, None, image_mask))
    p.tap(MATCH_LOGITS, match(p, image, pooled, image_pooled))


def match(p: Pass, image: ImageStream, pooled: Value, image_pooled: Value) -> Value:
    """Logits of whether text and image belong together, [B, 2], from both poolers' outputs [B, pooled]."""
    fuse = multiply if image.fusion == "mul" else add
    return linear(p, image.match, fuse(p.graph, image.match.name, pooled, image_pooled))


def encoder(p: Pass, x: Value, start: int = 0) -> Value:
    """Every block from `start` on; `hidden_states.N` is the input of block N, the last is the result."""
    x = run_blocks(p, x, start, len(p.spec.blocks))
    if p.spec.final_norm:
        x = layer_norm(p, p.spec.final_norm, x)
    return p.tap(f"hidden_states.{len(p.spec.blocks)}", x)


def run_blocks(p: Pass, x: Value, start: int, end: int) -> Value:
    """Blocks `start` … `end` − 1 in turn."""
    for index, block in p.spec.numbered_blocks[start:end]:
        x = p.tap(f"hidden_states.{index}", x)
        for number, layer in block:
            x = encoder_layer(p.in_layer(number), layer, x)
    return x


def encoder_layer(p: Pass, layer: Layer, x: Value) -> Value:
    """Attention and feed-forward, each with a residual; LayerNorm after each sum, or before each part.

    Gives [N, H] where the pass names positions.
    """
    g, scope = p.graph, layer.attention_output.name
    if layer.norm_first or not layer.attention_norm:
        attended = attention(p, layer, layer_norm(p, layer.attention_norm, x) if layer.attention_norm else x)
        x = p.tap("after_attention", add(g, scope, tokens_at(p, scope, x), attended))
        return add(g, layer.output.name, x, feed_forward(p, layer, layer_norm(p, layer.output_norm, x)))
    y = attention(p, layer, x)
    x = tokens_at(p, scope, x)
    x = p.tap("after_attention", add_and_norm(p, layer.attention_norm, layer.attention_adapter, x, y))
    return add_and_norm(p, layer.output_norm, layer.output_adapter, x, feed_forward(p, layer, x))


def add_and_norm(p: Pass, norm: Norm, part: Adapter | None, x: Value, y: Value) -> Value:
    """LayerNorm(x + y) of a sub-layer's input and output, with an adapter on the way where there is one."""
    g = p.graph
    if part is None:
        return layer_norm(p, norm, add(g, norm.name, x, y))
    z = adapter(p, norm, part, x, y)
    return z if part.adds is None else layer_norm(p, norm, add(g, norm.name, z, x if part.adds == INPUT else y))


def adapter(p: Pass, norm: Norm, part: Adapter, x: Value, y: Value) -> Value:
    """A bottleneck and the residual around it: the z of `yizhi.model.spec.Adapter`."""
    g, scope = p.graph, part.up.name

    def take(which: str) -> Value:
        if which in (INPUT, OUTPUT):
            return x if which == INPUT else y
        total = add(g, norm.name, x, y)
        return total if which == SUM else layer_norm(p, norm, total)

    read = take(part.reads)
    z = layer_norm(p, part.norm_before, read) if part.norm_before else read
    z = linear(p, part.up, ACTIVATIONS[part.activation](g, part.down.name, linear(p, part.down, z)))
    if isinstance(part.scaling, Scaling):
        z = multiply(g, scope, z, g.weight(part.scaling.name))
    elif part.scaling != 1.0:
        z = multiply(g, scope, z, g.constant("adapter_scaling", part.scaling, np.float32))
    residual = read if part.residual == part.reads else take(part.residual)
    if part.residual_in_norm:
        z = add(g, scope, z, residual)
    if part.norm_after:
        z = layer_norm(p, part.norm_after, z)
    return z if part.residual_in_norm else add(g, scope, z, residual)


def attention(p: Pass, layer: Layer, x: Value) -> Value:
    """softmax(Q Kᵀ / √d + mask) V over A heads of width d (Vaswani et al. 2017, arXiv:1706.03762), projected."""
    g, scope = p.graph, layer.query.name.rpartition(".")[0]
    config, square = p.spec.config, (ANY, p.spec.config.num_attention_heads, ANY, ANY)
    count, shared, width = config.num_attention_heads, config.num_key_value_heads, config.head_size
    scale = g.constant(f"attention_scale.{width}", width**-0.5, np.float32)

    def split(part: Linear, y: Value) -> Value:
        y = swap(g, part.name, to_heads(p, part.name, part, y))  # [B, A, T, d]
        if y.shape[1] == count:
            return y
        owners = g.constant("owners", [head * shared // count for head in range(count)])
        return gather(g, part.name, y, owners, axis=1)  # each head once for each that shares it

    query, key, value = projections(p, layer, x)
    if layer.query_norm and layer.key_norm:
        query = layer_norm(p, layer.query_norm, to_heads(p, layer.query.name, layer.query, query))  # [B, T, A, d]
        key = layer_norm(p, layer.key_norm, to_heads(p, layer.key.name, layer.key, key))
    query = multiply(g, scope, query, scale)
    if layer.rotary:
        query, key = rotary(p, layer.query, layer.rotary, query), rotary(p, layer.key, layer.rotary, key)
        value = rotary(p, layer.value, layer.rotary, value) if layer.rotary.values else value
    query, key, value = split(layer.query, query), split(layer.key, key), split(layer.value, value)
    mask = p.past if layer.causal and p.past else p.mask if layer.window is None else p.windows[layer.window]
    scores = g.node(f"{scope}/scores", "BATCH_MATMUL", [query, key], square, schema.BatchMatMulOptionsT(adjY=True))
    if layer.farthest is not None and p.relative:
        scores = add(g, scope, scores, for_each_query(g, f"{scope}/scores", query, p.relative, adj_y=True))
    weights, total = exponents(p, scope, add(g, scope, scores, mask))
    context = g.node(f"{scope}/context", "BATCH_MATMUL", [weights, value], value.shape, schema.BatchMatMulOptionsT())
    if layer.farthest is not None and p.relative:
        context = add(g, scope, context, for_each_query(g, f"{scope}/context", weights, p.relative, adj_y=False))
    context = swap(g, scope, g.node(scope, "DIV", [context, total], context.shape))
    context = g.node(scope, "RESHAPE", [context, p.rows], (ANY, ANY, count * width))
    context = p.tap("context", tokens_at(p, scope, context))  # [B, T, H] or [N, H]
    return p.tap("attention_output", linear(p, layer.attention_output, context))


def projections(p: Pass, layer: Layer, x: Value) -> tuple[Value, Value, Value]:
    """Queries [B, T, A · d], keys and values, [B, T, K · d] each of K heads."""
    if layer.fused:
        all_three, hidden = linear(p, layer.query, x), p.spec.config.hidden_size
        query, key, value = (cut(p.graph, layer.query.name, all_three, part * hidden, hidden) for part in range(3))
    else:
        query, key, value = (linear(p, part, x) for part in (layer.query, layer.key, layer.value))
    return p.tap("query", query), p.tap("key", key), p.tap("value", value)


def rotary(p: Pass, part: Linear, turn: Rotary, x: Value) -> Value:
    """Each pair (a, b) of a head's elements turned by its angle: [B, T, A · d] -> [B, T, A, d], in two axes."""
    g, scope, d = p.graph, f"{part.name}/rotary", p.spec.config.head_size
    x = to_heads(p, scope, part, x)
    heads = x.shape[2]
    step, shift = (2, 1) if turn.interleaved else (1, d // 2)
    a, b = (stride(g, scope, x, start, d - shift + start, step) for start in (0, shift))  # [B, T, A, d / 2] each
    cos, sin = p.angles[turn.base]
    one = subtract(g, scope, multiply(g, scope, a, cos), multiply(g, scope, b, sin))
    other = add(g, scope, multiply(g, scope, b, cos), multiply(g, scope, a, sin))
    axis, sizes = (4, (d // 2, 2)) if turn.interleaved else (3, (2, d // 2))
    options = schema.PackOptionsT(valuesCount=2, axis=axis)
    return g.node(scope, "PACK", [one, other], (ANY, ANY, heads, *sizes), options)


def to_heads(p: Pass, scope: str, part: Linear, x: Value) -> Value:
    """What a linear layer gives, or a part of it, [B, T, A · d], or what was made of that: [B, T, A, d]."""
    d, most = p.spec.config.head_size, p.spec.config.num_attention_heads
    heads = min(part.outputs // d, most)  # one that gives queries, keys and values has as many of each
    return p.graph.node(scope, "RESHAPE", [x, p.heads[heads]], (ANY, ANY, heads, d))


def for_each_query(g: Graph, scope: str, x: Value, relative: Value, *, adj_y: bool) -> Value:
    """x [B, A, T, n] times a matrix of each query's own, of [T, 1, T, d], or with adj_y its transpose: [B, A, T, m]."""
    there, back = g.constant("queries_first", [2, 0, 1, 3]), g.constant("queries_third", [1, 2, 0, 3])
    width = ANY if adj_y else relative.shape[-1]
    rows = g.node(scope, "TRANSPOSE", [x, there], (ANY, ANY, x.shape[1], x.shape[3]))  # [T, B, A, n]
    options = schema.BatchMatMulOptionsT(adjY=adj_y)
    product = g.node(scope, "BATCH_MATMUL", [rows, relative], (ANY, ANY, x.shape[1], width), options)
    return g.node(scope, "TRANSPOSE", [product, back], (ANY, x.shape[1], ANY, width))


def exponents(p: Pass, scope: str, scores: Value) -> tuple[Value, Value]:
    """exp(scores − the row's highest) [B, A, T, T], and their sums [B, A, T, 1]: softmax is the one over the other.

    Not SOFTMAX: XNNPACK adds its terms in an order that changes with their number, padding included. A product adds
    them one after the other, so that a row's bits do not depend on how far it is padded.
    """
    g, shape = p.graph, (*scores.shape[:-1], 1)
    last = g.constant("axis.3", [3])
    highest = g.node(scope, "REDUCE_MAX", [scores, last], shape, schema.ReducerOptionsT(keepDims=True))
    weights = g.node(scope, "EXP", [subtract(g, scope, scores, highest)], scores.shape)
    return weights, g.node(f"{scope}/total", "BATCH_MATMUL", [weights, p.ones], shape, schema.BatchMatMulOptionsT())


def tokens_at(p: Pass, scope: str, x: Value) -> Value:
    """[B, T, H] -> [N, H]: the tokens at (row, position) pairs [N, 2]; without any, x as it is."""
    if p.positions is None:
        return x
    return p.graph.node(scope, "GATHER_ND", [x, p.positions], (ANY, x.shape[-1]))


def feed_forward(p: Pass, layer: Layer, x: Value) -> Value:
    """Two linear layers with the activation between them, and its gate where there is one."""
    activation = ACTIVATIONS[p.spec.config.activation]
    g, part, inner = p.graph, layer.intermediate, layer.output.inputs
    before, x = x, linear(p, part, x)  # [B, T, I], or [B, T, 2 I] with a gate
    if layer.up:
        up = linear(p, layer.up, before)
        x = multiply(g, part.name, activation(g, part.name, x), up)
    elif layer.gated:
        x, gate = (cut(g, part.name, x, start, inner) for start in (0, inner))
        x = multiply(g, part.name, activation(g, part.name, x), gate)
    else:
        x = activation(g, part.name, x)
    return p.tap("output", linear(p, layer.output, p.tap("intermediate", x)))  # [B, T, H]


def pooler(p: Pass, dense: Dense, x: Value) -> Value:
    """A linear layer with its activation, tanh in most families, over the first token: [B, pooled]."""
    name = dense.linear.name
    return ACTIVATIONS[dense.activation](p.graph, name, linear(p, dense.linear, first_tokens(p, name, x)))


def sentence_embedding(p: Pass, pooling: Pooling, x: Value, attention_mask: Value) -> Value:
    """[B, T, H] -> [B, D]: each row's own tokens as one vector."""
    g, scope, shape = p.graph, "pooling", (ANY, x.shape[-1])
    one, middle = g.constant("one.float", 1, np.float32), g.constant("axis.1", [1])
    kept = expand(g, scope, as_float(g, scope, attention_mask), -1)  # [B, T, 1]
    if pooling.mode == "mean":
        total = g.node(scope, "SUM", [multiply(g, scope, x, kept), middle], shape, schema.ReducerOptionsT())
        count = g.node(scope, "SUM", [kept, middle], (ANY, 1), schema.ReducerOptionsT())
        count = g.node(scope, "MAXIMUM", [count, one], count.shape)
        pooled = g.node(scope, "DIV", [total, count], shape)
    elif pooling.mode == "max":
        lowest = multiply(g, scope, subtract(g, scope, kept, one), g.constant("highest", -MASK_VALUE, np.float32))
        highest = g.node(scope, "REDUCE_MAX", [add(g, scope, x, lowest), middle], shape, schema.ReducerOptionsT())
        some = g.node(scope, "REDUCE_MAX", [kept, middle], (ANY, 1), schema.ReducerOptionsT())
        pooled = multiply(g, scope, highest, some)
    else:
        options = schema.ArgMaxOptionsT(outputType=INT32)
        marks = numbered(p, scope, attention_mask) if pooling.mode == "last" else attention_mask
        place = g.node(scope, "ARG_MAX", [marks, g.constant("one", 1)], (ANY,), options, dtype=INT32)
        pooled = g.node(scope, "GATHER", [x, place], shape, schema.GatherOptionsT(axis=1, batchDims=1), version=5)
    for dense in pooling.dense:
        pooled = ACTIVATIONS[dense.activation](g, dense.linear.name, linear(p, dense.linear, pooled))
    if pooling.dimensions:
        pooled = shorten(p, pooled, pooling.dimensions)
    return normalize(p, scope, pooled) if pooling.normalize else pooled


def numbered(p: Pass, scope: str, attention_mask: Value) -> Value:
    """1 … T for tokens by their position, 0 for padding: [B, T]. The last token's is the greatest."""
    g = p.graph
    ends = [g.constant("one", 1), add(g, scope, p.length, g.constant("one", 1)), g.constant("one", 1)]
    numbers = g.node(scope, "RANGE", ends, (ANY,), dtype=INT32)  # [T]
    return multiply(g, scope, as_float(g, scope, attention_mask), as_float(g, scope, numbers))


def shorten(p: Pass, x: Value, size: int) -> Value:
    """The first so many numbers of each vector."""
    g = p.graph
    ends = [g.constant("start", [0, 0]), g.constant(f"columns.{size}", [ANY, size])]
    return g.node("pooling", "SLICE", [x, *ends], (ANY, size))


def normalize(p: Pass, scope: str, x: Value) -> Value:
    """Each vector along the last axis over its L2 norm."""
    g, shape = p.graph, (*x.shape[:-1], 1)
    axis = g.constant(f"axis.{len(shape) - 1}", [len(shape) - 1])
    norm = g.node(scope, "SUM", [multiply(g, scope, x, x), axis], shape, schema.ReducerOptionsT(keepDims=True))
    norm = g.node(scope, "SQRT", [norm], shape)
    norm = g.node(scope, "MAXIMUM", [norm, g.constant("shortest", SHORTEST_NORM, np.float32)], shape)
    return g.node(scope, "DIV", [x, norm], x.shape)


def token_weights(p: Pass, head: Dense, x: Value, attention_mask: Value) -> Value:
    """[B, T, H] -> [B, T]: each token's weight for lexical matching, 0 at padding."""
    g, scope = p.graph, head.linear.name
    weights = ACTIVATIONS[head.activation](g, scope, linear(p, head.linear, x))  # [B, T, 1]
    weights = g.node(scope, "SQUEEZE", [weights], (ANY, ANY), schema.SqueezeOptionsT(squeezeDims=[2]))
    return multiply(g, scope, weights, as_float(g, scope, attention_mask))


def token_vectors(p: Pass, dense: Linear, x: Value, attention_mask: Value) -> Value:
    """[B, T, H] -> [B, T, D]: each token's vector of length 1, zeros at padding."""
    g, scope = p.graph, dense.name
    kept = expand(g, scope, as_float(g, scope, attention_mask), -1)  # [B, T, 1]
    return normalize(p, scope, multiply(g, scope, linear(p, dense, x), kept))


def term_weights(p: Pass, logits: Value, attention_mask: Value) -> Value:
    """[B, T, V] -> [B, V]: log(1 + relu) of the highest logit over a row's own tokens; both only grow."""
    g, scope, shape = p.graph, "terms", (ANY, logits.shape[-1])
    own = multiply(g, scope, logits, expand(g, scope, as_float(g, scope, attention_mask), -1))
    axis = g.constant("axis.1", [1])
    highest = g.node(scope, "REDUCE_MAX", [own, axis], shape, schema.ReducerOptionsT())
    above = add(g, scope, relu(g, scope, highest), g.constant("one.float", 1, np.float32))
    return g.node(scope, "LOG", [above], shape)


def mlm_head(p: Pass, head: MaskedLMHead, x: Value) -> Value:
    """Vocabulary logits [..., V] of hidden states [..., H]."""
    if head.dense:
        x = ACTIVATIONS[head.activation](p.graph, head.dense.name, linear(p, head.dense, x))  # [..., E]
    if head.norm:
        x = layer_norm(p, head.norm, x)
    return p.graph.linear(head.decoder_name, head.decoder, head.decoder_bias, x)


def linear_head(p: Pass, head: LinearHead, x: Value, pooled: Value | None, attention_mask: Value) -> Value:
    """Label logits over every token, the first token, the mean of a row's own tokens, or the pooler's output."""
    if head.over == "pooler" and pooled is not None:
        x = pooled
    elif head.over == "first_token":
        x = first_tokens(p, head.projection.name, x)
    elif head.over == "mean":
        x = sentence_embedding(p, Pooling("mean"), x, attention_mask)
    if head.dense:
        dense = head.dense.linear
        x = ACTIVATIONS[head.dense.activation](p.graph, dense.name, linear(p, dense, x))
        x = layer_norm(p, head.dense.norm, x) if head.dense.norm else x
    x = linear(p, head.projection, x)
    if not head.squeeze:
        return x
    axis = len(x.shape) - 1
    return p.graph.node(head.projection.name, "SQUEEZE", [x], x.shape[:-1], schema.SqueezeOptionsT(squeezeDims=[axis]))


def linear(p: Pass, layer: Linear, x: Value) -> Value:
    """x Wᵀ + b, or x Wᵀ."""
    return p.graph.linear(layer.name, layer.weight, layer.bias, x)


def layer_norm(p: Pass, norm: Norm, x: Value) -> Value:
    """(x − mean) / √(variance + ε) · scale + offset over the last axis (Ba et al. 2016, arXiv:1607.06450).

    Where it is not centred, x / √(mean of x² + ε) · scale (Zhang and Sennrich 2019, arXiv:1910.07467).
    """
    g, scope, shape = p.graph, norm.name, (*x.shape[:-1], 1)
    axis, keep_axis = g.constant(f"axis.{len(shape) - 1}", [len(shape) - 1]), schema.ReducerOptionsT(keepDims=True)
    if norm.centred:
        mean = g.node(scope, "MEAN", [x, axis], shape, keep_axis)
        squares = g.node(scope, "SQUARED_DIFFERENCE", [x, mean], x.shape)
    else:
        squares = multiply(g, scope, x, x)
    variance = g.node(scope, "MEAN", [squares, axis], shape, keep_axis)
    variance = add(g, scope, variance, g.constant(f"epsilon.{norm.epsilon}", norm.epsilon, np.float32))
    factor = g.node(scope, "RSQRT", [variance], shape)
    x = subtract(g, scope, x, mean) if norm.centred else x
    y = multiply(g, scope, multiply(g, scope, x, factor), g.weight(norm.weight))
    return add(g, scope, y, g.weight(norm.bias)) if norm.bias else y


def first_tokens(p: Pass, scope: str, x: Value) -> Value:
    """[B, T, H] -> [B, H]."""
    return gather(p.graph, scope, x, p.graph.constant("zero", 0), axis=1)

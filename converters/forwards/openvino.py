"""OpenVINO: the encoder as a model of opset 15's operators.

The functions are those of the PyTorch forward, in the same order. Nodes that use a parameter are named after it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from openvino import Model, Node
from openvino import opset15 as ops

from yizhi.converters.forwards import passes
from yizhi.converters.openvino_graph import Weights, name_nodes
from yizhi.model.rotary import make_table, table_names
from yizhi.model.spec import (
    FLOAT_INPUTS,
    IMAGE_PREFIX,
    INPUT,
    LOGITS_AT,
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

# Attention's keys are filled up to a multiple of this. The plugin adds so many terms at once, and those that are left
# over in another order, so that a sum's last bits would depend on how far a row is padded.
KEYS = 16


@dataclass(frozen=True)
class Pass(passes.Pass[Node]):
    """One run of an encoder as nodes of a model: `passes.Pass`, whose parameters say how they are multiplied.

    missing: how many keys make their number a multiple of KEYS, [1]; the layers need it.
    """

    parameters: Weights
    missing: Node | None = None


def gelu_erf(x: Node, scope: str) -> Node:
    """x Φ(x), with the exact normal distribution function (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return ops.gelu(x, "erf", name=f"{scope}/Gelu")


def gelu_tanh(x: Node, scope: str) -> Node:
    """The tanh approximation of `gelu_erf`, from the same paper."""
    return ops.gelu(x, "tanh", name=f"{scope}/Gelu")


def relu(x: Node, scope: str) -> Node:
    """max(x, 0)."""
    return ops.relu(x, name=f"{scope}/Relu")


def silu(x: Node, scope: str) -> Node:
    """x / (1 + exp(−x)) (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return ops.swish(x, name=f"{scope}/Swish")


def tanh(x: Node, scope: str) -> Node:
    """The hyperbolic tangent."""
    return ops.tanh(x, name=f"{scope}/Tanh")


ACTIVATIONS: Mapping[str, Callable[[Node, str], Node]] = {
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "relu": relu,
    "silu": silu,
    "tanh": tanh,
    "identity": lambda x, scope: x,
}


def build_encoder(weights: Weights, spec: EncoderSpec, outputs: Sequence[str]) -> Model:
    """The encoder with its head as a model that gives the named outputs, in that order.

    Inputs are int64 [batch, length], and those of an image stream; outputs are float32 with the axes of
    `spec.output_axes`.
    """
    given = inputs(spec)
    attention_mask = given["attention_mask"]
    found: dict[str, Node] = {}
    p = Pass(weights, spec, passes.keep(outputs, found))
    x, regions = encode(p, given)  # [B, T, H], [B, R, H]
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
        logits = p.tap("logits", linear_head(p, spec.head, x, pooled, attention_mask))
        for column, name in enumerate(SPAN_LOGITS if SPAN_LOGITS[0] in outputs else ()):
            p.tap(name, ops.gather(logits, column, -1))  # [B, T]
    if spec.image and spec.reads_image(outputs):
        image_stream(p, spec.image, regions, given["image_mask"], pooled)
    return finish(list(given.values()), {name: found[name] for name in outputs})


def build_logits_at(weights: Weights, spec: EncoderSpec, head: MaskedLMHead) -> Model:
    """The encoder with its head as a model that gives the logits of the tokens at `positions` alone.

    Inputs are those of `build_encoder` and `positions`, int64 [count, 2], pairs of row and position; the output is
    `logits` [count, V]. After attention, the last layer computes nothing for other tokens.
    """
    given = inputs(spec)
    positions = ops.parameter([-1, 2], np.int64, name=POSITIONS)
    p = Pass(weights, spec, positions=positions)
    x, _ = encode(p, given)  # [1, N, H]
    return finish([*given.values(), positions], {"logits": ops.squeeze(mlm_head(p, head, x), [0])}, LOGITS_AT)


def inputs(spec: EncoderSpec) -> dict[str, Node]:
    """The inputs by name, with batch, length and regions dynamic."""
    return {
        name: ops.parameter(
            [axis if isinstance(axis, int) else -1 for axis in axes],
            np.float32 if name in FLOAT_INPUTS else np.int64,
            name=name,
        )
        for name, axes in spec.input_axes().items()
    }


def finish(given: Sequence[Node], found: Mapping[str, Node], name: str = "encoder") -> Model:
    """The model with these inputs and outputs, each under its name."""
    for node in given:
        node.output(0).get_tensor().set_names({node.get_friendly_name()})
    for output, node in found.items():
        tensor = node.output(0).get_tensor()
        tensor.set_names({*tensor.get_names(), output})
    model = Model([ops.result(node, name=f"{output}/Result") for output, node in found.items()], list(given), name)
    name_nodes(model)
    return model


def encode(p: Pass, given: Mapping[str, Node]) -> tuple[Node, Node | None]:
    """The last hidden states [B, T, H] of the tokens, and the regions [B, R, H] after the shared blocks, if any."""
    x, regions, start = embeddings(p, given["input_ids"], given["token_type_ids"]), None, 0
    if p.spec.image:
        start = p.spec.image.shared
        regions = region_embeddings(p, p.spec.image, given["image_features"], given["image_boxes"])
        x, regions = shared_encoder(p, start, x, regions, given["attention_mask"], given["image_mask"])
    return encoder(see(p, given["attention_mask"]), x, start), regions


def embeddings(p: Pass, input_ids: Node, token_type_ids: Node) -> Node:
    """Word + token type + position, then LayerNorm and a projection to H where the family has them."""
    x = p.parameters.lookup(p.spec.word_embeddings, input_ids)  # [B, T, E]
    if p.spec.token_type_embeddings:
        x = ops.add(x, p.parameters.lookup(p.spec.token_type_embeddings, token_type_ids))
    if p.spec.position_embeddings:
        x = ops.add(x, p.parameters.lookup(p.spec.position_embeddings, position_ids(p, input_ids)))
    if p.spec.task_type_embeddings:
        x = ops.add(x, p.parameters.lookup(p.spec.task_type_embeddings, 0))
    if p.spec.embeddings_norm:
        x = layer_norm(p, p.spec.embeddings_norm, x)
    return linear(p, p.spec.embeddings_projection, x) if p.spec.embeddings_projection else x  # [B, T, H]


def position_ids(p: Pass, input_ids: Node) -> Node:
    """Rows of the position table: 0, 1, 2, … [T]; or counted from `padding_idx` on, past padding [B, T]."""
    if p.spec.padding_idx is None:
        return ops.range(0, ops.gather(ops.shape_of(input_ids), 1, 0), 1, "i64")
    padding = np.int64(p.spec.padding_idx)
    kept = ops.convert(ops.not_equal(input_ids, padding), "i64")
    return ops.add(ops.multiply(ops.cum_sum(kept, 1), kept), padding)


def see(p: Pass, attention_mask: Node) -> Pass:
    """The pass with what attention needs beside the hidden states: masks, and the angles of rotary positions.

    Masks are 0 for a token and MASK_VALUE for padding, [B, 1, 1, T′], and for what is too far away, [B, 1, T, T′].
    """
    config, length = p.spec.config, ops.gather(ops.shape_of(attention_mask), [1], 0)
    missing = ops.floor_mod(ops.subtract([0], length), [KEYS])  # [1]
    kept = fill_up(ops.convert(attention_mask, "f32"), missing)  # [B, T′]
    scores = ops.multiply(ops.subtract(np.float32(1), kept), np.float32(MASK_VALUE))
    mask = ops.unsqueeze(scores, [1, 2])
    past, windows, angles = None, {}, {}
    if p.spec.causal:
        ends = (ops.squeeze(size) for size in (length, ops.add(length, missing)))
        queries, keys = (ops.range(0, end, 1, "i64") for end in ends)
        seen = ops.less_equal(keys, ops.unsqueeze(queries, [1]))  # [T, T′]
        past = ops.select(seen, mask, np.float32(MASK_VALUE))
    for window in p.spec.windows:
        ends = (ops.squeeze(size) for size in (length, ops.add(length, missing)))
        queries, keys = (ops.range(0, end, 1, "i64") for end in ends)
        near = ops.less_equal(ops.abs(ops.subtract(ops.unsqueeze(queries, [1]), keys)), np.int64(window))  # [T, T′]
        windows[window] = ops.select(near, mask, np.float32(MASK_VALUE))
    for base in p.spec.rotary_bases:
        tables = (
            ops.constant(make_table(name, config.max_position_embeddings, config.head_size // 2), name=name)
            for name in table_names(base)
        )
        places = ops.range(0, ops.squeeze(length), 1, "i64")
        cos, sin = (ops.gather(table, places, 0) for table in tables)  # [T, d / 2]
        angles[base] = cos, sin
    relative = None
    if p.spec.farthest is not None:  # what a key's distance adds to it and to its value: [T, T′, d]
        d, farthest = config.head_size, np.int64(p.spec.farthest)
        tables = (make_table(name, 2 * p.spec.farthest + 1, d // 2) for name in table_names(10_000.0))
        cos, sin = (ops.constant(table, name=name) for table, name in zip(tables, table_names(10_000.0), strict=True))
        both = ops.concat([ops.unsqueeze(sin, [-1]), ops.unsqueeze(cos, [-1])], -1)
        ends = (ops.squeeze(size) for size in (length, ops.add(length, missing)))
        queries, keys = (ops.range(0, end, 1, "i64") for end in ends)
        distances = ops.subtract(keys, ops.unsqueeze(queries, [1]))  # [T, T′]
        near = ops.add(ops.maximum(ops.minimum(distances, farthest), -farthest), farthest)
        relative = ops.gather(ops.reshape(both, [-1, d], special_zero=False), near, 0)
    return replace(p, mask=mask, past=past, windows=windows, angles=angles, relative=relative, missing=missing)


def fill_up(x: Node, missing: Node) -> Node:
    """[B, T, …] -> [B, T′, …]: zeros after the last of each row."""
    others = [0] * (x.get_output_partial_shape(0).rank.get_length() - 2)
    ends = ops.concat([[0], missing, *([others] if others else [])], 0)
    return ops.pad(x, [0, 0, *others], ends, "constant", np.float32(0))


def region_embeddings(p: Pass, image: ImageStream, features: Node, boxes: Node) -> Node:
    """LayerNorm of the sum of both linear layers: [B, R, F] and [B, R, 5] -> [B, R, H]."""
    return layer_norm(p, image.norm, ops.add(linear(p, image.features, features), linear(p, image.boxes, boxes)))


def shared_encoder(p: Pass, shared: int, x: Node, y: Node, attention_mask: Node, image_mask: Node) -> tuple[Node, Node]:
    """The blocks that tokens x [B, T, H] and regions y [B, R, H] go through as one row, regions first."""
    regions, end = ops.gather(ops.shape_of(image_mask), [1], 0), np.iinfo(np.int64).max  # [1]: R

    def split(z: Node) -> tuple[Node, Node]:
        return ops.slice(z, regions, [end], [1], [1]), ops.slice(z, [0], regions, [1], [1])

    def tap(name: str, z: Node) -> Node:
        for prefix, part in zip(("", IMAGE_PREFIX), split(z), strict=True):
            p.tap(f"{prefix}{name}", part)
        return z

    joined = replace(see(p, join_masks(p, attention_mask, image_mask)), tap=tap)
    return split(run_blocks(joined, ops.concat([y, x], 1), 0, shared))


def join_masks(p: Pass, attention_mask: Node, image_mask: Node) -> Node:
    """The mask of regions and tokens as one row, [B, R + T]."""
    return ops.concat([image_mask, attention_mask], 1)


def image_stream(p: Pass, image: ImageStream, y: Node, image_mask: Node, pooled: Node) -> None:
    """Tap what the image's own blocks and heads make of regions y [B, R, H], after the shared blocks.

    pooled: the text's pooler output.
    """
    own = replace(p, spec=p.spec.of_image, tap=lambda name, z: p.tap(f"{IMAGE_PREFIX}{name}", z))
    y = own.tap("last_hidden_state", encoder(see(own, image_mask), y, image.shared))
    image_pooled = own.tap("pooler_output", pooler(own, image.pooler, y))
    p.tap(REGION_LOGITS, linear_head(own, image.region_head, y, None, image_mask))
    p.tap(MATCH_LOGITS, match(p, image, pooled, image_pooled))


def match(p: Pass, image: ImageStream, pooled: Node, image_pooled: Node) -> Node:
    """Logits of whether text and image belong together, [B, 2], from both poolers' outputs [B, pooled]."""
    fuse = ops.multiply if image.fusion == "mul" else ops.add
    return linear(p, image.match, fuse(pooled, image_pooled))


def encoder(p: Pass, x: Node, start: int = 0) -> Node:
    """Every block from `start` on; `hidden_states.N` is the input of block N, the last is the result."""
    x = run_blocks(p, x, start, len(p.spec.blocks))
    if p.spec.final_norm:
        x = layer_norm(p, p.spec.final_norm, x)
    return p.tap(f"hidden_states.{len(p.spec.blocks)}", x)


def run_blocks(p: Pass, x: Node, start: int, end: int) -> Node:
    """Blocks `start` … `end` − 1 in turn."""
    for index, block in p.spec.numbered_blocks[start:end]:
        x = p.tap(f"hidden_states.{index}", x)
        for number, layer in block:
            x = encoder_layer(p.in_layer(number), layer, x)
    return x


def encoder_layer(p: Pass, layer: Layer, x: Node) -> Node:
    """Attention and feed-forward, each with a residual; LayerNorm after each sum, or before each part.

    Gives [1, N, H] where the pass names positions.
    """
    if layer.norm_first or not layer.attention_norm:
        attended = attention(p, layer, layer_norm(p, layer.attention_norm, x) if layer.attention_norm else x)
        x = ops.add(tokens_at(x, p.positions), attended, name=f"{layer.attention_output.name}/residual")
        x = p.tap("after_attention", x)
        return ops.add(x, feed_forward(p, layer, layer_norm(p, layer.output_norm, x)))
    y = attention(p, layer, x)
    x = tokens_at(x, p.positions)
    x = p.tap("after_attention", add_and_norm(p, layer.attention_norm, layer.attention_adapter, x, y))
    return add_and_norm(p, layer.output_norm, layer.output_adapter, x, feed_forward(p, layer, x))


def add_and_norm(p: Pass, norm: Norm, part: Adapter | None, x: Node, y: Node) -> Node:
    """LayerNorm(x + y) of a sub-layer's input and output, with an adapter on the way where there is one."""
    if part is None:
        return layer_norm(p, norm, ops.add(x, y))
    z = adapter(p, norm, part, x, y)
    if part.adds is None:
        return z
    return layer_norm(p, norm, ops.add(z, x if part.adds == INPUT else y))


def adapter(p: Pass, norm: Norm, part: Adapter, x: Node, y: Node) -> Node:
    """A bottleneck and the residual around it: the z of `yizhi.model.spec.Adapter`."""

    def take(which: str) -> Node:
        if which in (INPUT, OUTPUT):
            return x if which == INPUT else y
        total = ops.add(x, y)
        return total if which == SUM else layer_norm(p, norm, total)

    read = take(part.reads)  # [B, T, H]
    z = layer_norm(p, part.norm_before, read) if part.norm_before else read
    z = ACTIVATIONS[part.activation](linear(p, part.down, z), part.down.name)  # [B, T, bottleneck]
    z = linear(p, part.up, z)
    if isinstance(part.scaling, Scaling):
        z = ops.multiply(z, p[part.scaling.name])
    elif part.scaling != 1.0:
        z = ops.multiply(z, np.float32(part.scaling))
    residual = read if part.residual == part.reads else take(part.residual)
    if part.residual_in_norm:
        z = ops.add(z, residual)
    if part.norm_after:
        z = layer_norm(p, part.norm_after, z)
    return z if part.residual_in_norm else ops.add(z, residual)


def attention(p: Pass, layer: Layer, x: Node) -> Node:
    """softmax(Q Kᵀ / √d + mask) V over A heads of width d (Vaswani et al. 2017, arXiv:1706.03762), projected."""
    heads, shared, width = (
        p.spec.config.num_attention_heads,
        p.spec.config.num_key_value_heads,
        p.spec.config.head_size,
    )
    scope = layer.query.name.rpartition(".")[0]

    def split(y: Node) -> Node:
        return ops.transpose(ops.reshape(y, [0, 0, width_of(y) // width, width], special_zero=True), [0, 2, 1, 3])

    query, key, value = projections(p, layer, x)
    if layer.query_norm and layer.key_norm:
        query, key = norm_of_heads(p, layer.query_norm, query), norm_of_heads(p, layer.key_norm, key)
    if layer.rotary:
        query, key = rotary(p, layer.rotary, query), rotary(p, layer.rotary, key)
        value = rotary(p, layer.rotary, value) if layer.rotary.values else value
    query = split(query)  # [B, A, T, d]
    key, value = (split(fill_up(y, p.missing)) for y in (key, value))  # [B, A, T′, d]
    if shared < heads:  # each head of keys and values once for each that shares it
        owners = [head * shared // heads for head in range(heads)]
        key, value = ops.gather(key, owners, 1), ops.gather(value, owners, 1)
    mask = p.past if layer.causal else p.mask if layer.window is None else p.windows[layer.window]
    scores = ops.matmul(query, key, False, True, name=f"{scope}/scores")  # [B, A, T, T′]
    if layer.farthest is not None:
        scores = ops.add(scores, ops.einsum([query, p.relative], "baqd,qkd->baqk"))
    weights = ops.softmax(ops.add(ops.multiply(scores, np.float32(width**-0.5)), mask), -1)
    context = ops.matmul(weights, value, False, False, name=f"{scope}/context")
    if layer.farthest is not None:
        context = ops.add(context, ops.einsum([weights, p.relative], "baqk,qkd->baqd"))
    context = ops.transpose(context, [0, 2, 1, 3])
    context = ops.reshape(context, [0, 0, heads * width], special_zero=True, name=f"{scope}/Reshape")
    context = p.tap("context", tokens_at(context, p.positions))  # [B, T, H] or [1, N, H]
    return p.tap("attention_output", linear(p, layer.attention_output, context))


def projections(p: Pass, layer: Layer, x: Node) -> tuple[Node, Node, Node]:
    """Queries [B, T, A · d], keys and values, [B, T, K · d] each of K heads."""
    if layer.fused:
        scope, all_three, width = layer.query.name, linear(p, layer.query, x), p.spec.config.hidden_size
        names = ("query", "key", "value")
        query, key, value = (cut(all_three, part * width, width, f"{scope}/{name}") for part, name in enumerate(names))
    else:
        query, key, value = (linear(p, part, x) for part in (layer.query, layer.key, layer.value))
    return p.tap("query", query), p.tap("key", key), p.tap("value", value)


def rotary(p: Pass, turn: Rotary, x: Node) -> Node:
    """Each pair (a, b) of a head's elements turned by its position's angle: [B, T, A · d]."""
    pairs, axis, width = p.spec.config.head_size // 2, -1 if turn.interleaved else -2, width_of(x)
    sizes = [0, 0, width // (2 * pairs), *((pairs, 2) if turn.interleaved else (2, pairs))]
    a, b = ops.split(ops.reshape(x, sizes, special_zero=True), axis, 2).outputs()
    # [T, d / 2] -> [T, 1, d / 2, 1], or [T, 1, 1, d / 2]
    cos, sin = (ops.unsqueeze(table, [1, axis]) for table in p.angles[turn.base])
    one = ops.subtract(ops.multiply(a, cos), ops.multiply(b, sin))
    other = ops.add(ops.multiply(b, cos), ops.multiply(a, sin))
    return ops.reshape(ops.concat([one, other], axis), [0, 0, width], special_zero=True)


def norm_of_heads(p: Pass, norm: Norm, x: Node) -> Node:
    """`layer_norm` of each head alone: [B, T, A · d]."""
    width = width_of(x)
    heads = ops.reshape(x, [0, 0, width // norm.size, norm.size], special_zero=True)
    return ops.reshape(layer_norm(p, norm, heads), [0, 0, width], special_zero=True)


def tokens_at(x: Node, positions: Node | None) -> Node:
    """[B, T, H] -> [1, N, H]: the tokens at (row, position) pairs [N, 2]; without any, x as it is.

    With all three axes: of a matrix, the plugin's LayerNorm differs in the last bits.
    """
    return x if positions is None else ops.unsqueeze(ops.gather_nd(x, positions), [0])


def feed_forward(p: Pass, layer: Layer, x: Node) -> Node:
    """Two linear layers with the activation between them, and its gate where there is one."""
    activation, up = ACTIVATIONS[p.spec.config.activation], linear(p, layer.up, x) if layer.up else None
    scope, x = layer.intermediate.name, linear(p, layer.intermediate, x)  # [B, T, I], or [B, T, 2 I] with a gate
    if up:
        x = ops.multiply(activation(x, scope), up, name=f"{scope}/gated")
    elif layer.gated:
        inner = layer.output.inputs
        x, gate = (cut(x, start, inner, f"{scope}/Slice") for start in (0, inner))
        x = ops.multiply(activation(x, scope), gate, name=f"{scope}/gated")
    else:
        x = activation(x, scope)
    return p.tap("output", linear(p, layer.output, p.tap("intermediate", x)))  # [B, T, H]


def pooler(p: Pass, dense: Dense, x: Node) -> Node:
    """A linear layer with its activation, tanh in most families, over the first token: [B, pooled]."""
    return ACTIVATIONS[dense.activation](linear(p, dense.linear, first_tokens(x)), dense.linear.name)


def sentence_embedding(p: Pass, pooling: Pooling, x: Node, attention_mask: Node) -> Node:
    """[B, T, H] -> [B, D]: each row's own tokens as one vector."""
    kept = ops.convert(attention_mask, "f32")  # [B, T]
    if pooling.mode == "mean":
        total = ops.reduce_sum(ops.multiply(x, ops.unsqueeze(kept, [-1])), [1])
        pooled = ops.divide(total, ops.maximum(ops.reduce_sum(kept, [1], keep_dims=True), np.float32(1)))
    elif pooling.mode == "max":
        lowest = ops.multiply(ops.subtract(np.float32(1), kept), np.float32(MASK_VALUE))
        highest = ops.reduce_max(ops.add(x, ops.unsqueeze(lowest, [-1])), [1])
        pooled = ops.multiply(highest, ops.reduce_max(kept, [1], keep_dims=True))
    elif pooling.mode == "last":
        length = ops.gather(ops.shape_of(attention_mask), 1, 0)
        positions = ops.convert(ops.range(0, length, 1, "i64"), "f32")  # [T], exact below 2²⁴
        # Of nothing but padding, the first.
        last = ops.reduce_max(ops.multiply(kept, positions), [1], keep_dims=True)  # [B, 1]
        pooled = ops.gather_nd(x, ops.convert(last, "i64"), batch_dims=1)
    else:
        first = ops.topk(kept, 1, 1, "max", "index", "i64", stable=True).output(1)  # [B, 1]
        pooled = ops.gather_nd(x, first, batch_dims=1)
    for dense in pooling.dense:
        pooled = ACTIVATIONS[dense.activation](linear(p, dense.linear, pooled), dense.linear.name)
    if pooling.dimensions:
        pooled = shorten(p, pooled, pooling.dimensions)
    return normalize(pooled) if pooling.normalize else pooled


def shorten(p: Pass, x: Node, size: int) -> Node:
    """The first so many numbers of each vector."""
    return ops.slice(x, [0], [size], [1], [1])


def normalize(x: Node) -> Node:
    """Each vector along the last axis over its L2 norm."""
    return ops.divide(x, ops.maximum(ops.reduce_l2(x, [-1], keep_dims=True), np.float32(SHORTEST_NORM)))


def token_weights(p: Pass, head: Dense, x: Node, attention_mask: Node) -> Node:
    """[B, T, H] -> [B, T]: each token's weight for lexical matching, 0 at padding."""
    weights = ACTIVATIONS[head.activation](linear(p, head.linear, x), head.linear.name)  # [B, T, 1]
    return ops.multiply(ops.squeeze(weights, [-1]), ops.convert(attention_mask, "f32"))


def token_vectors(p: Pass, dense: Linear, x: Node, attention_mask: Node) -> Node:
    """[B, T, H] -> [B, T, D]: each token's vector of length 1, zeros at padding."""
    kept = ops.unsqueeze(ops.convert(attention_mask, "f32"), [-1])  # [B, T, 1]
    return normalize(ops.multiply(linear(p, dense, x), kept))


def term_weights(p: Pass, logits: Node, attention_mask: Node) -> Node:
    """[B, T, V] -> [B, V]: log(1 + relu) of the highest logit over a row's own tokens; both only grow."""
    own = ops.unsqueeze(ops.convert(attention_mask, "boolean"), [-1])  # [B, T, 1]
    highest = ops.reduce_max(ops.select(own, logits, np.float32(0)), [1])
    return ops.log(ops.add(ops.relu(highest), np.float32(1)))


def mlm_head(p: Pass, head: MaskedLMHead, x: Node) -> Node:
    """Vocabulary logits [..., V] of hidden states [..., H]."""
    if head.dense:
        x = ACTIVATIONS[head.activation](linear(p, head.dense, x), head.dense.name)  # [B, T, E]
    if head.norm:
        x = layer_norm(p, head.norm, x)
    return p.parameters.linear(head.decoder_name, head.decoder, head.decoder_bias, x)


def linear_head(p: Pass, head: LinearHead, x: Node, pooled: Node | None, attention_mask: Node) -> Node:
    """Label logits over every token, the first token, the mean of a row's own tokens, or the pooler's output."""
    if head.over == "first_token":
        x = first_tokens(x)
    elif head.over == "pooler":
        x = pooled
    elif head.over == "mean":
        x = sentence_embedding(p, Pooling("mean"), x, attention_mask)
    if head.dense:
        x = ACTIVATIONS[head.dense.activation](linear(p, head.dense.linear, x), head.dense.linear.name)
        x = layer_norm(p, head.dense.norm, x) if head.dense.norm else x
    x = linear(p, head.projection, x)
    return ops.squeeze(x, [-1]) if head.squeeze else x


def linear(p: Pass, layer: Linear, x: Node) -> Node:
    """x Wᵀ + b, or x Wᵀ."""
    return p.parameters.linear(layer.name, layer.weight, layer.bias, x)


def layer_norm(p: Pass, norm: Norm, x: Node) -> Node:
    """(x − mean) / √(variance + ε) · scale + offset over the last axis (Ba et al. 2016, arXiv:1607.06450).

    Where it is not centred, x / √(mean of x² + ε) · scale (Zhang and Sennrich 2019, arXiv:1910.07467).
    """
    if not norm.centred:
        mean = ops.reduce_mean(ops.multiply(x, x), [-1], keep_dims=True)
        x = ops.divide(x, ops.sqrt(ops.add(mean, np.float32(norm.epsilon))))
        return ops.multiply(x, p[norm.weight], name=f"{norm.name}/Multiply")
    x = ops.mvn(x, [-1], True, norm.epsilon, "inside_sqrt", name=f"{norm.name}/MVN")
    x = ops.multiply(x, p[norm.weight], name=f"{norm.name}/Multiply")
    return ops.add(x, p[norm.bias], name=f"{norm.name}/Add") if norm.bias else x


def cut(x: Node, start: int, size: int, name: str) -> Node:
    """So many elements of the last axis."""
    return ops.slice(x, [start], [start + size], [1], [-1], name=name)


def width_of(x: Node) -> int:
    """The size of the last axis, which is known."""
    shape = x.get_output_partial_shape(0)
    size: int = shape[len(shape) - 1].get_length()
    return size


def first_tokens(x: Node) -> Node:
    """[B, T, H] -> [B, H]."""
    return ops.gather(x, 0, 1)

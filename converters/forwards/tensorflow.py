"""TensorFlow: the encoder as a `tf.Module`, without Keras.

Variables hang on modules named after the parts of their canonical names, `model.bert.encoder.layer` and so
on in a loaded SavedModel; kernels are [inputs, outputs].
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from yizhi.converters.forwards import passes
from yizhi.converters.lean_tensorflow import tf
from yizhi.model.layout import tensorflow_name
from yizhi.model.spec import (
    IMAGE_PREFIX,
    INPUT,
    MATCH_LOGITS,
    OUTPUT,
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
    Parameter,
    Pooling,
    Rotary,
    Scaling,
)

if TYPE_CHECKING:
    Tensor: TypeAlias = Any  # TensorFlow says no types
else:
    Tensor = tf.Tensor
Pass = passes.Pass[Tensor]
LayerFunction = Callable[[Pass, Layer, Tensor], Tensor]


def gelu_erf(x: Tensor) -> Tensor:
    """x Φ(x), with the exact normal distribution function (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return 0.5 * x * (1 + tf.math.erf(x * math.sqrt(0.5)))


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of `gelu_erf`, from the same paper."""
    return 0.5 * x * (1 + tf.math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * tf.math.pow(x, 3))))


def silu(x: Tensor) -> Tensor:
    """x / (1 + exp(−x)) (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return x * tf.math.sigmoid(x)


ACTIVATIONS = {
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "relu": tf.nn.relu,
    "silu": silu,
    "tanh": tf.math.tanh,
    "identity": lambda x: x,
}


class TensorFlowEncoder(tf.Module):
    """An encoder with its head. `read` gives each parameter's values, kernels transposed."""

    def __init__(self, spec: EncoderSpec, read: Callable[[Parameter], Tensor]) -> None:
        super().__init__(name="encoder")
        by_name = {
            parameter.name: _register(self, tensorflow_name(parameter), read(parameter))
            for parameter in spec.parameters()
        }
        # A proxy, because TensorFlow would save a dictionary's items under a second set of names.
        self._pass = Pass(MappingProxyType(by_name), spec)
        self._run_layer = _trace_once()

    def encode(self, given: Mapping[str, Tensor], outputs: Collection[str]) -> dict[str, Tensor]:
        """Those of the named outputs that are hidden states [B, T, H], or [B, R, H] of regions, from the inputs."""
        found: dict[str, Tensor] = {}
        p = replace(self._pass, tap=passes.keep(outputs, found))
        x, y = encode(p, given, self._run_layer)  # [B, T, H], [B, R, H]
        p.tap("last_hidden_state", x)
        if p.spec.image:
            image_stream(p, p.spec.image, y, given["image_mask"], self._run_layer)
        return found

    def heads(
        self, states: Mapping[str, Tensor], given: Mapping[str, Tensor], outputs: Collection[str]
    ) -> dict[str, Tensor]:
        """What is named of what is made of the last of the hidden states: vectors, weights and `logits`."""
        p, spec = self._pass, self._pass.spec
        x, attention_mask = states["last_hidden_state"], given["attention_mask"]
        found: dict[str, Tensor] = {}
        pooled = pooler(p, spec.pooler, x) if spec.pooler else None
        if "pooler_output" in outputs:
            found["pooler_output"] = pooled
        if SENTENCE_EMBEDDING in outputs and spec.pooling:
            found[SENTENCE_EMBEDDING] = sentence_embedding(p, spec.pooling, x, attention_mask)
        if TOKEN_WEIGHTS in outputs and spec.token_weights:
            found[TOKEN_WEIGHTS] = token_weights(p, spec.token_weights, x, attention_mask)
        if TOKEN_VECTORS in outputs and spec.token_vectors:
            found[TOKEN_VECTORS] = token_vectors(p, spec.token_vectors, x, attention_mask)
        if "logits" in outputs and isinstance(spec.head, MaskedLMHead):
            found["logits"] = mlm_head(p, spec.head, x)
            if TERM_WEIGHTS in outputs:
                found[TERM_WEIGHTS] = term_weights(p, found["logits"], attention_mask)
        elif "logits" in outputs and isinstance(spec.head, LinearHead):
            found["logits"] = linear_head(p, spec.head, x, pooled, attention_mask)
        if spec.image and spec.reads_image(outputs):
            y = states[f"{IMAGE_PREFIX}last_hidden_state"]
            image_heads(replace(p, tap=passes.keep(outputs, found)), spec.image, y, given["image_mask"], pooled)
        return found

    def logits_at(self, given: Mapping[str, Tensor], positions: Tensor) -> Tensor:
        """Vocabulary logits [N, V] at (row, position) pairs [N, 2], with no work after attention for other tokens."""
        p = replace(self._pass, positions=positions)
        x, _ = encode(p, given, self._run_layer)
        return mlm_head(p, p.spec.masked_lm_head, x)


def _trace_once() -> LayerFunction:
    """`encoder_layer` without taps, as a function of the graph's own for each layer, whichever signatures run it."""
    traced: dict[Layer, Callable[..., Tensor]] = {}

    def run_layer(p: Pass, layer: Layer, x: Tensor) -> Tensor:
        if p.positions is not None:
            return encoder_layer(p, layer, x)
        if layer not in traced:

            def function(
                x: Tensor,
                mask: Tensor,
                past: Tensor | None,
                windows: list[Tensor],
                angles: list[tuple[Tensor, Tensor]],
                relative: Tensor | None,
            ) -> Tensor:
                masks = {"windows": dict(zip(p.windows, windows, strict=True)), "mask": mask, "past": past}
                turns = dict(zip(p.angles, angles, strict=True))
                return encoder_layer(replace(p, tap=passes.ignore, angles=turns, relative=relative, **masks), layer, x)

            traced[layer] = tf.function(function, autograph=False)
        return traced[layer](x, p.mask, p.past, list(p.windows.values()), list(p.angles.values()), p.relative)

    return run_layer


def see(p: Pass, attention_mask: Tensor, x: Tensor) -> Pass:
    """The pass with what attention needs beside the hidden states: masks, and the angles of rotary positions."""
    length, d = tf.shape(attention_mask)[1], p.spec.config.head_size
    mask = mask_scores(attention_mask, x)
    ahead = tf.range(length) > tf.range(length)[:, tf.newaxis]  # [T, T]
    past = tf.where(ahead, x.dtype.min, mask) if p.spec.causal else None
    windows, angles = {}, {}
    for window in p.spec.windows:
        distances = tf.abs(tf.range(length)[:, tf.newaxis] - tf.range(length))  # [T, T]
        windows[window] = tf.where(distances > window, x.dtype.min, mask)
    for base in p.spec.rotary_bases:
        # In float64: an angle in float32 is off by 4e-4 at position 8,191, as it is in transformers' ModernBERT.
        places = tf.cast(tf.range(length), tf.float64)[:, tf.newaxis]
        angle = places * base ** (-tf.range(0, d, 2, tf.float64) / d)  # [T, d / 2]
        angles[base] = tf.cast(tf.cos(angle), x.dtype), tf.cast(tf.sin(angle), x.dtype)
    relative = None if p.spec.farthest is None else relative_positions(p.spec.farthest, length, d, x.dtype)
    return replace(p, mask=mask, past=past, windows=windows, angles=angles, relative=relative)


def relative_positions(farthest: int, length: Tensor, d: int, dtype: tf.DType) -> Tensor:
    """What a key's distance adds to it and to its value, [T, T, d]; the formula stands at `yizhi.model.spec.Layer`."""
    numbers = tf.range(2 * farthest + 1, dtype=tf.float64)[:, tf.newaxis]
    angle = numbers * 10_000.0 ** (-tf.range(0, d, 2, tf.float64) / d)  # [2 · farthest + 1, d / 2]
    table = tf.cast(tf.reshape(tf.stack((tf.sin(angle), tf.cos(angle)), -1), (-1, d)), dtype)
    distances = tf.range(length) - tf.range(length)[:, tf.newaxis]
    return tf.gather(table, tf.clip_by_value(distances, -farthest, farthest) + farthest)


def mask_scores(attention_mask: Tensor, x: Tensor) -> Tensor:
    """What to add to attention scores: 0 for a token, the lowest finite value for padding, [B, 1, 1, T]."""
    return tf.cast(1 - attention_mask, x.dtype)[:, tf.newaxis, tf.newaxis, :] * x.dtype.min


def encode(p: Pass, given: Mapping[str, Tensor], run_layer: LayerFunction) -> tuple[Tensor, Tensor | None]:
    """The last hidden states of the tokens, [B, T, H], and the regions [B, R, H] after the shared blocks, if any.

    Of the tokens that the pass names, [N, H].
    """
    x, y, start = embeddings(p, given["input_ids"], given["token_type_ids"]), None, 0
    if p.spec.image:
        start = p.spec.image.shared
        y = region_embeddings(p, p.spec.image, given["image_features"], given["image_boxes"])
        x, y = shared_encoder(p, start, x, y, given["attention_mask"], given["image_mask"], run_layer)
    return encoder(see(p, given["attention_mask"], x), x, start, run_layer), y


def embeddings(p: Pass, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
    """Word + position + token type, then LayerNorm and a projection to H where the family has them."""
    x = tf.gather(p[p.spec.word_embeddings.weight], input_ids)  # [B, T, E]
    if p.spec.token_type_embeddings:
        x = x + tf.gather(p[p.spec.token_type_embeddings.weight], token_type_ids)
    if p.spec.position_embeddings:
        x = x + tf.gather(p[p.spec.position_embeddings.weight], position_ids(p, input_ids))
    if p.spec.task_type_embeddings:
        x = x + tf.gather(p[p.spec.task_type_embeddings.weight], 0)
    if p.spec.embeddings_norm:
        x = layer_norm(p, p.spec.embeddings_norm, x)
    return linear(p, p.spec.embeddings_projection, x) if p.spec.embeddings_projection else x  # [B, T, H]


def position_ids(p: Pass, input_ids: Tensor) -> Tensor:
    """Rows of the position table: 0, 1, 2, … [T]; or counted from `padding_idx` on, past padding [B, T]."""
    if p.spec.padding_idx is None:
        return tf.range(tf.shape(input_ids)[1])
    kept = tf.cast(tf.not_equal(input_ids, p.spec.padding_idx), input_ids.dtype)
    return tf.cumsum(kept, 1) * kept + p.spec.padding_idx


def region_embeddings(p: Pass, image: ImageStream, features: Tensor, boxes: Tensor) -> Tensor:
    """LayerNorm of the sum of both linear layers: [B, R, F] and [B, R, 5] -> [B, R, H]."""
    return layer_norm(p, image.norm, linear(p, image.features, features) + linear(p, image.boxes, boxes))


def shared_encoder(
    p: Pass, shared: int, x: Tensor, y: Tensor, attention_mask: Tensor, image_mask: Tensor, run_layer: LayerFunction
) -> tuple[Tensor, Tensor]:
    """The blocks that tokens x [B, T, H] and regions y [B, R, H] go through as one row, regions first."""
    regions = tf.shape(image_mask)[1]

    def tap(name: str, z: Tensor) -> Tensor:
        p.tap(name, z[:, regions:])
        p.tap(f"{IMAGE_PREFIX}{name}", z[:, :regions])
        return z

    z = tf.concat((y, x), 1)  # [B, R + T, H]
    joined = see(replace(p, tap=tap), join_masks(p, attention_mask, image_mask), z)
    z = run_blocks(joined, z, 0, shared, run_layer)
    return z[:, regions:], z[:, :regions]


def join_masks(p: Pass, attention_mask: Tensor, image_mask: Tensor) -> Tensor:
    """The mask of regions and tokens as one row, [B, R + T]."""
    return tf.concat((image_mask, attention_mask), 1)


def image_stream(p: Pass, image: ImageStream, y: Tensor, image_mask: Tensor, run_layer: LayerFunction) -> None:
    """Tap what the image's own blocks make of regions y [B, R, H], after the shared blocks."""
    own = of_image(p)
    own.tap("last_hidden_state", encoder(see(own, image_mask, y), y, image.shared, run_layer))


def image_heads(p: Pass, image: ImageStream, y: Tensor, image_mask: Tensor, pooled: Tensor) -> None:
    """Tap what is made of the regions' last hidden states [B, R, H].

    pooled: the text's pooler output.
    """
    own = of_image(p)
    image_pooled = own.tap("pooler_output", pooler(own, image.pooler, y))
    p.tap(REGION_LOGITS, linear_head(own, image.region_head, y, None, image_mask))
    p.tap(MATCH_LOGITS, match(p, image, pooled, image_pooled))


def of_image(p: Pass) -> Pass:
    """The pass of the image's own blocks and heads."""
    return replace(p, spec=p.spec.of_image, tap=lambda name, x: p.tap(f"{IMAGE_PREFIX}{name}", x))


def match(p: Pass, image: ImageStream, pooled: Tensor, image_pooled: Tensor) -> Tensor:
    """Logits of whether text and image belong together, [B, 2], from both poolers' outputs [B, pooled]."""
    return linear(p, image.match, pooled * image_pooled if image.fusion == "mul" else pooled + image_pooled)


def encoder(p: Pass, x: Tensor, start: int, run_layer: LayerFunction) -> Tensor:
    """Every block from `start` on; `hidden_states.N` is the input of block N, the last is the result.

    run_layer: a traced stand-in for `encoder_layer`.
    """
    x = run_blocks(p, x, start, len(p.spec.blocks), run_layer)
    if p.spec.final_norm:
        x = layer_norm(p, p.spec.final_norm, x)
    return p.tap(f"hidden_states.{len(p.spec.blocks)}", x)


def run_blocks(p: Pass, x: Tensor, start: int, end: int, run_layer: LayerFunction) -> Tensor:
    """Blocks `start` … `end` − 1 in turn."""
    for index, block in p.spec.numbered_blocks[start:end]:
        x = p.tap(f"hidden_states.{index}", x)
        for number, layer in block:
            x = run_layer(p.in_layer(number), layer, x)
    return x


def encoder_layer(p: Pass, layer: Layer, x: Tensor) -> Tensor:
    """Attention and feed-forward, each with a residual; LayerNorm after each sum, or before each part.

    Gives [N, H] where the pass names positions.
    """
    if layer.norm_first or not layer.attention_norm:
        attended = attention(p, layer, layer_norm(p, layer.attention_norm, x) if layer.attention_norm else x)
        x = p.tap("after_attention", tokens_at(x, p.positions) + attended)
        return x + feed_forward(p, layer, layer_norm(p, layer.output_norm, x))
    x, y = tokens_at(x, p.positions), attention(p, layer, x)
    x = p.tap("after_attention", add_and_norm(p, layer.attention_norm, layer.attention_adapter, x, y))
    return add_and_norm(p, layer.output_norm, layer.output_adapter, x, feed_forward(p, layer, x))


def add_and_norm(p: Pass, norm: Norm, part: Adapter | None, x: Tensor, y: Tensor) -> Tensor:
    """LayerNorm(x + y) of a sub-layer's input and output, with an adapter on the way where there is one."""
    if part is None:
        return layer_norm(p, norm, x + y)
    z = adapter(p, norm, part, x, y)
    return z if part.adds is None else layer_norm(p, norm, z + (x if part.adds == INPUT else y))


def adapter(p: Pass, norm: Norm, part: Adapter, x: Tensor, y: Tensor) -> Tensor:
    """A bottleneck and the residual around it: the z of `yizhi.model.spec.Adapter`."""

    def take(which: str) -> Tensor:
        if which in (INPUT, OUTPUT):
            return x if which == INPUT else y
        return x + y if which == SUM else layer_norm(p, norm, x + y)

    read = take(part.reads)  # [B, T, H]
    z = layer_norm(p, part.norm_before, read) if part.norm_before else read
    z = ACTIVATIONS[part.activation](linear(p, part.down, z))  # [B, T, bottleneck]
    z = linear(p, part.up, z) * (p[part.scaling.name] if isinstance(part.scaling, Scaling) else part.scaling)
    residual = read if part.residual == part.reads else take(part.residual)
    if part.residual_in_norm:
        z = z + residual
    if part.norm_after:
        z = layer_norm(p, part.norm_after, z)
    return z if part.residual_in_norm else z + residual


def attention(p: Pass, layer: Layer, x: Tensor) -> Tensor:
    """softmax(Q Kᵀ / √d + mask) V over A heads of width d (Vaswani et al. 2017, arXiv:1706.03762), then projected."""
    batch, length = tf.unstack(tf.shape(x)[:2])
    d, count, shared = p.spec.config.head_size, p.spec.config.num_attention_heads, p.spec.config.num_key_value_heads
    query, key, value = (tf.reshape(y, (batch, length, -1, d)) for y in projections(p, layer, x))
    query = layer_norm(p, layer.query_norm, query) if layer.query_norm else query
    key = layer_norm(p, layer.key_norm, key) if layer.key_norm else key
    query, key, value = (tf.transpose(y, (0, 2, 1, 3)) for y in (query, key, value))  # [B, A, T, d]
    if layer.rotary:
        query, key = rotary(p, layer.rotary, query), rotary(p, layer.rotary, key)
        value = rotary(p, layer.rotary, value) if layer.rotary.values else value
    if shared < count:  # each head of keys and values once for each that shares it
        owners = [head * shared // count for head in range(count)]
        key, value = (tf.gather(y, owners, axis=1) for y in (key, value))
    mask = p.past if layer.causal else p.mask if layer.window is None else p.windows[layer.window]
    scores = tf.matmul(query, key, transpose_b=True)  # [B, A, T, T]
    if layer.farthest is not None:
        scores = scores + tf.einsum("baqd,qkd->baqk", query, p.relative)
    weights = tf.nn.softmax(scores * p.spec.config.head_size**-0.5 + mask)
    context = tf.matmul(weights, value)
    if layer.farthest is not None:
        context = context + tf.einsum("baqk,qkd->baqd", weights, p.relative)
    context = tf.transpose(context, (0, 2, 1, 3))  # [B, T, A, d]
    context = tf.reshape(context, (batch, length, count * d))
    context = p.tap("context", tokens_at(context, p.positions))  # [B, T, H] or [N, H]
    return p.tap("attention_output", linear(p, layer.attention_output, context))


def projections(p: Pass, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, T, A · d], keys and values, [B, T, K · d] each of K heads."""
    if layer.fused:
        query, key, value = tf.split(linear(p, layer.query, x), 3, -1)
    else:
        query, key, value = (linear(p, part, x) for part in (layer.query, layer.key, layer.value))
    return p.tap("query", query), p.tap("key", key), p.tap("value", value)


def rotary(p: Pass, turn: Rotary, x: Tensor) -> Tensor:
    """Each pair (a, b) of a head's elements turned by its position's angle: [B, A, T, d]."""
    pairs, axis = p.spec.config.head_size // 2, -1 if turn.interleaved else -2
    sizes = (pairs, 2) if turn.interleaved else (2, pairs)
    a, b = tf.split(tf.reshape(x, tf.concat((tf.shape(x)[:-1], sizes), 0)), 2, axis)
    cos, sin = (tf.expand_dims(table, axis) for table in p.angles[turn.base])
    return tf.reshape(tf.concat((a * cos - b * sin, b * cos + a * sin), axis), tf.shape(x))


def tokens_at(x: Tensor, positions: Tensor | None) -> Tensor:
    """[B, T, H] -> [N, H]: the tokens at (row, position) pairs [N, 2]; without any, x as it is."""
    return x if positions is None else tf.gather_nd(x, positions)


def feed_forward(p: Pass, layer: Layer, x: Tensor) -> Tensor:
    """Two linear layers with the activation between them, and its gate where there is one."""
    activation, up = ACTIVATIONS[p.spec.config.activation], linear(p, layer.up, x) if layer.up else None
    x = linear(p, layer.intermediate, x)  # [B, T, I], or [B, T, 2 I] with a gate
    if up is not None:
        x = activation(x) * up
    elif layer.gated:
        x, gate = tf.split(x, 2, -1)
        x = activation(x) * gate
    else:
        x = activation(x)
    return p.tap("output", linear(p, layer.output, p.tap("intermediate", x)))  # [B, T, H]


def pooler(p: Pass, dense: Dense, x: Tensor) -> Tensor:
    """A linear layer with its activation, tanh in most families, over the first token: [B, pooled]."""
    return ACTIVATIONS[dense.activation](linear(p, dense.linear, x[:, 0]))


def sentence_embedding(p: Pass, pooling: Pooling, x: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, T, H] -> [B, D]: each row's own tokens as one vector."""
    kept = tf.cast(attention_mask, x.dtype)[..., tf.newaxis]  # [B, T, 1]
    if pooling.mode == "mean":
        pooled = tf.reduce_sum(x * kept, 1) / tf.maximum(tf.reduce_sum(kept, 1), 1)
    elif pooling.mode == "max":
        pooled = tf.reduce_max(tf.where(kept == 0, x.dtype.min, x), 1) * tf.reduce_max(kept, 1)
    elif pooling.mode == "last":
        places = tf.range(1, tf.shape(x)[1] + 1)  # of the last token, the greatest
        pooled = tf.gather(x, tf.argmax(attention_mask * places, 1), batch_dims=1)
    else:
        pooled = tf.gather(x, tf.argmax(attention_mask, 1), batch_dims=1)
    for dense in pooling.dense:
        pooled = ACTIVATIONS[dense.activation](linear(p, dense.linear, pooled))
    if pooling.dimensions:
        pooled = shorten(p, pooled, pooling.dimensions)
    return normalize(pooled) if pooling.normalize else pooled


def shorten(p: Pass, x: Tensor, size: int) -> Tensor:
    """The first so many numbers of each vector."""
    return x[:, :size]


def normalize(x: Tensor) -> Tensor:
    """Each vector along the last axis over its L2 norm."""
    return x / tf.maximum(tf.norm(x, axis=-1, keepdims=True), SHORTEST_NORM)


def token_weights(p: Pass, head: Dense, x: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, T, H] -> [B, T]: each token's weight for lexical matching, 0 at padding."""
    weights = ACTIVATIONS[head.activation](linear(p, head.linear, x))  # [B, T, 1]
    return tf.squeeze(weights, -1) * tf.cast(attention_mask, x.dtype)


def token_vectors(p: Pass, dense: Linear, x: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, T, H] -> [B, T, D]: each token's vector of length 1, zeros at padding."""
    return normalize(linear(p, dense, x) * tf.cast(attention_mask, x.dtype)[..., tf.newaxis])


def term_weights(p: Pass, logits: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, T, V] -> [B, V]: log(1 + relu) of the highest logit over a row's own tokens; both only grow."""
    highest = tf.reduce_max(tf.where(attention_mask[..., tf.newaxis] == 0, 0.0, logits), 1)
    return tf.math.log1p(tf.nn.relu(highest))


def mlm_head(p: Pass, head: MaskedLMHead, x: Tensor) -> Tensor:
    """Vocabulary logits [..., V] of hidden states [..., H]."""
    if head.dense:
        x = ACTIVATIONS[head.activation](linear(p, head.dense, x))  # [B, T, E]
    if head.norm:
        x = layer_norm(p, head.norm, x)
    return affine(x, p[head.decoder], p.get(head.decoder_bias), tied=p.spec.tied)


def linear_head(p: Pass, head: LinearHead, x: Tensor, pooled: Tensor | None, attention_mask: Tensor) -> Tensor:
    """Label logits over every token, the first token, the mean of a row's own tokens, or the pooler's output."""
    if head.over == "pooler" and pooled is not None:
        x = pooled
    elif head.over == "first_token":
        x = x[:, 0]
    elif head.over == "mean":
        x = sentence_embedding(p, Pooling("mean"), x, attention_mask)
    if head.dense:
        x = ACTIVATIONS[head.dense.activation](linear(p, head.dense.linear, x))
        x = layer_norm(p, head.dense.norm, x) if head.dense.norm else x
    x = linear(p, head.projection, x)
    return tf.squeeze(x, -1) if head.squeeze else x


def linear(p: Pass, layer: Linear, x: Tensor) -> Tensor:
    """x Wᵀ + b, or x Wᵀ."""
    return affine(x, p[layer.weight], p.get(layer.bias))


def affine(x: Tensor, kernel: tf.Variable, bias: tf.Variable | None, tied: bool = False) -> Tensor:
    """x K + b, or x K, over the last axis, as one plain matrix product: a broadcast one is far slower.

    kernel: [inputs, outputs]; where tied, the embedding table [outputs, inputs].
    """
    rows = tf.reshape(x, (-1, x.shape[-1]))
    product = tf.matmul(rows, kernel, transpose_b=tied)
    if bias is not None:
        product = tf.nn.bias_add(product, bias)
    return tf.reshape(product, tf.concat((tf.shape(x)[:-1], product.shape[-1:]), 0))


def layer_norm(p: Pass, norm: Norm, x: Tensor) -> Tensor:
    """(x − mean) / √(variance + ε) · scale + offset over the last axis (Ba et al. 2016, arXiv:1607.06450).

    Where it is not centred, x / √(mean of x² + ε) · scale (Zhang and Sennrich 2019, arXiv:1910.07467).
    """
    centred = x - tf.reduce_mean(x, -1, keepdims=True) if norm.centred else x
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    y = centred * tf.math.rsqrt(variance + norm.epsilon) * p[norm.weight]
    return y + p[norm.bias] if norm.bias else y


def _register(module: tf.Module, name: str, values: Tensor) -> tf.Variable:
    """Hang a variable on the module that its dotted name leads to, making the modules on the way."""
    *path, leaf = name.split(".")
    for part in path:
        if not hasattr(module, part):
            setattr(module, part, tf.Module(name=f"part_{part}"))
        module = getattr(module, part)
    variable = tf.Variable(values, trainable=False, name=name)
    setattr(module, leaf, variable)
    return variable

"""Flax: the encoder in jax.numpy, over the parameters of `flax_model.msgpack`.

Kernels are [inputs, outputs]. Every product asks for full float32, since on GPUs and TPUs JAX's default
rounds its operands to 10 or 8 bits of mantissa; unless `jax.default_matmul_precision` says otherwise.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from yizhi.converters.forwards import passes
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

Integers = Array | NDArray[np.int32]  # what users hand over
Pass = passes.Pass[Array]
LayerFunction = Callable[[Pass, Layer, Array], Array]


def gelu_erf(x: Array) -> Array:
    """x Φ(x), with the exact normal distribution function (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return 0.5 * x * (1 + lax.erf(x * math.sqrt(0.5)))


def gelu_tanh(x: Array) -> Array:
    """The tanh approximation of `gelu_erf`, from the same paper."""
    return 0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "identity": lambda x: x,
}


def precision() -> lax.Precision | None:
    """What every product asks for; None leaves it to `jax.default_matmul_precision`, where that is set."""
    # Its type lists no flags.
    set_by_user = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return None if set_by_user else lax.Precision.HIGHEST


def heads(
    p: Pass,
    x: Array,
    y: Array | None,
    attention_mask: Array,
    image_mask: Array | None,
    outputs: Collection[str],
) -> dict[str, Array]:
    """What is named of what is made of the last hidden states [B, T, H]: vectors, weights and `logits`.

    Vocabulary logits alone may be asked for of any tokens, [N, H].
    y, image_mask: of an image's regions, the last hidden states [B, R, H] and the mask [B, R].
    """
    spec, found = p.spec, dict[str, Array]()
    reads_pooler = "pooler_output" in outputs or ("logits" in outputs and spec.head_reads_pooler)
    reads_pooler |= MATCH_LOGITS in outputs
    pooled = pooler(p, spec.pooler, x) if spec.pooler and reads_pooler else None
    if "pooler_output" in outputs and pooled is not None:
        found["pooler_output"] = pooled
    if SENTENCE_EMBEDDING in outputs and spec.pooling:
        found[SENTENCE_EMBEDDING] = sentence_embedding(p, spec.pooling, x, attention_mask)
    if TOKEN_WEIGHTS in outputs and spec.token_weights:
        found[TOKEN_WEIGHTS] = token_weights(p, spec.token_weights, x, attention_mask)
    if TOKEN_VECTORS in outputs and spec.token_vectors:
        found[TOKEN_VECTORS] = token_vectors(p, spec.token_vectors, x, attention_mask)
    if isinstance(spec.head, MaskedLMHead) and {"logits", TERM_WEIGHTS} & set(outputs):
        logits = mlm_head(p, spec.head, x)
        if "logits" in outputs:
            found["logits"] = logits
        if TERM_WEIGHTS in outputs:
            found[TERM_WEIGHTS] = term_weights(p, logits, attention_mask)
    elif "logits" in outputs and isinstance(spec.head, LinearHead):
        found["logits"] = linear_head(p, spec.head, x, pooled, attention_mask)
    if spec.image and y is not None and image_mask is not None:
        image_heads(replace(p, tap=passes.keep(outputs, found)), spec.image, y, image_mask, pooled)
    return found


def mask_scores(attention_mask: Integers, x: Array) -> Array:
    """What to add to attention scores: 0 for a token, the lowest finite value for padding, [B, 1, 1, T]."""
    return (1 - attention_mask)[:, None, None, :].astype(x.dtype) * jnp.finfo(x.dtype).min


def embeddings(p: Pass, input_ids: Integers, token_type_ids: Integers) -> Array:
    """Word + position + token type, then LayerNorm and a projection to H where the family has them."""
    x = lookup(p[p.spec.word_embeddings.weight], input_ids)  # [B, T, E]
    if p.spec.token_type_embeddings:
        x = x + lookup(p[p.spec.token_type_embeddings.weight], token_type_ids)
    if p.spec.position_embeddings:
        x = x + lookup(p[p.spec.position_embeddings.weight], position_ids(p, input_ids))
    if p.spec.task_type_embeddings:
        x = x + p[p.spec.task_type_embeddings.weight][0]
    if p.spec.embeddings_norm:
        x = layer_norm(p, p.spec.embeddings_norm, x)
    return linear(p, p.spec.embeddings_projection, x) if p.spec.embeddings_projection else x  # [B, T, H]


def position_ids(p: Pass, input_ids: Integers) -> Array:
    """Rows of the position table: 0, 1, 2, … [T]; or counted from `padding_idx` on, past padding [B, T]."""
    if p.spec.padding_idx is None:
        return jnp.arange(input_ids.shape[1])
    kept = jnp.not_equal(input_ids, p.spec.padding_idx).astype(jnp.int32)
    return kept.cumsum(1) * kept + p.spec.padding_idx


def region_embeddings(p: Pass, image: ImageStream, features: Array, boxes: Array) -> Array:
    """LayerNorm of the sum of both linear layers: [B, R, F] and [B, R, 5] -> [B, R, H]."""
    features, boxes = (x.astype(p[image.norm.weight].dtype) for x in (features, boxes))
    return layer_norm(p, image.norm, linear(p, image.features, features) + linear(p, image.boxes, boxes))


def embed(p: Pass, given: Mapping[str, Array]) -> tuple[Array, Array | None]:
    """What the first layer reads: of tokens [B, T, H], and of regions [B, R, H], if there are any."""
    image = p.spec.image
    y = region_embeddings(p, image, given["image_features"], given["image_boxes"]) if image else None
    return embeddings(p, given["input_ids"], given["token_type_ids"]), y


def encode(
    p: Pass,
    x: Array,
    y: Array | None,
    attention_mask: Integers,
    image_mask: Integers | None,
    outputs: Collection[str],
    run_layer: LayerFunction | None = None,
) -> tuple[Array, Array | None]:
    """The last hidden states of tokens x [B, T, H]; and of regions y [B, R, H], where one of the outputs needs them.

    run_layer: a compiled stand-in for `encoder_layer`.
    """
    image, start = p.spec.image, 0
    if image and y is not None and image_mask is not None:
        start = image.shared
        x, y = shared_encoder(p, start, x, y, attention_mask, image_mask, run_layer)
        if p.spec.reads_image(outputs):
            y = image_stream(p, image, y, image_mask, run_layer)
    x = encoder(replace(p, mask=mask_scores(attention_mask, x)), x, start, run_layer)
    return p.tap("last_hidden_state", x), y


def shared_encoder(
    p: Pass,
    shared: int,
    x: Array,
    y: Array,
    attention_mask: Integers,
    image_mask: Integers,
    run_layer: LayerFunction | None = None,
) -> tuple[Array, Array]:
    """The blocks that tokens x [B, T, H] and regions y [B, R, H] go through as one row, regions first."""
    regions = y.shape[1]

    def tap(name: str, z: Array) -> Array:
        p.tap(name, z[:, regions:])
        p.tap(f"{IMAGE_PREFIX}{name}", z[:, :regions])
        return z

    z = jnp.concatenate((y, x), 1)  # [B, R + T, H]
    mask = mask_scores(join_masks(p, attention_mask, image_mask), z)
    z = run_blocks(replace(p, tap=tap, mask=mask), z, 0, shared, run_layer)
    return z[:, regions:], z[:, :regions]


def join_masks(p: Pass, attention_mask: Integers, image_mask: Integers) -> Array:
    """The mask of regions and tokens as one row, [B, R + T]."""
    return jnp.concatenate((image_mask, attention_mask), 1)


def image_stream(
    p: Pass, image: ImageStream, y: Array, image_mask: Integers, run_layer: LayerFunction | None = None
) -> Array:
    """What the image's own blocks make of regions y [B, R, H], after the shared blocks: their last hidden states."""
    own = of_image(p)
    y = encoder(replace(own, mask=mask_scores(image_mask, y)), y, image.shared, run_layer)
    return own.tap("last_hidden_state", y)


def image_heads(p: Pass, image: ImageStream, y: Array, image_mask: Array, pooled: Array | None) -> None:
    """Tap what is made of the regions' last hidden states [B, R, H].

    pooled: the text's pooler output, if `match_logits` are wanted.
    """
    own = of_image(p)
    image_pooled = own.tap("pooler_output", pooler(own, image.pooler, y))
    p.tap(REGION_LOGITS, linear_head(own, image.region_head, y, None, image_mask))
    if pooled is not None:
        p.tap(MATCH_LOGITS, match(p, image, pooled, image_pooled))


def of_image(p: Pass) -> Pass:
    """The pass of the image's own blocks."""
    return replace(p, spec=p.spec.of_image, positions=None, tap=lambda name, x: p.tap(f"{IMAGE_PREFIX}{name}", x))


def match(p: Pass, image: ImageStream, pooled: Array, image_pooled: Array) -> Array:
    """Logits of whether text and image belong together, [B, 2], from both poolers' outputs [B, pooled]."""
    return linear(p, image.match, pooled * image_pooled if image.fusion == "mul" else pooled + image_pooled)


def encoder(p: Pass, x: Array, start: int = 0, run_layer: LayerFunction | None = None) -> Array:
    """Every block from `start` on; `hidden_states.N` is the input of block N, the last is the result.

    run_layer: a compiled stand-in for `encoder_layer`.
    """
    x = run_blocks(p, x, start, len(p.spec.blocks), run_layer)
    if p.spec.final_norm:
        x = layer_norm(p, p.spec.final_norm, x)
    return p.tap(f"hidden_states.{len(p.spec.blocks)}", x)


def run_blocks(p: Pass, x: Array, start: int, end: int, run_layer: LayerFunction | None = None) -> Array:
    """Blocks `start` … `end` − 1 in turn."""
    run_layer = run_layer or encoder_layer
    for index, block in p.spec.numbered_blocks[start:end]:
        x = p.tap(f"hidden_states.{index}", x)
        for number, layer in block:
            x = run_layer(p.in_layer(number), layer, x)
    return x


def encoder_layer(p: Pass, layer: Layer, x: Array) -> Array:
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


def add_and_norm(p: Pass, norm: Norm, part: Adapter | None, x: Array, y: Array) -> Array:
    """LayerNorm(x + y) of a sub-layer's input and output, with an adapter on the way where there is one."""
    if part is None:
        return layer_norm(p, norm, x + y)
    z = adapter(p, norm, part, x, y)
    return z if part.adds is None else layer_norm(p, norm, z + (x if part.adds == INPUT else y))


def adapter(p: Pass, norm: Norm, part: Adapter, x: Array, y: Array) -> Array:
    """A bottleneck and the residual around it: the z of `yizhi.model.spec.Adapter`."""

    def take(which: str) -> Array:
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


def attention(p: Pass, layer: Layer, x: Array) -> Array:
    """softmax(Q Kᵀ / √d + mask) V over A heads of width d (Vaswani et al. 2017, arXiv:1706.03762), then projected."""
    d, shared = p.spec.config.head_size, p.spec.config.num_attention_heads // p.spec.config.num_key_value_heads
    query, key, value = (y.reshape(*x.shape[:2], -1, d) for y in projections(p, layer, x))  # [B, T, A, d]
    query = layer_norm(p, layer.query_norm, query) if layer.query_norm else query
    key = layer_norm(p, layer.key_norm, key) if layer.key_norm else key
    if layer.rotary:
        query, key = rotary(p, layer.rotary, query), rotary(p, layer.rotary, key)
        value = rotary(p, layer.rotary, value) if layer.rotary.values else value
    key, value = (jnp.repeat(y, shared, axis=2) for y in (key, value))
    mask = p.mask if layer.window is None else hide_far(p.mask, x, layer.window)
    mask = hide_future(p.mask, x) if layer.causal else mask
    relative = None if layer.farthest is None else relative_positions(layer.farthest, query)
    scores = jnp.einsum("bqad,bkad->baqk", query, key, precision=precision())  # [B, A, T, T]
    if relative is not None:
        scores = scores + jnp.einsum("bqad,qkd->baqk", query, relative, precision=precision())
    weights = jax.nn.softmax(scores * d**-0.5 + mask, axis=-1)
    context = jnp.einsum("baqk,bkad->bqad", weights, value, precision=precision())
    if relative is not None:
        context = context + jnp.einsum("baqk,qkd->bqad", weights, relative, precision=precision())
    context = p.tap("context", tokens_at(context.reshape(*x.shape[:2], -1), p.positions))  # [B, T, H] or [N, H]
    return p.tap("attention_output", linear(p, layer.attention_output, context))


def projections(p: Pass, layer: Layer, x: Array) -> tuple[Array, Array, Array]:
    """Queries [B, T, A · d], keys and values, [B, T, K · d] each of K heads."""
    if layer.fused:
        query, key, value = jnp.split(linear(p, layer.query, x), 3, -1)
    else:
        query, key, value = (linear(p, part, x) for part in (layer.query, layer.key, layer.value))
    return p.tap("query", query), p.tap("key", key), p.tap("value", value)


def rotary(p: Pass, turn: Rotary, x: Array) -> Array:
    """Each pair (a, b) of a head's elements turned by its position's angle: [B, T, A, d].

    Angles are float64 constants: in float32 they are off by 4e-4 at position 8,191, as in transformers' ModernBERT.
    """
    length, d = x.shape[1], x.shape[-1]
    axis = -1 if turn.interleaved else -2
    a, b = jnp.split(x.reshape(*x.shape[:-1], *((d // 2, 2) if turn.interleaved else (2, d // 2))), 2, axis)
    angles = np.arange(length)[:, None] * turn.base ** (-np.arange(0, d, 2) / d)
    angles = np.expand_dims(angles[:, None], axis)  # [T, 1, d / 2, 1], or [T, 1, 1, d / 2]
    cos, sin = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    return jnp.concatenate((a * cos - b * sin, b * cos + a * sin), axis).reshape(x.shape)


def relative_positions(farthest: int, x: Array) -> Array:
    """What a key's distance adds to it and to its value, [T, T, d]; the formula stands at `yizhi.model.spec.Layer`."""
    d, places = x.shape[-1], jnp.arange(x.shape[1])
    angles = np.arange(2 * farthest + 1)[:, None] * 10_000 ** (-np.arange(0, d, 2) / d)
    table = np.stack((np.sin(angles), np.cos(angles)), -1).reshape(-1, d)  # [2 · farthest + 1, d]
    return jnp.asarray(table, x.dtype)[jnp.clip(places - places[:, None], -farthest, farthest) + farthest]


def hide_far(mask: Array | None, x: Array, window: int) -> Array | None:
    """The mask of a layer with a window: [B, 1, T, T]."""
    places = jnp.arange(x.shape[1])
    far = abs(places[:, None] - places) > window
    return None if mask is None else jnp.where(far, jnp.finfo(x.dtype).min, mask)


def hide_future(mask: Array | None, x: Array) -> Array | None:
    """The mask of a causal layer: [B, 1, T, T]."""
    places = jnp.arange(x.shape[1])
    return None if mask is None else jnp.where(places > places[:, None], jnp.finfo(x.dtype).min, mask)


def tokens_at(x: Array, positions: Array | None) -> Array:
    """[B, T, H] -> [N, H]: the tokens at (row, position) pairs [N, 2]; without any, x as it is."""
    return x if positions is None else x[positions[:, 0], positions[:, 1]]


def feed_forward(p: Pass, layer: Layer, x: Array) -> Array:
    """Two linear layers with the activation between them, and its gate where there is one."""
    activation, up = ACTIVATIONS[p.spec.config.activation], linear(p, layer.up, x) if layer.up else None
    x = linear(p, layer.intermediate, x)  # [B, T, I], or [B, T, 2 I] with a gate
    if up is not None:
        x = activation(x) * up
    elif layer.gated:
        x, gate = jnp.split(x, 2, -1)
        x = activation(x) * gate
    else:
        x = activation(x)
    return p.tap("output", linear(p, layer.output, p.tap("intermediate", x)))  # [B, T, H]


def pooler(p: Pass, dense: Dense, x: Array) -> Array:
    """A linear layer with its activation, tanh in most families, over the first token: [B, pooled]."""
    return ACTIVATIONS[dense.activation](linear(p, dense.linear, x[:, 0]))


def sentence_embedding(p: Pass, pooling: Pooling, x: Array, attention_mask: Array) -> Array:
    """[B, T, H] -> [B, D]: each row's own tokens as one vector."""
    kept = attention_mask[..., None].astype(x.dtype)  # [B, T, 1]
    if pooling.mode == "mean":
        pooled = (x * kept).sum(1) / jnp.maximum(kept.sum(1), 1)
    elif pooling.mode == "max":
        pooled = jnp.where(kept == 0, jnp.finfo(x.dtype).min, x).max(1) * kept.max(1)
    elif pooling.mode == "last":
        pooled = x[jnp.arange(len(x)), x.shape[1] - 1 - attention_mask[:, ::-1].argmax(1)]
    else:
        pooled = x[jnp.arange(len(x)), attention_mask.argmax(1)]
    for dense in pooling.dense:
        pooled = ACTIVATIONS[dense.activation](linear(p, dense.linear, pooled))
    if pooling.dimensions:
        pooled = shorten(p, pooled, pooling.dimensions)
    return normalize(pooled) if pooling.normalize else pooled


def shorten(p: Pass, x: Array, size: int) -> Array:
    """The first so many numbers of each vector."""
    return x[:, :size]


def normalize(x: Array) -> Array:
    """Each vector along the last axis over its L2 norm."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), SHORTEST_NORM)


def token_weights(p: Pass, head: Dense, x: Array, attention_mask: Array) -> Array:
    """[B, T, H] -> [B, T]: each token's weight for lexical matching, 0 at padding."""
    weights = ACTIVATIONS[head.activation](linear(p, head.linear, x))  # [B, T, 1]
    return weights.squeeze(-1) * attention_mask.astype(x.dtype)


def token_vectors(p: Pass, dense: Linear, x: Array, attention_mask: Array) -> Array:
    """[B, T, H] -> [B, T, D]: each token's vector of length 1, zeros at padding."""
    return normalize(linear(p, dense, x) * attention_mask[..., None].astype(x.dtype))


def term_weights(p: Pass, logits: Array, attention_mask: Array) -> Array:
    """[B, T, V] -> [B, V]: log(1 + relu) of the highest logit over a row's own tokens; both only grow."""
    highest = jnp.where(attention_mask[..., None] == 0, 0, logits).max(1)
    return jnp.log1p(jax.nn.relu(highest))


def mlm_head(p: Pass, head: MaskedLMHead, x: Array) -> Array:
    """Vocabulary logits [..., V] of hidden states [..., H]."""
    if head.dense:
        x = ACTIVATIONS[head.activation](linear(p, head.dense, x))  # [..., E]
    if head.norm:
        x = layer_norm(p, head.norm, x)
    product = "...e,ve->...v" if p.spec.tied else "...e,ev->...v"  # a tied decoder is the embedding table [V, E]
    logits = jnp.einsum(product, x, p[head.decoder], precision=precision())
    return logits + p[head.decoder_bias] if head.decoder_bias else logits


def linear_head(p: Pass, head: LinearHead, x: Array, pooled: Array | None, attention_mask: Array) -> Array:
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
    return x.squeeze(-1) if head.squeeze else x


def lookup(table: Array, ids: Integers) -> Array:
    """Rows of a table; NaN for an id beyond it, where plain indexing would take the last row."""
    return jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)


def linear(p: Pass, layer: Linear, x: Array) -> Array:
    """x K + b, or x K, with the kernel K [inputs, outputs]."""
    product = jnp.matmul(x, p[layer.weight], precision=precision())
    return product + p[layer.bias] if layer.bias else product


def layer_norm(p: Pass, norm: Norm, x: Array) -> Array:
    """(x − mean) / √(variance + ε) · scale + offset over the last axis (Ba et al. 2016, arXiv:1607.06450).

    Where it is not centred, x / √(mean of x² + ε) · scale (Zhang and Sennrich 2019, arXiv:1910.07467).
    In float32, whatever x is: in float16 the squares overflow from 256 on.
    """
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True) if norm.centred else wide
    variance = jnp.square(centred).mean(-1, keepdims=True)
    y = centred * lax.rsqrt(variance + norm.epsilon) * p[norm.weight]
    return (y + p[norm.bias] if norm.bias else y).astype(x.dtype)

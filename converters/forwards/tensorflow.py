"""TensorFlow: the encoder as a `tf.Module`, without Keras.

Variables hang on modules named after the parts of their canonical names, `model.bert.encoder.layer` and so
on in a loaded SavedModel; kernels are [inputs, outputs].
"""

import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType

from yizhi.converters.lean_tensorflow import tf
from yizhi.model.layout import tensorflow_name
from yizhi.model.spec import (
    INPUT,
    OUTPUT,
    SENTENCE_EMBEDDING,
    SHORTEST_NORM,
    SUM,
    Adapter,
    EncoderSpec,
    Layer,
    Linear,
    LinearHead,
    MaskedLMHead,
    Norm,
    Parameter,
    Pooling,
    Scaling,
)

Tensor = tf.Tensor
Parameters = Mapping[str, tf.Variable]
Tap = Callable[[str, Tensor], Tensor]
LayerFunction = Callable[[Parameters, EncoderSpec, Layer, Tensor, Tensor, Tap, Tensor | None], Tensor]


def gelu_erf(x: Tensor) -> Tensor:
    """x Φ(x), with the exact normal distribution function (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return 0.5 * x * (1 + tf.math.erf(x * math.sqrt(0.5)))


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of `gelu_erf`, from the same paper."""
    return 0.5 * x * (1 + tf.math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * tf.math.pow(x, 3))))


def silu(x: Tensor) -> Tensor:
    """x / (1 + exp(−x)) (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return x * tf.math.sigmoid(x)


ACTIVATIONS = {"gelu_erf": gelu_erf, "gelu_tanh": gelu_tanh, "relu": tf.nn.relu, "silu": silu, "tanh": tf.math.tanh}


class TensorFlowEncoder(tf.Module):
    """An encoder with its head. `read` gives each parameter's values, kernels transposed."""

    def __init__(self, spec: EncoderSpec, read: Callable[[Parameter], Tensor]) -> None:
        super().__init__(name="encoder")
        self._spec = spec
        self._run_layer = _trace_once()
        # A proxy, because TensorFlow would save a dictionary's items under a second set of names.
        self._by_name = MappingProxyType(
            {
                parameter.name: _register(self, tensorflow_name(parameter), read(parameter))
                for parameter in spec.parameters()
            }
        )

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, outputs: Collection[str]
    ) -> dict[str, Tensor]:
        """Those of the named outputs that are hidden states [B, T, H], from integer tensors [B, T]."""
        found: dict[str, Tensor] = {}

        def tap(name: str, x: Tensor) -> Tensor:
            if name in outputs:
                found[name] = x
            return x

        spec, p = self._spec, self._by_name
        x = embeddings(p, spec, input_ids, token_type_ids)  # [B, T, H]
        tap("last_hidden_state", encoder(p, spec, x, mask_scores(attention_mask, x), tap, None, self._run_layer))
        return found

    def heads(self, x: Tensor, attention_mask: Tensor, outputs: Collection[str]) -> dict[str, Tensor]:
        """`pooler_output`, `sentence_embedding` and `logits`, where named, from `last_hidden_state` [B, T, H]."""
        spec, p = self._spec, self._by_name
        found: dict[str, Tensor] = {}
        pooled = pooler(p, spec.pooler, x) if spec.pooler else None
        if "pooler_output" in outputs:
            found["pooler_output"] = pooled
        if SENTENCE_EMBEDDING in outputs and spec.pooling:
            found[SENTENCE_EMBEDDING] = sentence_embedding(spec.pooling, x, attention_mask)
        if "logits" in outputs and isinstance(spec.head, MaskedLMHead):
            found["logits"] = mlm_head(p, spec, spec.head, x)
        elif "logits" in outputs and spec.head is not None:
            found["logits"] = linear_head(p, spec.head, x, pooled)
        return found

    def logits_at(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, positions: Tensor) -> Tensor:
        """Vocabulary logits [N, V] at (row, position) pairs [N, 2], with no work after attention for other tokens."""
        spec, p = self._spec, self._by_name
        x = embeddings(p, spec, input_ids, token_type_ids)
        x = encoder(p, spec, x, mask_scores(attention_mask, x), _ignore, positions, self._run_layer)
        return mlm_head(p, spec, spec.head, x)


def _trace_once() -> LayerFunction:
    """`encoder_layer` without taps, as a function of the graph's own for each layer, whichever signatures run it."""
    traced: dict[Layer, Callable[[Tensor, Tensor], Tensor]] = {}

    def run_layer(
        p: Parameters, spec: EncoderSpec, layer: Layer, x: Tensor, mask: Tensor, tap: Tap, positions: Tensor | None
    ) -> Tensor:
        if positions is not None:
            return encoder_layer(p, spec, layer, x, mask, tap, positions)
        if layer not in traced:
            traced[layer] = tf.function(partial(encoder_layer, p, spec, layer, tap=_ignore), autograph=False)
        return traced[layer](x, mask)

    return run_layer


def _ignore(name: str, x: Tensor) -> Tensor:
    return x


def mask_scores(attention_mask: Tensor, x: Tensor) -> Tensor:
    """What to add to attention scores: 0 for a token, the lowest finite value for padding, [B, 1, 1, T]."""
    return tf.cast(1 - attention_mask, x.dtype)[:, tf.newaxis, tf.newaxis, :] * x.dtype.min


def embeddings(p: Parameters, spec: EncoderSpec, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
    """Word + position + token type, then LayerNorm and a projection to H where the family has them."""
    positions = tf.range(tf.shape(input_ids)[1])
    x = tf.gather(p[spec.word_embeddings.weight], input_ids)  # [B, T, E]
    x = x + tf.gather(p[spec.token_type_embeddings.weight], token_type_ids)
    x = x + tf.gather(p[spec.position_embeddings.weight], positions)
    if spec.embeddings_norm:
        x = layer_norm(p, spec, spec.embeddings_norm, x)
    return linear(p, spec.embeddings_projection, x) if spec.embeddings_projection else x  # [B, T, H]


def encoder(
    p: Parameters,
    spec: EncoderSpec,
    x: Tensor,
    mask: Tensor,
    tap: Tap,
    positions: Tensor | None = None,
    run_layer: LayerFunction | None = None,
) -> Tensor:
    """Every block in turn; `hidden_states.N` is the input of block N, the last is the result.

    positions: the tokens [N, 2] that the last layer is to compute, as in `encoder_layer`.
    run_layer: a traced stand-in for `encoder_layer`.
    """
    run_layer = run_layer or encoder_layer
    number, last = 0, len(spec.layers) - 1
    for index, block in enumerate(spec.blocks):
        x = tap(f"hidden_states.{index}", x)
        for layer in block:
            wanted = positions if number == last else None
            x = run_layer(p, spec, layer, x, mask, lambda name, y, n=number: tap(f"layers.{n}.{name}", y), wanted)
            number += 1
    if spec.final_norm:
        x = layer_norm(p, spec, spec.final_norm, x)
    return tap(f"hidden_states.{len(spec.blocks)}", x)


def encoder_layer(
    p: Parameters, spec: EncoderSpec, layer: Layer, x: Tensor, mask: Tensor, tap: Tap, positions: Tensor | None = None
) -> Tensor:
    """Attention and feed-forward, each with a residual; LayerNorm after each sum, or before each part.

    positions: the tokens [N, 2] whose results [N, H] are wanted, each by row and position; all [B, T, H] if None.
    """
    if layer.norm_first:
        attended = attention(p, spec, layer, layer_norm(p, spec, layer.attention_norm, x), mask, tap, positions)
        x = tap("after_attention", tokens_at(x, positions) + attended)
        return x + feed_forward(p, spec, layer, layer_norm(p, spec, layer.output_norm, x), tap)
    x, y = tokens_at(x, positions), attention(p, spec, layer, x, mask, tap, positions)
    x = tap("after_attention", add_and_norm(p, spec, layer.attention_norm, layer.attention_adapter, x, y))
    return add_and_norm(p, spec, layer.output_norm, layer.output_adapter, x, feed_forward(p, spec, layer, x, tap))


def add_and_norm(p: Parameters, spec: EncoderSpec, norm: Norm, part: Adapter | None, x: Tensor, y: Tensor) -> Tensor:
    """LayerNorm(x + y) of a sub-layer's input and output, with an adapter on the way where there is one."""
    if part is None:
        return layer_norm(p, spec, norm, x + y)
    z = adapter(p, spec, norm, part, x, y)
    return z if part.adds is None else layer_norm(p, spec, norm, z + (x if part.adds == INPUT else y))


def adapter(p: Parameters, spec: EncoderSpec, norm: Norm, part: Adapter, x: Tensor, y: Tensor) -> Tensor:
    """A bottleneck and the residual around it: the z of `yizhi.model.spec.Adapter`."""

    def take(which: str) -> Tensor:
        if which in (INPUT, OUTPUT):
            return x if which == INPUT else y
        return x + y if which == SUM else layer_norm(p, spec, norm, x + y)

    read = take(part.reads)  # [B, T, H]
    z = layer_norm(p, spec, part.norm_before, read) if part.norm_before else read
    z = ACTIVATIONS[part.activation](linear(p, part.down, z))  # [B, T, bottleneck]
    z = linear(p, part.up, z) * (p[part.scaling.name] if isinstance(part.scaling, Scaling) else part.scaling)
    residual = read if part.residual == part.reads else take(part.residual)
    if part.residual_in_norm:
        z = z + residual
    if part.norm_after:
        z = layer_norm(p, spec, part.norm_after, z)
    return z if part.residual_in_norm else z + residual


def attention(
    p: Parameters, spec: EncoderSpec, layer: Layer, x: Tensor, mask: Tensor, tap: Tap, positions: Tensor | None = None
) -> Tensor:
    """softmax(Q Kᵀ / √d + mask) V over A heads of width d (Vaswani et al. 2017, arXiv:1706.03762), then projected."""
    batch, length = tf.unstack(tf.shape(x)[:2])
    heads = (batch, length, spec.config.num_attention_heads, spec.config.head_size)
    query = tf.transpose(tf.reshape(tap("query", linear(p, layer.query, x)), heads), (0, 2, 1, 3))  # [B, A, T, d]
    key = tf.transpose(tf.reshape(tap("key", linear(p, layer.key, x)), heads), (0, 2, 1, 3))
    value = tf.transpose(tf.reshape(tap("value", linear(p, layer.value, x)), heads), (0, 2, 1, 3))
    scores = tf.matmul(query, key, transpose_b=True) * spec.config.head_size**-0.5  # [B, A, T, T]
    context = tf.transpose(tf.matmul(tf.nn.softmax(scores + mask), value), (0, 2, 1, 3))  # [B, T, A, d]
    context = tf.reshape(context, (batch, length, spec.config.hidden_size))
    context = tap("context", tokens_at(context, positions))  # [B, T, H] or [N, H]
    return tap("attention_output", linear(p, layer.attention_output, context))


def tokens_at(x: Tensor, positions: Tensor | None) -> Tensor:
    """[B, T, H] -> [N, H]: the tokens at (row, position) pairs [N, 2]; without any, x as it is."""
    return x if positions is None else tf.gather_nd(x, positions)


def feed_forward(p: Parameters, spec: EncoderSpec, layer: Layer, x: Tensor, tap: Tap) -> Tensor:
    """Two linear layers with the activation between them."""
    x = tap("intermediate", ACTIVATIONS[spec.config.activation](linear(p, layer.intermediate, x)))  # [B, T, I]
    return tap("output", linear(p, layer.output, x))  # [B, T, H]


def pooler(p: Parameters, dense: Linear, x: Tensor) -> Tensor:
    """tanh of a linear layer over the first token: [B, H]."""
    return tf.math.tanh(linear(p, dense, x[:, 0]))


def sentence_embedding(pooling: Pooling, x: Tensor, attention_mask: Tensor) -> Tensor:
    """[B, T, H] -> [B, H]: each row's own tokens as one vector."""
    kept = tf.cast(attention_mask, x.dtype)[..., tf.newaxis]  # [B, T, 1]
    if pooling.mode == "mean":
        pooled = tf.reduce_sum(x * kept, 1) / tf.maximum(tf.reduce_sum(kept, 1), 1)
    elif pooling.mode == "max":
        pooled = tf.reduce_max(tf.where(kept == 0, x.dtype.min, x), 1) * tf.reduce_max(kept, 1)
    else:
        pooled = tf.gather(x, tf.argmax(attention_mask, 1), batch_dims=1)
    return pooled / tf.maximum(tf.norm(pooled, axis=-1, keepdims=True), SHORTEST_NORM) if pooling.normalize else pooled


def mlm_head(p: Parameters, spec: EncoderSpec, head: MaskedLMHead, x: Tensor) -> Tensor:
    """Vocabulary logits [..., V] of hidden states [..., H]."""
    x = ACTIVATIONS[head.activation](linear(p, head.dense, x))  # [B, T, E]
    return affine(layer_norm(p, spec, head.norm, x), p[head.decoder], p[head.decoder_bias], tied=spec.tied)


def linear_head(p: Parameters, head: LinearHead, x: Tensor, pooled: Tensor | None) -> Tensor:
    """Label logits over every token, the first token, or the pooler's output."""
    x = {"tokens": x, "first_token": x[:, 0], "pooler": pooled}[head.over]
    if head.dense:
        x = ACTIVATIONS[head.activation](linear(p, head.dense, x))
    x = linear(p, head.projection, x)
    return tf.squeeze(x, -1) if head.squeeze else x


def linear(p: Parameters, layer: Linear, x: Tensor) -> Tensor:
    """x Wᵀ + b."""
    return affine(x, p[layer.weight], p[layer.bias])


def affine(x: Tensor, kernel: tf.Variable, bias: tf.Variable, tied: bool = False) -> Tensor:
    """x K + b over the last axis, as one plain matrix product: a broadcast one is far slower.

    kernel: [inputs, outputs]; where tied, the embedding table [outputs, inputs].
    """
    rows = tf.reshape(x, (-1, x.shape[-1]))
    product = tf.nn.bias_add(tf.matmul(rows, kernel, transpose_b=tied), bias)
    return tf.reshape(product, tf.concat((tf.shape(x)[:-1], bias.shape), 0))


def layer_norm(p: Parameters, spec: EncoderSpec, norm: Norm, x: Tensor) -> Tensor:
    """(x − mean) / √(variance + ε) · scale + offset over the last axis (Ba et al. 2016, arXiv:1607.06450)."""
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    return centred * tf.math.rsqrt(variance + norm.epsilon) * p[norm.weight] + p[norm.bias]


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

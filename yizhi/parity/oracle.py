"""The oracle: the forward pass in float64 numpy, straight from the checkpoint.

Written to be read, not to be fast: every formula is spelled out, and nothing here is shared with a
runtime. It is checked against transformers' PyTorch classes in float64 in `test_oracle.py`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, softmax

from yizhi.model.spec import (
    INPUT,
    MASK_VALUE,
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
    Pooling,
    Scaling,
)
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes.base import Inputs

Array = NDArray[np.float64]
Tap = Callable[[str, Array], Array]


def gelu_erf(x: Array) -> Array:
    """x Φ(x) = x/2 · (1 + erf(x/√2)) (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return 0.5 * x * (1.0 + erf(x / np.sqrt(2.0)))


def gelu_tanh(x: Array) -> Array:
    """x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), from the same paper."""
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x * x * x)))


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0.0)


def silu(x: Array) -> Array:
    """x / (1 + exp(−x)) (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return x / (1.0 + np.exp(-x))


ACTIVATIONS = {"gelu_erf": gelu_erf, "gelu_tanh": gelu_tanh, "relu": relu, "silu": silu, "tanh": np.tanh}


class Parameters:
    """Float64 parameters by canonical name.

    The first to be read are kept, up to so many bytes, for the passes to come; of the others only the one in use
    takes memory.
    """

    def __init__(self, checkpoint: Checkpoint, keep: int = 0) -> None:
        self._checkpoint = checkpoint
        self._room = keep
        self._kept: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name in self._kept:
            return self._kept[name]
        array = self._checkpoint.array(name).astype(np.float64)
        self._checkpoint.release(name)
        if array.nbytes <= self._room:
            self._room -= array.nbytes
            self._kept[name] = array
        return array

    def rows(self, name: str, ids: NDArray[np.int64]) -> Array:
        """`self[name][ids]` without converting the whole table."""
        return self._checkpoint.array(name)[ids].astype(np.float64)


def run(
    checkpoint: Checkpoint,
    inputs: Inputs,
    outputs: set[str] | None = None,
    logit_positions: NDArray[np.int64] | None = None,
    parameters: Parameters | None = None,
) -> dict[str, Array]:
    """Every output of the checkpoint, or the named ones, in float64.

    logit_positions: [N, 2] pairs of (row, position); then token `logits` come as [N, V], computed
    there only. parameters: the checkpoint's, where they serve several passes.
    """
    spec, p = checkpoint.spec, parameters or Parameters(checkpoint)
    wanted = outputs or {name for names in spec.signatures().values() for name in names}
    found: dict[str, Array] = {}

    def tap(name: str, x: Array) -> Array:
        if name in wanted:
            found[name] = x
        return x

    x = embeddings(p, spec, inputs.input_ids, inputs.token_type_ids)  # [B, T, H]
    mask = (1 - inputs.attention_mask)[:, None, None, :] * MASK_VALUE  # [B, 1, 1, T]
    x = encoder(p, spec, x, mask, tap)
    tap("last_hidden_state", x)
    pooled = tap("pooler_output", pooler(p, spec.pooler, x)) if spec.pooler else None
    if spec.pooling:
        tap(SENTENCE_EMBEDDING, sentence_embedding(spec.pooling, x, inputs.attention_mask))
    if "logits" in wanted and isinstance(spec.head, MaskedLMHead):
        at = x if logit_positions is None else x[logit_positions[:, 0], logit_positions[:, 1]]
        tap("logits", mlm_head(p, spec, spec.head, at))
    elif "logits" in wanted and spec.head is not None:
        tap("logits", linear_head(p, spec.head, x, pooled))
    return found


def embeddings(p: Parameters, spec: EncoderSpec, input_ids: NDArray, token_type_ids: NDArray) -> Array:
    """Word + position + token type, then LayerNorm and a projection to H where the family has them."""
    positions = np.arange(input_ids.shape[1])
    x = p.rows(spec.word_embeddings.weight, input_ids)  # [B, T, E]
    x = x + p.rows(spec.token_type_embeddings.weight, token_type_ids)
    x = x + p.rows(spec.position_embeddings.weight, positions)
    if spec.embeddings_norm:
        x = layer_norm(p, spec, spec.embeddings_norm, x)
    return linear(p, spec.embeddings_projection, x) if spec.embeddings_projection else x  # [B, T, H]


def encoder(p: Parameters, spec: EncoderSpec, x: Array, mask: Array, tap: Tap) -> Array:
    """Every block in turn; `hidden_states.N` is the input of block N, the last is the result."""
    number = 0
    for index, block in enumerate(spec.blocks):
        x = tap(f"hidden_states.{index}", x)
        for layer in block:
            x = encoder_layer(p, spec, layer, x, mask, lambda name, y, n=number: tap(f"layers.{n}.{name}", y))
            number += 1
    if spec.final_norm:
        x = layer_norm(p, spec, spec.final_norm, x)
    return tap(f"hidden_states.{len(spec.blocks)}", x)


def encoder_layer(p: Parameters, spec: EncoderSpec, layer: Layer, x: Array, mask: Array, tap: Tap) -> Array:
    """Attention and feed-forward, each with a residual; LayerNorm after each sum, or before each part."""
    if layer.norm_first:
        x = x + attention(p, spec, layer, layer_norm(p, spec, layer.attention_norm, x), mask, tap)
        tap("after_attention", x)
        return x + feed_forward(p, spec, layer, layer_norm(p, spec, layer.output_norm, x), tap)
    y = attention(p, spec, layer, x, mask, tap)
    x = tap("after_attention", add_and_norm(p, spec, layer.attention_norm, layer.attention_adapter, x, y))
    return add_and_norm(p, spec, layer.output_norm, layer.output_adapter, x, feed_forward(p, spec, layer, x, tap))


def add_and_norm(p: Parameters, spec: EncoderSpec, norm: Norm, part: Adapter | None, x: Array, y: Array) -> Array:
    """LayerNorm(x + y) of a sub-layer's input and output, with an adapter on the way where there is one."""
    if part is None:
        return layer_norm(p, spec, norm, x + y)
    z = adapter(p, spec, norm, part, x, y)
    return z if part.adds is None else layer_norm(p, spec, norm, z + (x if part.adds == INPUT else y))


def adapter(p: Parameters, spec: EncoderSpec, norm: Norm, part: Adapter, x: Array, y: Array) -> Array:
    """A bottleneck and the residual around it: the z of `yizhi.model.spec.Adapter`."""

    def take(which: str) -> Array:
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


def attention(p: Parameters, spec: EncoderSpec, layer: Layer, x: Array, mask: Array, tap: Tap) -> Array:
    """softmax(Q Kᵀ / √d + mask) V over A heads of width d (Vaswani et al. 2017, arXiv:1706.03762), projected."""
    heads, width = spec.config.num_attention_heads, spec.config.head_size

    def split(y: Array) -> Array:
        return y.reshape(*y.shape[:2], heads, width).transpose(0, 2, 1, 3)  # [B, A, T, d]

    query = split(tap("query", linear(p, layer.query, x)))
    key = split(tap("key", linear(p, layer.key, x)))
    value = split(tap("value", linear(p, layer.value, x)))
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(width) + mask  # [B, A, T, T]
    context = (softmax(scores, axis=-1) @ value).transpose(0, 2, 1, 3).reshape(x.shape)  # [B, T, H]
    return tap("attention_output", linear(p, layer.attention_output, tap("context", context)))


def feed_forward(p: Parameters, spec: EncoderSpec, layer: Layer, x: Array, tap: Tap) -> Array:
    """Two linear layers with the activation between them."""
    x = tap("intermediate", ACTIVATIONS[spec.config.activation](linear(p, layer.intermediate, x)))  # [B, T, I]
    return tap("output", linear(p, layer.output, x))  # [B, T, H]


def pooler(p: Parameters, dense: Linear, x: Array) -> Array:
    """tanh of a linear layer over the first token: [B, H]."""
    return np.tanh(linear(p, dense, x[:, 0]))


def sentence_embedding(pooling: Pooling, x: Array, attention_mask: NDArray[np.int64]) -> Array:
    """One vector [H] for each row: of its own tokens alone; zeros for a row that has none."""
    rows = []
    for states, mask in zip(x, attention_mask, strict=True):
        own = states[mask == 1] if mask.any() else np.zeros((1, x.shape[-1]))
        pooled = {"mean": own.mean(axis=0), "max": own.max(axis=0), "cls": own[0]}[pooling.mode]
        rows.append(pooled / max(np.sqrt((pooled * pooled).sum()), SHORTEST_NORM) if pooling.normalize else pooled)
    return np.stack(rows)


def mlm_head(p: Parameters, spec: EncoderSpec, head: MaskedLMHead, x: Array) -> Array:
    """Vocabulary logits [..., V]."""
    x = ACTIVATIONS[head.activation](linear(p, head.dense, x))  # [..., E]
    return layer_norm(p, spec, head.norm, x) @ p[head.decoder].T + p[head.decoder_bias]


def linear_head(p: Parameters, head: LinearHead, x: Array, pooled: Array | None) -> Array:
    """Label logits over every token, the first token, or the pooler's output."""
    y = pooled if head.over == "pooler" else x[:, 0] if head.over == "first_token" else x
    if head.dense and head.activation:
        y = ACTIVATIONS[head.activation](linear(p, head.dense, y))
    y = linear(p, head.projection, y)
    return y[..., 0] if head.squeeze else y


def linear(p: Parameters, layer: Linear, x: Array) -> Array:
    """x Wᵀ + b."""
    return x @ p[layer.weight].T + p[layer.bias]


def layer_norm(p: Parameters, spec: EncoderSpec, norm: Norm, x: Array) -> Array:
    """(x − mean) / √(variance + ε) · scale + offset over the last axis (Ba et al. 2016, arXiv:1607.06450)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + norm.epsilon) * p[norm.weight] + p[norm.bias]

"""FAULTS: mistakes that really happen, each of which the gates must catch on every target it can be made in.

Two that cannot be caught, because they change nothing: a dropped *key* bias (it adds the same number
to all scores of a query, and softmax does not see it), and a finite mask of −10000 wherever a padded
key's score does not exceed every real key's by 9,896 (exp(−104) is 0 in float32). The second is
therefore made in a checkpoint whose scores are that large.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import FAMILIES
from converters.spec import INPUT, KERNEL, MASK_VALUE, EncoderSpec, Layer, MaskedLMHead, Norm, parameters_of
from parity_tests.faults import (
    EMBEDDINGS,
    FIRST_LAYER,
    FP32,
    INT8,
    LAST_LAYER,
    LAYER,
    LOGITS,
    POOLER,
    Fault,
    Forward,
    Weights,
)
from parity_tests.int8_faults import quantize_per_batch, roll_rows, scale_one_channel, swap_scales

_BELOW_INT8 = "smaller than the rounding of int8 itself, which is judged by its own gates"
_SAME_CODE = "the attention is the one of onnx"


# --- in the weights: (spec, layer, weights)


def swap_query_and_key(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Kernels and biases both."""
    w.swap(layer.query.weight, layer.key.weight)
    w.swap(layer.query.bias, layer.key.bias)


def swap_key_and_value(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Kernels and biases both."""
    w.swap(layer.key.weight, layer.value.weight)
    w.swap(layer.key.bias, layer.value.bias)


def zero_layer(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Every kernel of the layer."""
    for parameter in parameters_of(layer):
        if parameter.kind == KERNEL:
            w[parameter.name] = np.zeros(parameter.shape)


def swap_layers(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """This layer and the next, or the one before if it is the last."""
    layers = [*spec.layers, spec.layers[-2]]
    for one, other in zip(parameters_of(layer), parameters_of(layers[layers.index(layer) + 1]), strict=True):
        w.swap(one.name, other.name)


def forget_norm(norm: Norm, w: Weights) -> None:
    """Back to what a LayerNorm starts as."""
    w[norm.weight], w[norm.bias] = np.ones(norm.size), np.zeros(norm.size)


def swap_heads(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Query's first two heads."""
    size = spec.config.head_size
    order = np.r_[size : 2 * size, :size, 2 * size : spec.config.hidden_size]
    w[layer.query.weight], w[layer.query.bias] = w[layer.query.weight][order], w[layer.query.bias][order]


def split_heads_wrongly(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """[T, A, d] taken for [T, d, A], in query, key and value."""
    config = spec.config
    order = np.arange(config.hidden_size).reshape(config.head_size, config.num_attention_heads).T.reshape(-1)
    for part in (layer.query, layer.key, layer.value):
        w[part.weight], w[part.bias] = w[part.weight][order], w[part.bias][order]


def scale_query(spec: EncoderSpec, layer: Layer, w: Weights, power: float) -> None:
    """Multiply the scores by d^power."""
    factor = spec.config.head_size**power
    w[layer.query.weight], w[layer.query.bias] = w[layer.query.weight] * factor, w[layer.query.bias] * factor


def roll_vocabulary(spec: EncoderSpec, w: Weights, start: int) -> None:
    """Every row from `start` on is one too late."""
    table = w[spec.word_embeddings.weight]
    w[spec.word_embeddings.weight] = np.concatenate((table[:start], np.roll(table[start:], 1, axis=0)))


def untie_decoder(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """A freshly initialized decoder, as a framework makes where it finds none."""
    table = spec.word_embeddings
    names = FAMILIES[spec.config.model_type].masked_lm_names
    w[f"{names.untied_decoder}.weight"] = np.random.default_rng(0).normal(0, 0.02, (table.rows, table.size))


def forget_head(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """A freshly initialized transform."""
    dense = _head(spec).dense
    w[dense.weight] = np.random.default_rng(0).normal(0, 0.02, (dense.outputs, dense.inputs))


def use_unbiased_variance(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Σ(x − mean)² / (N − 1): the scale times √((N − 1) / N)."""
    for parameter in parameters_of(layer):
        if parameter.kind == "norm_scale":
            w[parameter.name] = w[parameter.name] * ((parameter.shape[0] - 1) / parameter.shape[0]) ** 0.5


def flip_a_sign(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Of the largest weight of the layer's last kernel."""
    kernel = w[layer.output.weight].copy()
    kernel.reshape(-1)[np.abs(kernel).argmax()] *= -1
    w[layer.output.weight] = kernel


def in_all(change: Callable[[NDArray[np.float32]], NDArray[Any]]) -> Callable[[EncoderSpec, Layer, Weights], None]:
    """The same change to every parameter."""

    def alter(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
        for parameter in spec.parameters():
            w[parameter.name] = change(w[parameter.name])

    return alter


def round_mantissa(x: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """To so many explicit bits, halves to even: 10 is TF32, 7 is bfloat16."""
    drop = 23 - bits
    raw = np.ascontiguousarray(x).view(np.uint32)
    raw = raw + np.uint32((1 << (drop - 1)) - 1) + (raw >> np.uint32(drop) & np.uint32(1))
    return (raw >> np.uint32(drop) << np.uint32(drop)).view(np.float32)


def round_kernels(spec: EncoderSpec, w: Weights) -> None:
    """Every kernel as TF32 reads it."""
    for parameter in spec.parameters():
        if parameter.kind == KERNEL:
            w[parameter.name] = round_mantissa(w[parameter.name], 10)


# --- in the code: each takes the forward and the original function, and returns the faulty one


def skip_norm(find: Callable[[EncoderSpec], list[Norm]]) -> Callable[[Forward, Callable], Callable]:
    """These LayerNorms give back their input."""

    def wrap(forward: Forward, original: Callable) -> Callable:
        return lambda p, spec, norm, x: x if norm in find(spec) else original(p, spec, norm, x)

    return wrap


def change_mask(factor: float) -> Callable[[Forward, Callable], Callable]:
    """The mask's value times a factor."""

    def wrap(forward: Forward, original: Callable) -> Callable:
        return lambda p, spec, layer, x, mask, *rest: original(p, spec, layer, x, forward.times(p, mask, factor), *rest)

    return wrap


def unmask_first_head(forward: Forward, original: Callable) -> Callable:
    """Padding is hidden from all heads but the first."""

    def attention(p: Any, spec: EncoderSpec, layer: Layer, x: Any, mask: Any, *rest: Any) -> Any:
        factors = np.ones(spec.config.num_attention_heads, np.float32)
        factors[0] = 0
        return original(p, spec, layer, x, forward.times_heads(p, mask, factors), *rest)

    return attention


def drop_residual(forward: Forward, original: Callable) -> Callable:
    """x + (attention(x) − x)."""

    def attention(p: Any, spec: EncoderSpec, layer: Layer, x: Any, mask: Any, tap: Any, positions: Any = None) -> Any:
        if positions is None:  # the oracle's knows none
            return forward.minus(p, original(p, spec, layer, x, mask, tap), x)
        attended = original(p, spec, layer, x, mask, tap, positions)
        return forward.minus(p, attended, forward.tokens_at(p, spec, x, positions))

    return attention


def skip_adapter(forward: Forward, original: Callable) -> Callable:
    """LayerNorm(x + y), as if there were none."""
    return lambda p, spec, norm, part, x, y: original(p, spec, norm, None, x, y)


def take_residual_from_input(forward: Forward, original: Callable) -> Callable:
    """The bottleneck is added to the sub-layer's input."""
    return lambda p, spec, norm, part, x, y: original(p, spec, norm, replace(part, residual=INPUT), x, y)


def pool_without_tanh(forward: Forward, original: Callable) -> Callable:
    """The linear layer alone."""
    linear = forward.module.linear

    def pooler(p: Any, *rest: Any) -> Any:  # ONNX passes the spec too
        dense, x = rest[-2:]
        return linear(p, dense, forward.first_tokens(p, rest[0], x))

    return pooler


def round_to_tf32(forward: Forward, original: Callable) -> Callable:
    """Activations rounded to 11 of b significant bits by Veltkamp's splitting: c − (c − x), c = (2^(b − 11) + 1) x.

    T. J. Dekker, "A floating-point technique for extending the available precision", 1971, section 5.
    """

    def linear(p: Any, layer: Any, x: Any) -> Any:
        large = forward.times(p, x, 2.0 ** (forward.bits - 11) + 1)
        return original(p, layer, forward.minus(p, large, forward.minus(p, large, x)))

    return linear


def _head(spec: EncoderSpec) -> MaskedLMHead:
    if not isinstance(spec.head, MaskedLMHead):
        raise TypeError("the checkpoint has no MLM head")
    return spec.head


def _named(change: Callable[[EncoderSpec, Layer], tuple[str, Callable[[NDArray], NDArray]]]) -> Callable:
    """One array, by name, and what becomes of it."""

    def alter(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
        name, become = change(spec, layer)
        w[name] = become(w[name])

    return alter


FAULTS: tuple[Fault, ...] = (
    # Names and roles
    Fault("query and key swapped", "a name table with two lines exchanged", LAYER, swap_query_and_key),
    Fault("key and value swapped", "a fused QKV kernel split in another order", LAYER, swap_key_and_value),
    Fault(
        "value and attention output swapped",
        "two square kernels: no shape tells them apart",
        LAYER,
        lambda spec, layer, w: w.swap(layer.value.weight, layer.attention_output.weight),
    ),
    Fault("layers swapped", "layers sorted as text, or numbered from 1", LAYER, swap_layers),
    Fault("one layer zeroed", "a shard that was not read; tensors left at their initial zeros", LAYER, zero_layer),
    Fault(
        "query bias dropped",
        "a converter for a model without biases",
        LAYER,
        _named(lambda spec, layer: (layer.query.bias, np.zeros_like)),
    ),
    Fault(
        "intermediate bias dropped",
        "a fused linear layer exported without its addition",
        LAYER,
        _named(lambda spec, layer: (layer.intermediate.bias, np.zeros_like)),
    ),
    Fault(
        "attention output transposed",
        "[in, out] taken for [out, in]: square, so every shape fits",
        LAYER,
        _named(lambda spec, layer: (layer.attention_output.weight, np.transpose)),
    ),
    Fault("query transposed", "the same", LAYER, _named(lambda spec, layer: (layer.query.weight, np.transpose))),
    Fault(
        "LayerNorm scale and offset swapped",
        "gamma and beta renamed the wrong way round",
        LAYER,
        lambda spec, layer, w: w.swap(layer.output_norm.weight, layer.output_norm.bias),
    ),
    Fault(
        "LayerNorm left at its initial values",
        "gamma and beta not recognized, and the framework went on with a warning",
        LAYER,
        lambda spec, layer, w: forget_norm(layer.output_norm, w),
    ),
    Fault(
        "one sign flipped",
        "a bit lost on the way, in a file without a checksum",
        LAYER,
        flip_a_sign,
        targets=FP32,
        why_not="one weight of thousands turns a vector no more than rounding all of them may",
    ),
    # Vocabulary and embeddings
    Fault(
        "vocabulary rows shifted",
        "a vocabulary that begins at 1",
        EMBEDDINGS,
        lambda spec, layer, w: roll_vocabulary(spec, w, 0),
    ),
    Fault(
        "vocabulary rows shifted from the middle on",
        "vocab.txt split at U+2028, a line break to str.splitlines",
        EMBEDDINGS,
        lambda spec, layer, w: roll_vocabulary(spec, w, spec.word_embeddings.rows // 2),
    ),
    Fault(
        "positions off by one",
        "positions counted from 1, as after RoBERTa's padding index",
        EMBEDDINGS,
        _named(lambda spec, layer: (spec.position_embeddings.weight, lambda table: np.roll(table, -1, axis=0))),
    ),
    Fault(
        "positions missing",
        "position_ids constant-folded to zeros by a tracing exporter",
        EMBEDDINGS,
        _named(
            lambda spec, layer: (spec.position_embeddings.weight, lambda table: np.broadcast_to(table[0], table.shape))
        ),
    ),
    Fault(
        "token types missing",
        "an exporter that drops token_type_ids: every token is of the first segment",
        EMBEDDINGS,
        _named(lambda spec, layer: (spec.token_type_embeddings.weight, lambda table: table[[0] * len(table)])),
    ),
    Fault(
        "token types swapped",
        "segments numbered 1 and 0",
        EMBEDDINGS,
        _named(lambda spec, layer: (spec.token_type_embeddings.weight, lambda table: table[::-1])),
    ),
    Fault(
        "embeddings' LayerNorm skipped",
        "it is the encoder's in some code and the embeddings' in other",
        EMBEDDINGS,
        code={"layer_norm": skip_norm(lambda spec: [spec.embeddings_norm])},
    ),
    # Attention
    Fault(
        "attention scale missing",
        "√d folded into the query's kernel by one side only",
        LAYER,
        lambda spec, layer, w: scale_query(spec, layer, w, 0.5),
    ),
    Fault(
        "attention scaled twice",
        "the same, the other way",
        LAYER,
        lambda spec, layer, w: scale_query(spec, layer, w, -0.5),
    ),
    Fault(
        "heads split in the wrong order", "reshape to [d, heads] where [heads, d] is meant", LAYER, split_heads_wrongly
    ),
    Fault(
        "two heads of the query exchanged",
        "kernels sharded over devices and joined in another order",
        LAYER,
        swap_heads,
    ),
    Fault(
        "mask ignored",
        "attention_mask is an input that nothing reads",
        FIRST_LAYER,
        code={"attention": change_mask(0.0)},
    ),
    Fault(
        "mask ignored for one head",
        "a mask broadcast along the wrong axis",
        FIRST_LAYER,
        code={"attention": unmask_first_head},
    ),
    Fault(
        "mask of −10000",
        "what BERT's first code added; not enough where scores are large",
        LAST_LAYER,
        code={"attention": change_mask(-10000 / MASK_VALUE)},
        targets=FP32,
        why_not=_SAME_CODE,
        variant="loud",
    ),
    Fault("residual dropped", "a graph rewrite that lost an edge", FIRST_LAYER, code={"attention": drop_residual}),
    # Adapters
    Fault(
        "adapter skipped",
        "a class that knows no adapters: it warns of tensors that it does not use, and goes on",
        FIRST_LAYER,
        code={"add_and_norm": skip_adapter},
        variant="bert-double_seq_bn",
    ),
    Fault(
        "adapter's residual from the wrong place",
        "Houlsby's and Pfeiffer's adapters, and parallel ones, each take another",
        FIRST_LAYER,
        code={"adapter": take_residual_from_input},
        variant="bert-double_seq_bn",
    ),
    # Arithmetic
    Fault(
        "GELU by tanh",
        "a framework's default approximation, or old Google code",
        FIRST_LAYER,
        config={"hidden_act": "gelu_new"},
        targets=FP32,
        why_not=_BELOW_INT8,
    ),
    Fault(
        "ReLU for GELU", "a fused activation that the kernel does not have", FIRST_LAYER, config={"hidden_act": "relu"}
    ),
    Fault(
        "epsilon 1e-5",
        "PyTorch's default, where BERT has 1e-12",
        EMBEDDINGS,
        config={"layer_norm_eps": 1e-5},
        targets=FP32,
        why_not=_BELOW_INT8,
    ),
    Fault(
        "unbiased variance in LayerNorm",
        "UER-py's, and torch.std's default",
        LAYER,
        use_unbiased_variance,
        targets=FP32,
        why_not="it scales vectors by 1.6 %, and int8 is judged by their direction",
    ),
    Fault(
        "layers' last LayerNorm skipped",
        "an encoder whose norms are placed before, in code written for after",
        FIRST_LAYER,
        code={"layer_norm": skip_norm(lambda spec: [layer.output_norm for layer in spec.layers])},
    ),
    Fault(
        "final LayerNorm skipped",
        "models with norms before each part have one more at the end",
        LAST_LAYER,
        code={"layer_norm": skip_norm(lambda spec: [spec.final_norm])},
        variant="megatron-bert",
    ),
    Fault(
        "weights through float16",
        "a checkpoint saved in half precision on the way",
        EMBEDDINGS,
        in_all(lambda array: array.astype(np.float16)),
        targets=FP32,
        why_not=_BELOW_INT8,
    ),
    Fault(
        "weights through bfloat16",
        "a checkpoint saved from a training run in bfloat16",
        EMBEDDINGS,
        in_all(lambda array: round_mantissa(array, 7)),
        targets=FP32,
        why_not=_BELOW_INT8,
    ),
    Fault(
        "TF32 left on",
        "a GPU's default: products of operands with 10 bits of mantissa",
        FIRST_LAYER,
        lambda spec, layer, w: round_kernels(spec, w),
        code={"linear": round_to_tf32},
        targets=FP32,
        why_not=_BELOW_INT8,
    ),
    # Heads
    Fault(
        "decoder untied",
        "a framework that finds no decoder and initializes one",
        LOGITS,
        untie_decoder,
        config={"tie_word_embeddings": False},
    ),
    Fault("MLM transform left at random", "a published checkpoint whose head was never trained", LOGITS, forget_head),
    Fault(
        "decoder bias dropped",
        "`cls.predictions.bias` not recognized as the decoder's",
        LOGITS,
        _named(lambda spec, layer: (_head(spec).decoder_bias, np.zeros_like)),
    ),
    Fault(
        "MLM LayerNorm left at its initial values",
        "gamma and beta of the head not recognized",
        LOGITS,
        lambda spec, layer, w: forget_norm(_head(spec).norm, w),
    ),
    Fault("pooler without tanh", "the linear layer exported alone", POOLER, code={"pooler": pool_without_tanh}),
    Fault(
        "pooler transposed",
        "square, and used by nobody until a classifier is trained on it",
        POOLER,
        _named(lambda spec, layer: (spec.pooler.weight, np.transpose)),
    ),
    # int8
    Fault(
        "one channel's scale wrong",
        "a scale computed over the wrong rows, or overwritten",
        LAYER,
        artifact=scale_one_channel,
        targets=INT8,
        why_not="fp32 has no scales",
    ),
    Fault(
        "scales of two kernels swapped",
        "two vectors of equal length",
        LAYER,
        artifact=swap_scales,
        targets=INT8,
        why_not="fp32 has no scales",
    ),
    Fault(
        "scales one row off",
        "an off-by-one between quantized rows and their scales",
        LAYER,
        artifact=roll_rows,
        targets=INT8,
        why_not="fp32 has no scales",
    ),
    Fault(
        "activations scaled per batch",
        "ONNX Runtime's usual dynamic quantization: a sentence's answer depends on its neighbours",
        FIRST_LAYER,
        graph={"quantize": quantize_per_batch},
        targets=INT8,
        why_not="fp32 has no scales",
    ),
)

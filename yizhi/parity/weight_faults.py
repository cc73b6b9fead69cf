"""The faults that are made in a checkpoint's weights: each takes the spec, the layer it is made in, and the weights."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from yizhi.model.architectures import FAMILIES
from yizhi.model.spec import KERNEL, EncoderSpec, Layer, Linear, LinearHead, MaskedLMHead, Norm, parameters_of
from yizhi.parity.faults import Weights

T = TypeVar("T")


def swap_query_and_key(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Kernels and biases both."""
    for one, other in zip(names_of(layer.query), names_of(layer.key), strict=True):
        w.swap(one, other)


def swap_key_and_value(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Kernels and biases both."""
    for one, other in zip(names_of(layer.key), names_of(layer.value), strict=True):
        w.swap(one, other)


def roll_parts(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Of a linear layer that gives queries, keys and values: keys, values, queries."""
    for name in names_of(layer.query):
        w[name] = np.roll(w[name], -layer.attention_output.inputs, axis=0)


def swap_gate(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """What is activated, and what it multiplies."""
    for name in names_of(layer.intermediate):
        w[name] = np.roll(w[name], layer.output.inputs, axis=0)


def swap_rare_rows(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Of two tokens that no case of the small checkpoint has."""
    table = w[spec.word_embeddings.weight].copy()
    one, other = _unseen(table)
    table[[one, other]] = table[[other, one]]
    w[spec.word_embeddings.weight] = table


def change_an_element(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Of a row that no case of the small checkpoint reads."""
    table = w[spec.word_embeddings.weight].copy()
    table[_unseen(table)[0], 0] += 1
    w[spec.word_embeddings.weight] = table


def move_by_an_ulp(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """One element of a LayerNorm: less than any tolerance."""
    norm = w[layer.output_norm.weight].copy()
    norm[0] = np.nextafter(norm[0], np.float32(np.inf))
    w[layer.output_norm.weight] = norm


def _unseen(table: NDArray[np.float32]) -> tuple[int, int]:
    """Counted from the end of the small checkpoints' vocabulary; parity_tests hold that no case has them."""
    return len(table) - 8, len(table) - 19


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
    w[norm.weight] = np.ones(norm.size)
    if norm.bias:
        w[norm.bias] = np.zeros(norm.size)


def swap_heads(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Query's first two heads."""
    size = spec.config.head_size
    order = np.r_[size : 2 * size, :size, 2 * size : layer.query.outputs]
    for name in names_of(layer.query):
        w[name] = w[name][order]


def zero_head(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Value's first head, kernel and bias."""
    for name in names_of(layer.value):
        w[name] = np.concatenate((np.zeros_like(w[name][: spec.config.head_size]), w[name][spec.config.head_size :]))


def split_heads_wrongly(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """[T, A, d] taken for [T, d, A], in query, key and value."""
    for part in (layer.query, layer.key, layer.value):
        order = np.arange(part.outputs).reshape(spec.config.head_size, -1).T.reshape(-1)
        for name in names_of(part):
            w[name] = w[name][order]


def share_heads_otherwise(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Query's heads, and what becomes of their values, in the order in which they would share keys h mod K."""
    config = spec.config
    heads = np.arange(config.num_attention_heads).reshape(-1, config.num_key_value_heads).T.reshape(-1)
    order = (heads[:, None] * config.head_size + np.arange(config.head_size)).reshape(-1)
    for name in names_of(layer.query):
        w[name] = w[name][order]
    w[layer.attention_output.weight] = w[layer.attention_output.weight][:, order]


def scale_query(spec: EncoderSpec, layer: Layer, w: Weights, power: float) -> None:
    """Multiply the scores by d^power."""
    factor = spec.config.head_size**power
    for name in names_of(layer.query):
        w[name] = w[name] * factor


def roll_vocabulary(spec: EncoderSpec, w: Weights, start: int) -> None:
    """Every row from `start` on is one too late."""
    table = w[spec.word_embeddings.weight]
    w[spec.word_embeddings.weight] = np.concatenate((table[:start], np.roll(table[start:], 1, axis=0)))


def move_positions(spec: EncoderSpec, w: Weights, direction: int) -> None:
    """The table's rows moved, in this direction, by as many as come before the row of a text's first token."""
    table = there(spec.position_embeddings).weight
    w[table] = np.roll(w[table], direction * (1 + there(spec.padding_idx)), axis=0)


def untie_decoder(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """A freshly initialized decoder, as a framework makes where it finds none."""
    table = spec.word_embeddings
    names = FAMILIES[spec.config.model_type].masked_lm_names
    w[f"{names.untied_decoder}.weight"] = np.random.default_rng(0).normal(0, 0.02, (table.rows, table.size))


def forget_head(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """A freshly initialized transform."""
    dense = there(mlm_head(spec).dense)
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


def swap_labels(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """The first two labels."""
    projection = label_head(spec).projection
    order = list(range(projection.outputs))
    order[:2] = order[1::-1]  # of a regression, whose label is one, nothing
    for name in names_of(projection):
        w[name] = w[name][order]


def shift_labels(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """Every label's row is the one before."""
    projection = label_head(spec).projection
    for name in names_of(projection):
        w[name] = np.roll(w[name], 1, axis=0)


def forget_projection(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
    """A freshly initialized one."""
    projection = label_head(spec).projection
    w[projection.weight] = np.random.default_rng(0).normal(0, 0.02, (projection.outputs, projection.inputs))
    if projection.bias:
        w[projection.bias] = np.zeros(projection.outputs)


def names_of(part: Linear | Norm) -> list[str]:
    """The weight's, and the bias's where there is one."""
    return [parameter.name for parameter in part.parameters()]


def mlm_head(spec: EncoderSpec) -> MaskedLMHead:
    """The head of a masked language model. Raises TypeError where there is none."""
    if not isinstance(spec.head, MaskedLMHead):
        raise TypeError("the checkpoint has no MLM head")
    return spec.head


def label_head(spec: EncoderSpec) -> LinearHead:
    """The head that gives labels. Raises TypeError where there is none."""
    if not isinstance(spec.head, LinearHead):
        raise TypeError("the checkpoint has no head that gives labels")
    return spec.head


def there(part: T | None) -> T:
    """A part that this fault needs. Raises ValueError where a spec has none."""
    if part is None:
        raise ValueError("the spec has no such part")
    return part


def changed(change: Callable[[EncoderSpec, Layer], tuple[str, Callable[[NDArray], NDArray]]]) -> Callable:
    """One array, by name, and what becomes of it."""

    def alter(spec: EncoderSpec, layer: Layer, w: Weights) -> None:
        name, become = change(spec, layer)
        w[name] = become(w[name])

    return alter

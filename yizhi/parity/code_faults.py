"""The faults made in the code: each takes the forward and the original function, and returns the faulty one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from yizhi.model.spec import INPUT, EncoderSpec, Layer, LinearHead, Norm, Pooling, without_names
from yizhi.parity.faults import Forward
from yizhi.parity.weight_faults import there


def skip_norm(find: Callable[[EncoderSpec], Sequence[Norm | None]]) -> Callable[[Forward, Callable], Callable]:
    """These LayerNorms give back their input."""

    def wrap(forward: Forward, original: Callable) -> Callable:
        return lambda p, norm, x: x if norm in find(p.spec) else original(p, norm, x)

    return wrap


def last_norms(spec: EncoderSpec) -> list[Norm]:
    """Each layer's second one, under its own name and as a runtime knows it that compiles layers without names."""
    return [one.output_norm for layer in spec.layers for one in (layer, without_names(layer))]


def norms_of_heads(spec: EncoderSpec) -> list[Norm | None]:
    """Those of queries and keys, by both names of `last_norms`."""
    layers = [one for layer in spec.layers for one in (layer, without_names(layer))]
    return [norm for layer in layers for norm in (layer.query_norm, layer.key_norm)]


def center(forward: Forward, original: Callable) -> Callable:
    """The mean is taken off in every norm."""
    return lambda p, norm, x: original(p, replace(norm, centred=True), x)


def see_all(forward: Forward, original: Callable) -> Callable:
    """A token sees those after it, too."""
    return lambda p, layer, x: original(p, replace(layer, causal=False), x)


def restart_positions(forward: Forward, original: Callable) -> Callable:
    """Each step turns its tokens as if none came before."""

    def see(p: Any, attention_mask: Any, *x: Any) -> Any:
        own = original(p, forward.own_tokens(p, attention_mask, *x), *x)
        return replace(original(p, attention_mask, *x), angles=own.angles)

    return see


def show_padding_in_steps(forward: Forward, original: Callable) -> Callable:
    """The mask says nothing where there is a cache."""

    def see(p: Any, attention_mask: Any, *x: Any) -> Any:
        return original(p, forward.all_ones(p, attention_mask) if p.cached else attention_mask, *x)

    return see


def see_all_in_steps(forward: Forward, original: Callable) -> Callable:
    """A step's tokens see those after them, too."""
    return lambda p, layer, x: original(p, replace(layer, causal=False) if p.cached else layer, x)


def roll_cached_heads(forward: Forward, original: Callable) -> Callable:
    """Each head has the keys and values that the next one cached."""

    def attention(p: Any, layer: Layer, x: Any) -> Any:
        cached = tuple(tuple(forward.roll_heads(p, array) for array in arrays) for arrays in p.cached)
        return original(replace(p, cached=cached), layer, x)

    return attention


def roll_cached_layers(forward: Forward, original: Callable) -> Callable:
    """Each layer has the keys and values that the next one cached."""
    return lambda p, x, *start: original(replace(p, cached=(*p.cached[1:], *p.cached[:1])), x, *start)


def count_padding(forward: Forward, original: Callable) -> Callable:
    """Positions 0, 1, 2, …, whatever the ids are."""
    return lambda p, input_ids: original(replace(p, spec=replace(p.spec, padding_idx=None)), input_ids)


def forget_distances(forward: Forward, original: Callable) -> Callable:
    """Keys and values as they are, wherever they stand."""
    return lambda p, layer, x: original(p, replace(layer, farthest=None), x)


def change_mask(factor: float) -> Callable[[Forward, Callable], Callable]:
    """The mask's value times a factor."""

    def wrap(forward: Forward, original: Callable) -> Callable:
        return lambda p, layer, x: original(replace(p, mask=forward.times(p, p.mask, factor)), layer, x)

    return wrap


def unmask_first_head(forward: Forward, original: Callable) -> Callable:
    """Padding is hidden from all heads but the first."""

    def attention(p: Any, layer: Layer, x: Any) -> Any:
        factors = np.ones(p.spec.config.num_attention_heads, np.float32)
        factors[0] = 0
        return original(replace(p, mask=forward.times_heads(p, p.mask, factors)), layer, x)

    return attention


def turn_values(forward: Forward, original: Callable) -> Callable:
    """Rotary positions for values as well, or for them no more."""

    def attention(p: Any, layer: Layer, x: Any) -> Any:
        turn = there(layer.rotary)
        return original(p, replace(layer, rotary=replace(turn, values=not turn.values)), x)

    return attention


def pair_otherwise(forward: Forward, original: Callable) -> Callable:
    """Interleaved pairs for halves, or the other way round."""

    def rotary(p: Any, *arguments: Any) -> Any:
        *part, turn, x = arguments  # graphs are also told which linear layer gave x
        return original(p, *part, replace(turn, interleaved=not turn.interleaved), x)

    return rotary


def drop_residual(forward: Forward, original: Callable) -> Callable:
    """x + (attention(x) − x)."""
    return lambda p, layer, x: forward.minus(p, original(p, layer, x), forward.tokens_at(p, x))


def skip_adapter(forward: Forward, original: Callable) -> Callable:
    """LayerNorm(x + y), as if there were none."""
    return lambda p, norm, part, x, y: original(p, norm, None, x, y)


def take_residual_from_input(forward: Forward, original: Callable) -> Callable:
    """The bottleneck is added to the sub-layer's input."""
    return lambda p, norm, part, x, y: original(p, norm, replace(part, residual=INPUT), x, y)


def pool_without_tanh(forward: Forward, original: Callable) -> Callable:
    """The linear layer alone."""
    linear = forward.module.linear

    return lambda p, dense, x: linear(p, dense.linear, forward.first_tokens(p, x))


def pool_with_tanh(forward: Forward, original: Callable) -> Callable:
    """BERT's activation in place of the pooler's own."""
    return lambda p, dense, x: original(p, replace(dense, activation="tanh"), x)


def drop_boxes(forward: Forward, original: Callable) -> Callable:
    """Regions without their places."""
    return lambda p, image, features, boxes: original(p, image, features, forward.times(p, boxes, 0.0))


def join_masks_otherwise(forward: Forward, original: Callable) -> Callable:
    """The tokens' mask first, where the regions come first."""
    return lambda p, attention_mask, image_mask: original(p, image_mask, attention_mask)


def round_to_tf32(forward: Forward, original: Callable) -> Callable:
    """Activations rounded to 11 of b significant bits by Veltkamp's splitting: c − (c − x), c = (2^(b − 11) + 1) x.

    T. J. Dekker, "A floating-point technique for extending the available precision", 1971, section 5.
    """

    def linear(p: Any, layer: Any, x: Any) -> Any:
        large = forward.times(p, x, 2.0 ** (forward.bits - 11) + 1)
        return original(p, layer, forward.minus(p, large, forward.minus(p, large, x)))

    return linear


def change_head(change: Callable[[LinearHead], LinearHead]) -> Callable[[Forward, Callable], Callable]:
    """A head that gives labels, with other properties."""

    def wrap(forward: Forward, original: Callable) -> Callable:
        return lambda p, head, *states: original(p, change(head), *states)

    return wrap


def pool_padding(forward: Forward, original: Callable) -> Callable:
    """Padding is a token as others are: the last token is the last of the row."""
    return lambda p, pooling, x, mask: original(p, pooling, x, forward.all_ones(p, mask))


def cut_after_normalizing(forward: Forward, original: Callable) -> Callable:
    """The first numbers of a vector of length 1."""
    shorten = forward.module.shorten

    def sentence_embedding(p: Any, pooling: Pooling, x: Any, mask: Any) -> Any:
        return shorten(p, original(p, replace(pooling, dimensions=None), x, mask), pooling.dimensions)

    return sentence_embedding


def pool_without_dense(forward: Forward, original: Callable) -> Callable:
    """Pooling and what comes after the last Dense module, alone."""
    return lambda p, pooling, x, mask: original(p, replace(pooling, dense=pooling.dense[:-1]), x, mask)


def weigh_without_relu(forward: Forward, original: Callable) -> Callable:
    """Weights of tokens below 0 too."""
    return lambda p, head, x, mask: original(p, replace(head, activation="identity"), x, mask)


def show_padding(forward: Forward, original: Callable) -> Callable:
    """What is made of padded tokens is not hidden."""
    return lambda p, part, x, mask: original(p, part, x, forward.all_ones(p, mask))


def weigh_padding(forward: Forward, original: Callable) -> Callable:
    """The logits of padded tokens count among the highest."""
    return lambda p, logits, mask: original(p, logits, forward.all_ones(p, mask))


def skip_dense(head: LinearHead) -> LinearHead:
    """The projection alone."""
    return replace(head, dense=None)


def activate_by_relu(head: LinearHead) -> LinearHead:
    """ReLU after the dense layer, if there is one."""
    return replace(head, dense=head.dense and replace(head.dense, activation="relu"))


def read_first_token(head: LinearHead) -> LinearHead:
    """The first token's state in place of the pooler's output."""
    return replace(head, over="first_token")

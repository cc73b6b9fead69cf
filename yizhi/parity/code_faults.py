"""The faults made in the code: each takes the forward and the original function, and returns the faulty one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from yizhi.model.spec import INPUT, EncoderSpec, Layer, LinearHead, Norm
from yizhi.parity.faults import Forward


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


def change_head(**changes: Any) -> Callable[[Forward, Callable], Callable]:
    """A head that gives labels, with other properties."""

    def wrap(forward: Forward, original: Callable) -> Callable:
        def head(*given: Any) -> Any:  # ONNX passes the spec too
            return original(*(replace(one, **changes) if isinstance(one, LinearHead) else one for one in given))

        return head

    return wrap

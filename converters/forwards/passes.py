"""Pass: what every function of a forward pass needs beside the values it works on."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, Self, TypeVar

from yizhi.model.spec import EncoderSpec

T = TypeVar("T")
Tap = Callable[[str, T], T]


def ignore(name: str, x: T) -> T:
    """A tap that keeps nothing."""
    return x


def keep(outputs: Collection[str], found: dict[str, T]) -> Tap[T]:
    """A tap that puts the named tensors into `found`."""

    def tap(name: str, x: T) -> T:
        if name in outputs:
            found[name] = x
        return x

    return tap


@dataclass(frozen=True)
class Pass(Generic[T]):
    """One run of an encoder over a batch.

    parameters: by canonical name; `p[name]` is one of them.
    tap: is given each tensor that has a name, on its way.
    mask: what is added to attention scores, [B, 1, 1, T]; the layers need it.
    past: the mask of causal layers: what hides padding and what comes after a token, [B, 1, T, T].
    cached: of each layer, the keys and values [B, K, P, d] of P tokens before; the mask then has P + T columns.
    windows: by window, the mask of layers that have it: what hides padding and what is further away, [B, 1, T, T].
    angles: by base, the cosines and sines of rotary positions, [T, d / 2] each.
    relative: what a key's distance adds to it and to its value, [T, T, d], where the layers have that.
    positions: the tokens [N, 2], each by row and position, that the last layer is to compute; all [B, T] if None.
    """

    parameters: Mapping[str, T]
    spec: EncoderSpec
    tap: Tap[T] = ignore
    mask: T | None = None
    past: T | None = None
    cached: tuple[tuple[T, T], ...] = ()
    windows: Mapping[int, T] = field(default_factory=dict)
    angles: Mapping[float, tuple[T, T]] = field(default_factory=dict)
    relative: T | None = None
    positions: T | None = None

    def __getitem__(self, name: str) -> T:
        return self.parameters[name]

    def get(self, name: str | None) -> T | None:
        """A parameter that a part may lack: None for None."""
        return None if name is None else self.parameters[name]

    def in_layer(self, number: int) -> Self:
        """As layer `number` sees it: taps begin with `layers.N.`, and only the last layer computes fewer tokens.

        `cached` has its own keys and values alone.
        """
        last = number == len(self.spec.layers) - 1
        return replace(
            self,
            tap=lambda name, x: self.tap(f"layers.{number}.{name}", x),
            cached=self.cached[number : number + 1],
            positions=self.positions if last else None,
        )

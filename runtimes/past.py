"""Past: what a causal language model keeps of the tokens that it has read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Past:
    """The cache of P tokens in each of B rows. `Runtime.step` takes one and gives the next.

    attention_mask: int64 [B, P], 1 for a token, 0 for padding.
    layers: each layer's keys and values, float32 [B, K, P, d] for K heads of width d. Positions have turned the keys.
    """

    attention_mask: NDArray[np.int64]
    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]

    @classmethod
    def empty(cls, batch: int, described: Mapping[str, Any]) -> Self:
        """Of no tokens. described: `step` of `artifact.json`."""
        nothing = np.zeros((batch, described["heads"], 0, described["head_size"]), np.float32)
        return cls(np.zeros((batch, 0), np.int64), ((nothing, nothing),) * described["layers"])

    @property
    def arrays(self) -> Sequence[NDArray[np.float32]]:
        """Keys and values of each layer in turn."""
        return [np.ascontiguousarray(array) for layer in self.layers for array in layer]

    def followed(self, attention_mask: NDArray[np.int64], arrays: Sequence[NDArray[np.float32]]) -> Self:
        """The past after a step, of its mask [B, P + S] and of `arrays` as `self.arrays` has them."""
        return type(self)(attention_mask, tuple(zip(arrays[::2], arrays[1::2], strict=True)))

    def find_faults(self, batch: int, described: Mapping[str, Any]) -> Iterator[str]:
        """Why it does not go with a batch of so many rows and an artifact's `step`, a line each."""
        mask = self.attention_mask
        length = mask.shape[-1]
        if mask.shape != (batch, length) or mask.dtype != np.int64:
            yield f"attention_mask: expected int64 [{batch}, tokens before]; found {mask.dtype} {list(mask.shape)}"
        if len(self.layers) != described["layers"]:
            yield f"layers: expected {described['layers']}; found {len(self.layers)}"
        expected = (batch, described["heads"], length, described["head_size"])
        for number, layer in enumerate(self.layers):
            for name, array in zip(("keys", "values"), layer, strict=True):
                if array.shape != expected or array.dtype != np.float32:
                    found = f"{array.dtype} {list(array.shape)}"
                    yield f"layers[{number}]: {name}: expected float32 {list(expected)}; found {found}"

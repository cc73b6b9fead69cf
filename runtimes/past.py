"""Past: what a causal language model keeps of the tokens that it has read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Past:
    """The cache of P tokens in each of B rows. `Runtime.step` takes one and gives the next.

    attention_mask: int64 [B, P], 1 for a token, 0 for padding.
    layers: each layer's keys and values, float32 [B, K, P, d] for K heads of width d. Positions have turned the keys.
    source: `source` of the `artifact.json` that read the tokens, which an artifact of another checkpoint refuses; empty
    if unknown.
    """

    attention_mask: NDArray[np.int64]
    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
    source: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, batch: int, described: Mapping[str, Any], source: Mapping[str, str]) -> Self:
        """Of no tokens. described, source: `step` and `source` of `artifact.json`."""
        nothing = np.zeros((batch, described["heads"], 0, described["head_size"]), np.float32)
        return cls(np.zeros((batch, 0), np.int64), ((nothing, nothing),) * described["layers"], source)

    @property
    def arrays(self) -> Sequence[NDArray[np.float32]]:
        """Keys and values of each layer in turn."""
        return [np.ascontiguousarray(array) for layer in self.layers for array in layer]

    def followed(self, attention_mask: NDArray[np.int64], arrays: Sequence[NDArray[np.float32]]) -> Self:
        """The past after a step, of its mask [B, P + S] and of `arrays` as `self.arrays` has them."""
        return replace(self, attention_mask=attention_mask, layers=tuple(zip(arrays[::2], arrays[1::2], strict=True)))

    def find_faults(self, batch: int, described: Mapping[str, Any], source: Mapping[str, str]) -> Iterator[str]:
        """Why it does not go with a batch of so many rows and an artifact's `step` and `source`, a line each."""
        if self.source and self.source != source:
            yield "is another checkpoint's: its tokens were read with other weights, configuration or vocabulary"
        mask = self.attention_mask
        length = np.shape(mask)[-1] if np.ndim(mask) else 0
        if not _is_array(mask, np.int64, (batch, length)):
            yield f"attention_mask: expected int64 [{batch}, tokens before]; found {_describe(mask)}"
        elif ((mask != 0) & (mask != 1)).any():
            yield f"attention_mask: expected 0 or 1; found {mask[(mask != 0) & (mask != 1)][0]}"
        if len(self.layers) != described["layers"]:
            yield f"layers: expected {described['layers']}; found {len(self.layers)}"
        expected = (batch, described["heads"], length, described["head_size"])
        for number, layer in enumerate(self.layers):
            if len(layer) != 2:
                yield f"layers[{number}]: expected keys and values; found {len(layer)} arrays"
                continue
            for name, array in zip(("keys", "values"), layer, strict=True):
                if not _is_array(array, np.float32, expected):
                    yield f"layers[{number}]: {name}: expected float32 {list(expected)}; found {_describe(array)}"


def _is_array(value: object, dtype: type[np.generic], shape: tuple[int, ...]) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == dtype and value.shape == shape


def _describe(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__

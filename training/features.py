"""Feature: one row for a model with what its head should say. No framework needed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from numpy.typing import ArrayLike

from runtimes.tokenization import Row

# What the losses of transformers' heads pass over.
IGNORED = -100


@dataclass(frozen=True)
class Feature:
    """One row for the model, and what its head should say.

    example: the index of the example it was made of; a long one makes several.
    targets: arguments of the model's `forward` by name, such as `labels`; a number or a vector each.
    token_targets: int64 [T] each, one for every token; padding gets IGNORED.
    """

    row: Row
    example: int = 0
    targets: Mapping[str, ArrayLike] = field(default_factory=dict)
    token_targets: Mapping[str, ArrayLike] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens, with [CLS] and [SEP]."""
        return len(self.row.ids)

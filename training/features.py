"""What a model is trained on: rows of a checkpoint's own tokens, with what its head should say. No framework needed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from numpy.typing import ArrayLike

from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes.tokenization import Row, Tokenizer

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


def open_tokenizer(checkpoint: Checkpoint, max_length: int | None) -> Tokenizer:
    """The checkpoint's tokenizer, for rows of at most so many tokens; if None, as many as model and files allow.

    Raises InputError for a length that it cannot have.
    """
    positions = checkpoint.config.longest
    if max_length is not None and not 8 <= max_length <= positions:
        raise InputError("`max_length`", f"expected 8 … {positions}; found {max_length}")
    return Tokenizer(checkpoint.text, max_length or checkpoint.text.length(positions))

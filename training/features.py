"""Training rows: a checkpoint's own tokens, with the targets of its head. Needs no framework."""

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
    """One row for the model, with its targets.

    example: the index of its example; a long example makes several rows.
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
    """The checkpoint's tokenizer, for rows of at most `max_length` tokens. None: the limit of the model and its files.

    Raises InputError for a length out of range.
    """
    positions = checkpoint.config.longest
    if max_length is not None and not 8 <= max_length <= positions:
        raise InputError("`max_length`", f"expected 8 … {positions}; found {max_length}")
    return Tokenizer(checkpoint.text, max_length or checkpoint.text.length(positions))

"""What opening a source's weights gives, whatever their format."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from yizhi.errors import InputError
from yizhi.reading.weight_files import TensorFile

# Whose names, and so whose configuration, a source follows.
TRANSFORMERS, GOOGLE, UER = "transformers", "google", "uer"


@dataclass(frozen=True)
class Opened:
    """Weights under canonical names.

    format: for the report. convention: TRANSFORMERS, GOOGLE or UER. notes: what the user should know.
    """

    format: str
    weights: list[TensorFile]
    convention: str = TRANSFORMERS
    notes: tuple[str, ...] = field(default=())

    def close(self) -> None:
        """Close every file."""
        for file in self.weights:
            file.close()


def refuse_brightmart(path: Path, names: Iterable[str]) -> None:
    """Raise InputError for brightmart/albert_zh's own ALBERT, by the names that only it has.

    Its modeling.py projects the word embeddings with `word_embeddings_2`, adds positions and token types at
    the hidden width, and calls the shared layer `layer_shared`: none of ALBERT's configurations computes that.
    """
    found = [name for name in names if "layer_shared" in name or "word_embeddings_2" in name]
    if found:
        raise InputError(
            path,
            f"is brightmart's ALBERT (albert_zh), known by {found[0]}: it adds positions at the hidden width, "
            "which neither Google's nor transformers' ALBERT does. It is not supported; take a checkpoint in "
            "Google's format, such as albert_zh's own albert_*_zh_google",
        )

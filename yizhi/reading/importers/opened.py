"""Opened: a source's weights, of any format."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from yizhi.errors import InputError
from yizhi.reading.weight_files import TensorFile

# Whose names, and so whose configuration, a source follows.
TRANSFORMERS, GOOGLE, UER, PADDLE = "transformers", "google", "uer", "paddle"


@dataclass(frozen=True)
class Opened:
    """Weights under canonical names.

    format: for the report. convention: one of the above. notes: lines for the user.
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


def refuse_fairseq(path: Path, names: Iterable[str]) -> None:
    """Raise InputError for a RoBERTa or an XLM-R as fairseq saves it, by the names that only it has."""
    found = next((name for name in names if re.match(r"(encoder|decoder)\.sentence_encoder\.", name)), None)
    if found:
        raise InputError(
            path,
            f"is fairseq's RoBERTa or XLM-R, known by {found}, which is not read here: take the same checkpoint from "
            "the hub in transformers' form, such as FacebookAI/xlm-roberta-base; for one of your own, transformers 4 "
            "has convert_roberta_original_pytorch_checkpoint_to_pytorch.py",
        )

"""Texts without labels: the teacher labels them, batch by batch, while it teaches."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from yizhi.errors import InputError
from yizhi.model.label_heads import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from yizhi.runtimes.tokenization import Text, Tokenizer
from yizhi.storage.records import Source, plain_text
from yizhi.training.features import IGNORED, Feature
from yizhi.training.tasks.faults import Faults

# In the place of a label that the teacher gives; of labels that are numbers, NaN.
ASKED = -1


def read_unlabelled(
    paths: Sequence[Path],
    columns: Mapping[str, str],
    tokenizer: Tokenizer,
    problem_type: str | None,
    labels: int,
    faults: Faults,
) -> list[Feature]:
    """The rows of files with a text, or a pair, in each row; of a long text for a tagger, windows.

    columns: `column` and `pair_column`, if they differ from the usual. problem_type: of a sequence's labels; None of
    tokens'. labels: how many there are. Adds a fault for what cannot be read, and for files without a text.
    """
    texts = [text for path in paths for text in _read(path, columns, faults)]
    features = []
    for row in tokenizer.tokenize(texts) if texts else ():
        if problem_type:
            (window,) = tokenizer.fit(row, "truncate")
            asked = ASKED if problem_type == SINGLE_LABEL else [math.nan] * labels
            features.append(Feature(window, targets={"labels": asked}))
            continue
        for window in tokenizer.fit(row, "windows"):
            each = np.full(len(window.ids), ASKED)
            each[[0, -1]] = IGNORED
            features.append(Feature(window, token_targets={"labels": each}))
    return features


def _read(path: Path, columns: Mapping[str, str], faults: Faults) -> list[Text]:
    known, texts = len(faults), list[Text]()
    try:
        source = Source.of(str(path), None, columns.get("column", "text"), columns.get("pair_column"))
        with source.open() as rows:
            for row in rows:
                if row.fault:
                    faults.add(path, row.number, row.fault)
                elif text := row.text if isinstance(row.text, tuple) else plain_text(row).strip():
                    texts.append(text)
    except InputError as error:
        for fault in error.faults:
            faults.add(path, None, fault)
    if not texts and len(faults) == known:
        faults.add(path, None, "has no text")
    return texts


def answer(labels: torch.Tensor, logits: torch.Tensor, problem_type: str | None) -> torch.Tensor:
    """The labels of a batch, with the teacher's answer wherever it is asked for one.

    labels: [B], [B, T] or [B, labels]. logits: the teacher's, [B, labels] or [B, T, labels].
    """
    asked = labels.isnan() if labels.is_floating_point() else labels == ASKED
    if not asked.any():
        return labels
    if problem_type == REGRESSION:
        given = logits.view_as(labels)
    else:
        given = logits > 0 if problem_type == MULTI_LABEL else logits.argmax(-1)
    return torch.where(asked, given.to(labels.dtype), labels)

"""Greedy continuation of token ids, by a causal language model's step with a cache."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError
from yizhi.runtimes.base import Runtime


def generate(runtime: Runtime, rows: Sequence[Sequence[int]], count: int) -> NDArray[np.int64]:
    """The `count` tokens that continue each row, int64 [B, count]: each time the one of the highest logit.

    Rows may differ in length. No token ends a row: cut off what follows the model's own end. Raises InputError for an
    empty row, and as `Runtime.step` does.
    """
    if count < 1 or not rows or not all(len(row) for row in rows):
        raise InputError(
            "rows", f"expected one or more rows of one or more ids, and a count of 1 or more; found {count}"
        )
    width = max(len(row) for row in rows)
    ids = np.array([[runtime.config.pad_token_id] * (width - len(row)) + list(row) for row in rows])
    mask = np.array([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    outputs, past = runtime.step({"input_ids": ids, "attention_mask": mask})
    found = [outputs["logits"][:, -1].argmax(-1)]
    while len(found) < count:
        outputs, past = runtime.step({"input_ids": found[-1][:, None]}, past)
        found.append(outputs["logits"][:, -1].argmax(-1))
    return np.stack(found, axis=1)

"""Greedy continuation of token ids, by a causal language model's step with a cache."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError
from yizhi.runtimes.base import Runtime


def generate(runtime: Runtime, rows: Sequence[Sequence[int] | NDArray[np.int64]], count: int) -> NDArray[np.int64]:
    """The `count` tokens that continue each row, int64 [B, count]: each time the token of the highest logit.

    Rows may differ in length. No token ends a row: cut off what follows the model's own end. Raises InputError for an
    empty row, for a count below 1, for more tokens than the model has positions, and as `Runtime.step` does.
    """
    faults = [] if count > 0 else [f"count: expected 1 or more; found {count}"]
    lengths = [len(row) if np.ndim(row) == 1 else 0 for row in rows]
    width, longest = max(lengths, default=0), runtime.config.longest
    if not lengths or not all(lengths):
        faults.append(f"rows: expected one or more, of one or more ids each; found lengths {lengths}")
    elif width + count - 1 > longest:  # the last new token is not read
        faults.append(f"count: expected at most {max(longest + 1 - width, 0)} after {width} tokens; found {count}")
    if faults:
        raise InputError("inputs", faults)
    ids = np.array([[runtime.config.pad_token_id] * (width - len(row)) + list(row) for row in rows])
    mask = np.array([[0] * (width - length) + [1] * length for length in lengths])
    outputs, past = runtime.step({"input_ids": ids, "attention_mask": mask})
    found = [outputs["logits"][:, -1].argmax(-1)]
    while len(found) < count:
        outputs, past = runtime.step({"input_ids": found[-1][:, None]}, past)
        found.append(outputs["logits"][:, -1].argmax(-1))
    return np.stack(found, axis=1)

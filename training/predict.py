"""Logits of many rows, in batches of similar length, from a model in training or from an artifact."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yizhi.runtimes.base import Runtime
from yizhi.runtimes.batching import make_batches
from yizhi.runtimes.tokenization import pad
from yizhi.training.features import IGNORED, Feature

if TYPE_CHECKING:
    import torch

# Tokens in a batch, padding included.
_TOKENS = 4096


def predict(model: "torch.nn.Module", features: Sequence[Feature], pad_id: int) -> tuple[list[NDArray], float]:
    """Each row's logits, float32 [labels] or [T, labels], and the mean loss over rows or labelled tokens."""
    import torch

    from yizhi.training.batches import collate

    logits: list[NDArray] = [np.empty(0)] * len(features)
    device = next(model.parameters()).device
    losses, weights = [], []
    with torch.inference_mode():
        for batch in make_batches([feature.length for feature in features], _TOKENS):
            arguments = collate([features[index] for index in batch], pad_id)
            of_tokens = bool(features[0].token_targets)
            weights.append(int(torch.ne(arguments["labels"], IGNORED).sum()) if of_tokens else len(batch))
            output = model(**{name: tensor.to(device) for name, tensor in arguments.items()})
            losses.append(float(output.loss))
            found = output.logits if "logits" in output else torch.stack([output.start_logits, output.end_logits], -1)
            _spread(found.float().cpu().numpy(), batch, features, logits)
    # The loss of a batch without labelled tokens is 0 / 0.
    total = sum(loss * weight for loss, weight in zip(losses, weights, strict=True) if weight)
    return logits, total / sum(weights)


def predict_with_artifact(runtime: Runtime, features: Sequence[Feature], pad_id: int) -> list[NDArray]:
    """Each row's logits, as `predict` gives them."""
    logits: list[NDArray] = [np.empty(0)] * len(features)
    for batch in make_batches([feature.length for feature in features]):
        found = runtime.run(pad([features[index].row for index in batch], pad_id), ["logits"])["logits"]
        _spread(found, batch, features, logits)
    return logits


def _spread(found: NDArray, batch: Sequence[int], features: Sequence[Feature], logits: list[NDArray]) -> None:
    for row, index in enumerate(batch):
        logits[index] = found[row, : features[index].length] if found.ndim == 3 else found[row]

"""Rows to batches: rows of similar length together, padded to the longest row of their batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from yizhi.runtimes.tokenization import pad
from yizhi.training.features import IGNORED, Feature

# Batches that are sorted by length together: as random as can be while rows of a batch are of nearly one length.
_SORTED_TOGETHER = 50


def collate(features: Sequence[Feature], pad_id: int, multiple: int = 1) -> dict[str, torch.Tensor]:
    """A batch for the model: the three inputs [B, T], and the targets stacked.

    T is the longest row's length, rounded up to a multiple. Integers are int64 and other targets float32.
    """
    arrays: dict[str, Any] = pad([feature.row for feature in features], pad_id, multiple).as_dict()
    width = arrays["input_ids"].shape[1]
    for name in features[0].token_targets:
        rows = [np.asarray(feature.token_targets[name]) for feature in features]
        arrays[name] = np.stack([np.pad(row, (0, width - len(row)), constant_values=IGNORED) for row in rows])
    for name in features[0].targets:
        values = np.stack([np.asarray(feature.targets[name]) for feature in features])
        arrays[name] = values.astype(np.int64 if values.dtype.kind in "iub" else np.float32)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class LengthGroupedBatches(Sampler[list[int]]):
    """Batches of indices in a random order that depends only on the seed and the epoch.

    Trainer's own length grouping draws from the global generator. A run resumed inside an epoch would get other
    batches.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self.drop_last = False
        self._lengths = np.asarray(lengths)
        self._seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self._seed, self.epoch])
        order = random.permutation(len(self._lengths))
        together = self.batch_size * _SORTED_TOGETHER
        batches: list[list[int]] = []
        for start in range(0, len(order), together):
            group = order[start : start + together]
            group = group[np.argsort(-self._lengths[group], kind="stable")].tolist()
            batches += [group[first : first + self.batch_size] for first in range(0, len(group), self.batch_size)]
        # The longest first, so that memory is at its peak at once.
        longest = max(range(len(batches)), key=lambda index: self._lengths[batches[index]].max())
        yield batches.pop(longest)
        yield from (batches[index] for index in random.permutation(len(batches)))

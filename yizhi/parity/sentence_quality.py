"""The cost of int8 on everyday sentences: vectors of tokens and sentences, the order of sentences, and fills."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yizhi.parity.compare import Quality, cosines, measure_quality
from yizhi.parity.tolerances import QuantizedGates

# Standard deviation of the similarities of everyday sentences: 0.085 in two trained encoders, 6e-5 with random weights.
TOLD_APART = 0.01


@dataclass(frozen=True)
class SentenceQuality:
    """int8 against the oracle on everyday sentences.

    token_lowest, token_p01, token_mean: cosines of the tokens' last hidden states; p01 is the 1st percentile.
    vector_lowest, vector_mean: cosines of the sentences' vectors: `sentence_embedding` if the artifact has it, else the
    mean of a sentence's last hidden states.
    order: Spearman correlation of the similarities (cosines) of all pairs of sentences. None if the model does not
    distinguish sentences, such as one with random weights: the order is then chance.
    masked: vocabulary logits at masked tokens, if the checkpoint fills masks.
    """

    sentences: int
    tokens: int
    token_lowest: float
    token_p01: float
    token_mean: float
    vector_lowest: float
    vector_mean: float
    order: float | None
    masked: Quality | None


class Sentences:
    """Collects found and expected values, batch by batch."""

    def __init__(self) -> None:
        self._tokens: list[tuple[NDArray, NDArray]] = []
        self._means: list[tuple[NDArray, NDArray]] = []
        self.vectors: list[tuple[NDArray, NDArray]] = []
        self.logits: list[tuple[NDArray, NDArray]] = []

    def add(self, attention_mask: NDArray[np.int64], found: NDArray, expected: NDArray) -> None:
        """Last hidden states [N, H] of the real tokens of all rows, row by row."""
        starts = np.cumsum(attention_mask.sum(axis=1))[:-1]
        self._tokens.append((found, expected))
        means = (np.stack([row.mean(axis=0) for row in np.split(array, starts)]) for array in (found, expected))
        self._means.append((next(means), next(means)))

    def measure(self, lead: float) -> SentenceQuality | None:
        """The quality over all batches. None without any. lead: as in `measure_quality`."""
        if not self._tokens:
            return None
        of_tokens = cosines(*join(self._tokens))
        found, expected = join(self.vectors or self._means)
        of_vectors = cosines(found, expected)
        return SentenceQuality(
            sentences=len(found),
            tokens=len(of_tokens),
            token_lowest=float(of_tokens.min()),
            token_p01=float(np.quantile(of_tokens, 0.01)),
            token_mean=float(of_tokens.mean()),
            vector_lowest=float(of_vectors.min()),
            vector_mean=float(of_vectors.mean()),
            order=order_kept(found, expected),
            masked=measure_quality(*join(self.logits), lead) if self.logits else None,
        )


def order_kept(found: NDArray, expected: NDArray) -> float | None:
    """Spearman correlation of the cosines between all pairs of rows, [N, H] each. None if the rows hardly differ."""
    similarities = []
    for vectors in (found, expected):
        unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        similarities.append((unit @ unit.T)[np.triu_indices(len(unit), 1)])
    if not similarities[1].std() >= TOLD_APART:
        return None
    return float(np.corrcoef(*(values.argsort().argsort() for values in similarities))[0, 1])


def judge_sentences(quality: SentenceQuality, gates: QuantizedGates) -> list[str]:
    """The values below a gate, a fault each."""
    found = {
        "1st percentile of the tokens' cosines": (quality.token_p01, gates.token_p01),
        "mean cosine of the sentences' vectors": (quality.vector_mean, gates.vector_mean),
        "order of the sentences' similarities (Spearman)": (quality.order, gates.order),
    }
    return [
        f"everyday sentences: {what}: expected at least {allowed}; found {value:.5f}"
        for what, (value, allowed) in found.items()
        if value is not None and not value >= allowed
    ]


def join(pairs: list[tuple[NDArray, NDArray]]) -> tuple[NDArray, NDArray]:
    """Pairs of arrays [n, ...] as one pair [N, ...]."""
    found, expected = zip(*pairs, strict=True)
    return np.concatenate(found), np.concatenate(expected)

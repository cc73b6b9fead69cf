"""Quality of sentence vectors: rank correlation with human scores, and retrieval. Numpy and scipy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.floating]

FIRST = (1, 5, 10)


def cosines(one: Vectors, other: Vectors) -> NDArray[np.float64]:
    """float64 [N]: the cosine of each row of `one` [N, H] with the same row of `other` [N, H]."""
    return np.einsum("nh,nh->n", _unit(one), _unit(other))


def rank_correlation(found: NDArray, expected: NDArray) -> float:
    """Spearman's rank correlation. 0 if it is undefined, because nothing varies. Both [N]."""
    from scipy.stats import spearmanr

    if len(found) < 2 or np.ptp(found) == 0 or np.ptp(expected) == 0:
        return 0.0
    return float(spearmanr(found, expected).statistic)


def retrieval(
    queries: Vectors, candidates: Vectors, matches: Sequence[frozenset[int]], block: int = 1024
) -> dict[str, float]:
    """How early a match comes among all candidates, by cosine.

    queries: [Q, H]. candidates: [C, H]. matches: for each query, the right candidates, one or more.
    `recall@k` is the share of queries with a match among the first k, `mrr` the mean of 1 / (rank of the first match).
    A candidate as near as the match counts as before it, so equal vectors earn nothing.
    """
    queries, candidates = _unit(queries), _unit(candidates)
    ranks = []
    for start in range(0, len(queries), block):
        similar = queries[start : start + block] @ candidates.T
        for row, right in zip(similar, matches[start : start + block], strict=True):
            chosen = sorted(right)
            best = row[chosen].max()
            row[chosen] = -np.inf
            ranks.append(1 + int((row >= best).sum()))
    found = np.array(ranks)
    recall = {f"recall@{first}": float((found <= first).mean()) for first in FIRST if first < len(candidates)}
    return {**recall, "mrr": float((1 / found).mean())}


def find_matches(
    pairs: Sequence[tuple[str, str]], scores: Sequence[float]
) -> tuple[list[str], list[str], list[frozenset[int]]]:
    """Queries, candidates and matches of scored pairs: the pairs of the highest score match.

    Queries are the first texts of these, candidates all second texts, each once.
    """
    candidates = {text: index for index, text in enumerate(dict.fromkeys(second for _, second in pairs))}
    highest = max(scores)
    right: dict[str, set[int]] = {}
    for (first, second), score in zip(pairs, scores, strict=True):
        if score == highest:
            right.setdefault(first, set()).add(candidates[second])
    return list(right), list(candidates), [frozenset(found) for found in right.values()]


def _unit(vectors: Vectors) -> NDArray[np.float64]:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

"""Scores, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scores:
    """scores: from 0 to 1, by name. best: the name of the deciding score. examples: how many were scored."""

    scores: dict[str, float]
    best: str
    examples: int

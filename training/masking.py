"""Masking for masked language models: which tokens are predicted, and what replaces them. Pure numpy.

Four schemes, from the papers that introduced them:

- `bert`: 15 % of the tokens, each alone; 80 % become [MASK], 10 % a random token, 10 % stay (BERT, arXiv:1810.04805).
- `wwm`: the same, but all tokens of a word together (whole-word masking; for Chinese words arXiv:1906.08101). The
  80/10/10 is drawn for each token, as in Google's `create_pretraining_data.py`.
- `ngram`: as `wwm`, in runs of 1 to 4 words, 40/30/20/10 % of them.
- `macbert`: the same runs. Each word becomes a similar word (80 %), a random word (10 %) or stays (10 %): masked
  language modelling as correction (MacBERT, arXiv:2004.13922). The model never sees [MASK].

The papers leave some points open. Here the number of runs meets the rates on average, whatever the length of a text
(rounded up or down at random), and is at least one, as in Google's code. Runs do not overlap, and do not leave their
segment. A run that finds no room becomes shorter. A word with [UNK] is never chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from yizhi.training.choices import MASKING

Ids = NDArray[np.int64]

# What CrossEntropyLoss leaves out.
IGNORED = -100

# What became of a chosen token. WANTING: a random word, since no similar one is known.
MASK, SIMILAR, RANDOM, KEPT, WANTING = range(5)
ACTIONS = ("[MASK]", "similar word", "random", "unchanged", "random, no similar word known")
_UNCHOSEN = -1


@dataclass(frozen=True)
class Scheme:
    """How to mask.

    whole_words: choose words, else tokens. ngrams: the share of runs of 1, 2, … of them.
    similar: replace with similar words instead of [MASK]. rate: the share of words (or tokens) to choose.
    replaced, random: the shares of chosen ones that become [MASK] or a similar word, and a random one. The rest stays.
    """

    whole_words: bool
    ngrams: tuple[float, ...] = (1.0,)
    similar: bool = False
    rate: float = 0.15
    replaced: float = 0.8
    random: float = 0.1


_NGRAMS = (0.4, 0.3, 0.2, 0.1)
_SCHEMES = (
    Scheme(whole_words=False),
    Scheme(whole_words=True),
    Scheme(whole_words=True, ngrams=_NGRAMS),
    Scheme(whole_words=True, ngrams=_NGRAMS, similar=True),
)
SCHEMES: Mapping[str, Scheme] = dict(zip(MASKING, _SCHEMES, strict=True))


@dataclass(frozen=True)
class Lexicon:
    """Replacement words for `macbert`, always with the same number of tokens.

    random: by number of tokens n, int64 [N, n]: the words to draw random ones from.
    similar: of a word, as a tuple of ids, int64 [N, n]: the words to draw a similar one from.
    """

    random: Mapping[int, Ids] = field(default_factory=dict)
    similar: Mapping[tuple[int, ...], Ids] = field(default_factory=dict)


@dataclass(frozen=True)
class Masked:
    """One masked sequence.

    ids: int64 [T], what the model sees. labels: int64 [T], the original id of each chosen token, else IGNORED.
    actions: int8 [T], one of ACTIONS by index for each chosen token, else −1.
    runs: int64 [R, 3], each run's first token, its last-plus-one, and how many words (or tokens) it has.
    units: how many words (or tokens) there were to choose from.
    """

    ids: Ids
    labels: Ids
    actions: NDArray[np.int8]
    runs: Ids
    units: int


class Masker:
    """Masks sequences by a scheme. All randomness comes from the generator given with each sequence."""

    def __init__(self, scheme: Scheme, mask_id: int, random_ids: Ids, lexicon: Lexicon | None = None) -> None:
        """random_ids: int64 [N], the tokens to draw random ones from. lexicon: needed if `scheme.similar`."""
        self.scheme = scheme
        self._mask_id = mask_id
        self._random_ids = random_ids
        self._lexicon = lexicon or Lexicon()
        self._lengths = np.arange(1, len(scheme.ngrams) + 1)
        self._mean = float(self._lengths @ scheme.ngrams)

    def __call__(self, ids: Ids, words: Ids, rng: np.random.Generator) -> Masked:
        """Mask one sequence.

        ids: int64 [T]. words: int64 [T], the number of each token's word; −1 for tokens that must not be chosen, such
        as special tokens. Runs of words do not reach over a −1.
        """
        bounds = _find_units(words, self.scheme.whole_words)
        chosen = self._choose(bounds, rng)
        masked, actions = ids.copy(), np.full(len(ids), _UNCHOSEN, np.int8)
        if self.scheme.similar:
            for first, last in (bounds[unit] for start, size in chosen for unit in range(start, start + size)):
                masked[first:last], actions[first:last] = self._correct(ids[first:last], rng)
        else:
            hidden = np.zeros(len(ids), bool)
            for start, size in chosen:
                hidden[bounds[start, 0] : bounds[start + size - 1, 1]] = True
            masked[hidden], actions[hidden] = self._hide(ids[hidden], rng)
        runs = [(bounds[start][0], bounds[start + size - 1][1], size) for start, size in chosen]
        return Masked(
            ids=masked,
            labels=np.where(actions == _UNCHOSEN, IGNORED, ids),
            actions=actions,
            runs=np.array(runs, np.int64).reshape(-1, 3),
            units=len(bounds),
        )

    def _choose(self, bounds: Ids, rng: np.random.Generator) -> list[tuple[int, int]]:
        """The first unit and the number of units of each run, in the order of the text."""
        if not len(bounds):
            return []
        wanted = self.scheme.rate * len(bounds) / self._mean
        count = max(1, int(wanted + rng.random()))
        if len(self._lengths) == 1:
            return [(start, 1) for start in np.sort(rng.choice(len(bounds), count, replace=False)).tolist()]
        # Units with nothing between them are of one stretch.
        stretches = np.concatenate([[0], np.cumsum(bounds[1:, 0] != bounds[:-1, 1])])
        taken = np.zeros(len(bounds), bool)
        chosen = []
        # The long ones first: they have the most trouble finding room.
        for size in sorted(rng.choice(self._lengths, count, p=self.scheme.ngrams).tolist(), reverse=True):
            for shorter in range(min(size, len(bounds)), 0, -1):
                starts = _find_room(taken, stretches, shorter)
                if len(starts):
                    start = int(rng.choice(starts))
                    taken[start : start + shorter] = True
                    chosen.append((start, shorter))
                    break
        return sorted(chosen)

    def _hide(self, ids: Ids, rng: np.random.Generator) -> tuple[Ids, NDArray[np.int8]]:
        """[MASK], a random token or the token itself, drawn for each token."""
        actions = self._draw(MASK, len(ids), rng)
        drawn = rng.choice(self._random_ids, len(ids))
        return np.select([actions == MASK, actions == RANDOM], [self._mask_id, drawn], ids), actions

    def _correct(self, ids: Ids, rng: np.random.Generator) -> tuple[Ids, np.int8]:
        """A similar word, a random word or the word itself, drawn once for the word."""
        action = self._draw(SIMILAR, 1, rng)[0]
        similar = self._lexicon.similar.get(tuple(ids.tolist()))
        if action == SIMILAR and similar is None:
            action = np.int8(WANTING)
        if action == KEPT:
            return ids, action
        words = similar if action == SIMILAR else self._lexicon.random.get(len(ids))
        return (rng.choice(self._random_ids, len(ids)) if words is None else rng.choice(words)), action

    def _draw(self, replaced: int, count: int, rng: np.random.Generator) -> NDArray[np.int8]:
        limits = np.cumsum([self.scheme.replaced, self.scheme.random])
        return np.array([replaced, RANDOM, KEPT], np.int8)[np.searchsorted(limits, rng.random(count), side="right")]


def mark_words(tokens: Sequence[str], words: Ids) -> list[str]:
    """Tokens, with `##` before each that continues a word, as in the BERT-wwm paper: 使 ##用 语 ##言 模 ##型.

    tokens: one for each of `words`, int64 [T] as in `Masker`.
    """
    goes_on = np.concatenate([[False], (words[1:] == words[:-1]) & (words[1:] >= 0)])
    return [
        f"##{token}" if on and not token.startswith("##") else token for token, on in zip(tokens, goes_on, strict=True)
    ]


@dataclass
class Statistics:
    """Counts over masked sequences, next to the papers' rates."""

    scheme: Scheme
    tokens: int = 0
    units: int = 0
    chosen_tokens: int = 0
    chosen_units: int = 0
    runs: NDArray[np.int64] = field(init=False)
    actions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(ACTIONS), np.int64))

    def __post_init__(self) -> None:
        self.runs = np.zeros(len(self.scheme.ngrams), np.int64)

    def add(self, masked: Masked, words: Ids) -> None:
        """Count one sequence, masked from these words."""
        chosen = masked.actions != _UNCHOSEN
        self.tokens += int((words >= 0).sum())
        self.units += masked.units
        self.chosen_tokens += int(chosen.sum())
        self.chosen_units += int(masked.runs[:, 2].sum())
        self.runs += np.bincount(masked.runs[:, 2] - 1, minlength=len(self.runs))
        self.actions += self._count_actions(masked, words, chosen)

    def rows(self) -> list[tuple[str, float, float | None]]:
        """Each count, its share of all, and the paper's share, if the paper gives one."""
        scheme, whole = self.scheme, self.scheme.whole_words
        rows: list[tuple[str, float, float | None]] = [
            (f"{'words' if whole else 'tokens'} chosen", _share(self.chosen_units, self.units), scheme.rate)
        ]
        if whole:
            rows.append(("tokens chosen", _share(self.chosen_tokens, self.tokens), None))
        if len(self.runs) > 1:
            for size, (count, paper) in enumerate(zip(self.runs, scheme.ngrams, strict=True), start=1):
                rows.append((f"runs of {size} word{'s' * (size > 1)}", _share(count, self.runs.sum()), paper))
        papers: dict[int, float | None] = {
            SIMILAR if scheme.similar else MASK: scheme.replaced,
            RANDOM: scheme.random,
            KEPT: round(1 - scheme.replaced - scheme.random, 6),
        }
        if scheme.similar:
            papers[WANTING] = None
        for action, asked in papers.items():
            rows.append((ACTIONS[action], _share(self.actions[action], self.actions.sum()), asked))
        return rows

    def _count_actions(self, masked: Masked, words: Ids, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Of words where each word was drawn once, else of tokens."""
        if self.scheme.similar:
            chosen = chosen & np.concatenate([[True], words[1:] != words[:-1]])
        return np.bincount(masked.actions[chosen], minlength=len(ACTIONS))


def _find_units(words: Ids, whole_words: bool) -> Ids:
    """int64 [U, 2]: first token and last-plus-one of each word, or of each token, that may be chosen."""
    begins = words >= 0
    if whole_words:
        begins[1:] &= words[1:] != words[:-1]
    firsts = np.flatnonzero(begins)
    if not whole_words:
        return np.stack([firsts, firsts + 1], axis=1)
    ends = np.flatnonzero((words >= 0) & np.concatenate([words[1:] != words[:-1], [True]]))
    return np.stack([firsts, ends + 1], axis=1)


def _find_room(taken: NDArray[np.bool_], stretches: Ids, size: int) -> Ids:
    """The units that a run of this size may begin with: all of it free, and in one stretch."""
    before = np.concatenate([[0], np.cumsum(taken)])
    free = before[size:] == before[:-size]
    return np.flatnonzero(free & (stretches[size - 1 :] == stretches[: len(stretches) - size + 1]))


def _share(count: float, of: float) -> float:
    return float(count / of) if of else float("nan")

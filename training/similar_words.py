"""MacBERT's similar words, from a file that lists them or from word vectors.

The paper (arXiv:2004.13922) took them from the `synonyms` toolkit: nearest neighbours in word2vec vectors.
`find_neighbours` does the same with any vectors. The paper does not say which neighbour it took. Here one is drawn at
random.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.storage.records import Source, plain_text
from yizhi.training.masking import Lexicon

# As many as `synonyms.nearby` gives.
NEIGHBOURS = 10
# Rows of similarities held at once: 2,048 × 400,000 float32 are 3.3 GB, so fewer.
_BLOCK = 256


def read_similar_words(path: Path) -> dict[str, list[str]]:
    """Word -> its similar words, from lines `word similar similar …` in UTF-8, with spaces or tabs between.

    Raises InputError, naming the line, for a word without similar words, or with two lines.
    """
    similar: dict[str, list[str]] = {}
    faults = []
    for number, line in _lines(path):
        word, *others = line.split() or [""]
        if word and not others:
            faults.append(f"line {number}: {show(word)} has no similar words")
        elif word in similar:
            faults.append(f"line {number}: expected one line for each word; {show(word)} has two")
        elif word:
            similar[word] = others
    if faults or not similar:
        raise InputError(path, faults or "no words")
    return similar


def read_vectors(path: Path, limit: int | None = None) -> tuple[list[str], NDArray[np.float32]]:
    """Words and float32 [N, D] from word2vec's text format: `word x x x …`, with an optional first line `N D`.

    limit: read at most `limit` words; files have the frequent words first.
    Raises InputError, naming the line, for a vector that is not numbers, or not as long as the first.
    """
    words: list[str] = []
    rows: list[NDArray[np.float32]] = []
    for number, line in _lines(path):
        word, _, rest = line.rstrip().partition(" ")
        if number == 1 and word.isdecimal() and rest.strip().isdecimal():
            continue
        if len(words) == limit:
            break
        try:
            row = np.array(rest.split(), np.float32)
        except ValueError:
            raise InputError(path, f"line {number}: {show(word)}: expected numbers; found {show(rest)}") from None
        if not len(row) or (rows and len(row) != len(rows[0])) or not np.isfinite(row).all():
            expected = f"{len(rows[0])} finite numbers" if rows else "finite numbers"
            raise InputError(path, f"line {number}: {show(word)}: expected {expected}; found {len(row)}")
        words.append(word)
        rows.append(row)
    if not words:
        raise InputError(path, "no words")
    return words, np.stack(rows)


def find_neighbours(
    words: Sequence[str], vectors: NDArray[np.float32], wanted: Collection[str], count: int = NEIGHBOURS
) -> dict[str, list[str]]:
    """For each wanted word with a vector, the nearest other words of as many characters, by cosine.

    words: N of them. vectors: float32 [N, D].
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    lengths = np.array([len(word) for word in words])
    similar: dict[str, list[str]] = {}
    for length in sorted(set(lengths.tolist())):
        members = np.flatnonzero(lengths == length)
        if len(members) < 2:
            continue
        asked = [index for index, member in enumerate(members.tolist()) if words[member] in wanted]
        nearest = min(count, len(members) - 1)
        for start in range(0, len(asked), _BLOCK):
            block = asked[start : start + _BLOCK]
            cosines = unit[members[block]] @ unit[members].T
            cosines[np.arange(len(block)), block] = -np.inf
            best = np.argpartition(-cosines, nearest - 1, axis=1)[:, :nearest]
            for row, found in zip(block, best, strict=True):
                similar[words[members[row]]] = [words[member] for member in members[found].tolist()]
    return similar


def build_lexicon(tokenizer: Tokenizer, text_words: Iterable[str], similar: Mapping[str, Sequence[str]]) -> Lexicon:
    """`Masker`'s lexicon: each word's similar words of as many tokens, and the text's own words as random ones.

    Words that the vocabulary cannot spell are left out.
    """
    spelled: dict[str, tuple[int, ...]] = {}
    named = {*text_words, *similar, *(word for others in similar.values() for word in others)}
    ordered = sorted(named)
    for word, row in zip(ordered, tokenizer.tokenize(ordered) if ordered else [], strict=True):
        ids = tuple(row.ids[1:-1].tolist())
        if ids and tokenizer.unknown_id not in ids:
            spelled[word] = ids
    by_length: dict[int, set[tuple[int, ...]]] = {}
    for word in set(text_words):
        if word in spelled:
            by_length.setdefault(len(spelled[word]), set()).add(spelled[word])
    alike = {}
    for word, others in similar.items():
        own = spelled.get(word)
        if own is None:
            continue
        fitting = {spelled[other] for other in others if other in spelled and len(spelled[other]) == len(own)} - {own}
        if fitting:
            alike[own] = np.array(sorted(fitting), np.int64)
    return Lexicon({length: np.array(sorted(ids), np.int64) for length, ids in by_length.items()}, alike)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines. Raises InputError where there is no such file, or a line is not UTF-8."""
    with Source.of(str(path), "txt", "text", None).open() as reader:
        for record in reader:
            if record.text is None:
                raise InputError(path, f"line {record.number}: {record.fault}")
            yield record.number, plain_text(record)

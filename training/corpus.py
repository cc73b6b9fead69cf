"""Plain text for pretraining: read, tokenized and cut into words once, then packed into sequences."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.storage.records import Source, plain_text
from yizhi.training.segmentation import Segmenter, WordNumberer

_TOGETHER = 1000
_MOST_FAULTS = 20


@dataclass(frozen=True)
class Corpus:
    """The text's tokens, end to end, in 8 bytes each.

    ids: int32 [N], without [CLS] and [SEP]. words: int32 [N], the number of each token's word, rising through the text;
    −1 for tokens that must not be masked. lines: int64 [L + 1], the first token of each line, and the end.
    documents: int64 [D + 1], the first line of each document, and the end. text_words: the distinct words.
    """

    ids: NDArray[np.int32]
    words: NDArray[np.int32]
    lines: NDArray[np.int64]
    documents: NDArray[np.int64]
    text_words: frozenset[str]

    def __post_init__(self) -> None:
        for name in ("ids", "words", "lines", "documents"):
            getattr(self, name).setflags(write=False)


def read_corpus(paths: Sequence[Path], tokenizer: Tokenizer, segment: Segmenter) -> Corpus:
    """Read text files in UTF-8: a sentence or a paragraph on each line, an empty line between documents.

    Raises InputError, naming file and line, for lines that cannot be read, and for words that differ from the line's.
    """
    number_words = WordNumberer(tokenizer.vocab, tokenizer.special_ids)
    ids, words, lines, documents = array("i"), array("i"), array("q", [0]), array("q", [0])
    text_words: set[str] = set()
    faults: list[str] = []
    next_word = 0
    for block in _read_blocks(paths, faults):
        rows = iter(tokenizer.tokenize([text for _, text in block if text] or [""]))
        for place, text in block:
            if not text:
                if documents[-1] < len(lines) - 1:
                    documents.append(len(lines) - 1)
                continue
            row, found = next(rows), segment(text)
            row = replace(row, offsets=tokenizer.trim(row.offsets, text))  # a space is of no word
            try:
                numbers = number_words(text, found, row)[1:-1]
            except InputError as error:
                faults += [f"{place}: {fault}" for fault in error.faults]
                continue
            ids.extend(row.ids[1:-1].tolist())
            words.extend(np.where(numbers < 0, -1, numbers + next_word).tolist())
            next_word += len(found)
            text_words.update(found)
            lines.append(len(ids))
        if len(faults) >= _MOST_FAULTS:
            break
    if faults:
        raise InputError("text", faults[:_MOST_FAULTS])
    if not ids:
        raise InputError(", ".join(map(str, paths)), "no text")
    return Corpus(
        np.array(ids, np.int32),
        np.array(words, np.int32),
        np.array(lines, np.int64),
        np.array(documents, np.int64),
        frozenset(text_words),
    )


def _read_blocks(paths: Sequence[Path], faults: list[str]) -> Iterator[list[tuple[str, str]]]:
    """Some lines at a time, each with its file and number; an empty one after each file. Notes lines that are bad."""
    for path in paths:
        with Source.of(str(path), "txt", "text", None).open() as reader:
            lines = iter(reader)
            while block := list(islice(lines, _TOGETHER)):
                faults += [f"{path}, line {record.number}: {record.fault}" for record in block if record.fault]
                yield [(f"{path}, line {record.number}", plain_text(record).strip()) for record in block]
        yield [(str(path), "")]


@dataclass(frozen=True)
class Piece:
    """The source of one training sequence: tokens `first` … `last` − 1 of a corpus, all of one document.

    breaks: the line starts between them.
    """

    first: int
    last: int
    breaks: tuple[int, ...]


def pack(corpus: Corpus, room: int, line_by_line: bool = False) -> list[Piece]:
    """Cut the text into pieces of at most `room` tokens: as many whole lines as fit, and never two documents.

    A longer line is cut. line_by_line: each line is a piece of its own, or several.
    """
    pieces = []
    for first_line, last_line in pairwise(corpus.documents.tolist()):
        held: list[int] = []  # where the lines of the piece begin, and its end
        for begin, end in pairwise(corpus.lines[first_line : last_line + 1].tolist()):
            if held and (line_by_line or end - held[0] > room):
                pieces.append(Piece(held[0], held[-1], tuple(held[1:-1])))
                held = []
            while end - begin > room:
                pieces.append(Piece(begin, begin + room, ()))
                begin += room
            held = [*(held or [begin]), end] if end > begin else held
        if held:
            pieces.append(Piece(held[0], held[-1], tuple(held[1:-1])))
    return pieces

"""Sequences for pretraining: pieces of a corpus as one segment or two, masked anew in every epoch."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from yizhi.errors import InputError
from yizhi.runtimes.tokenization import Row, Tokenizer
from yizhi.training.batches import Feature, LengthGroupedBatches
from yizhi.training.corpus import Corpus, Piece
from yizhi.training.masking import Ids, Masker, Statistics

# A second segment is after the first, or of another document (BERT's next-sentence prediction); or it is after the
# first, or before it (sentence-order prediction, ALBERT, arXiv:1909.11942).
IN_ORDER, NOT_IN_ORDER = 0, 1


class Sequences:
    """Every sequence of every epoch. Masks depend only on seed, epoch and index.

    pairs: one of PAIRS, or None for one segment. pair_target: the argument of the model's `forward` for whether the
    segments are in order. `statistics` counts all masked tokens.
    """

    def __init__(
        self,
        corpus: Corpus,
        pieces: Sequence[Piece],
        tokenizer: Tokenizer,
        masker: Masker,
        seed: Sequence[int],
        pairs: str | None = None,
        pair_target: str = "next_sentence_label",
    ) -> None:
        """Raises InputError if the text is too short for pairs."""
        if pairs:
            pieces = [piece for piece in pieces if piece.last - piece.first > 1]
        if not pieces:
            raise InputError("text", "expected a line of at least two tokens")
        if pairs == "nsp" and len(corpus.documents) < 3:
            raise InputError("`pairs`", "nsp needs at least two documents: files, or parts with an empty line between")
        self.statistics = Statistics(masker.scheme)
        self._corpus = corpus
        self._pieces = pieces
        self._masker = masker
        self._seed = tuple(seed)
        self._pairs = pairs
        self._pair_target = pair_target
        self._separators = tokenizer.cls_id, tokenizer.sep_id
        # The document of each piece.
        first_tokens = corpus.lines[corpus.documents[:-1]]
        self._documents = np.searchsorted(first_tokens, [piece.first for piece in pieces], side="right")

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence, with special ones."""
        return [piece.last - piece.first + (3 if self._pairs else 2) for piece in self._pieces]

    def __getitem__(self, key: tuple[int, int]) -> Feature:
        """Sequence `index` of epoch `epoch`, as the model's input; key: (epoch, index)."""
        row, words, targets, rng = self.draw(key)
        masked = self._masker(row.ids, words, rng)
        self.statistics.add(masked, words)
        shown = Row(masked.ids, row.types, row.offsets, row.places)
        return Feature(shown, targets=targets, token_targets={"labels": masked.labels})

    def draw(self, key: tuple[int, int]) -> tuple[Row, Ids, dict[str, int], np.random.Generator]:
        """The sequence before masking, its words (int64 [T]), its targets, and the generator to go on with."""
        epoch, index = key
        rng = np.random.default_rng([*self._seed, epoch, index])
        segments, targets = [self._span(self._pieces[index])], {}
        if self._pairs:
            segments, order = self._split(index, rng)
            targets[self._pair_target] = order
        begin, end = self._separators
        ids, words, types = [np.array([begin])], [np.array([-1])], [np.array([0])]
        for number, span in enumerate(segments):
            ids += [self._corpus.ids[span], np.array([end])]
            words += [self._corpus.words[span], np.array([-1])]
            types.append(np.full(span.stop - span.start + 1, number))
        row_ids = np.concatenate(ids).astype(np.int64)
        offsets, places = np.zeros((len(row_ids), 2), np.int64), np.arange(len(row_ids))
        row = Row(row_ids, np.concatenate(types).astype(np.int64), offsets, places)
        return row, np.concatenate(words).astype(np.int64), targets, rng

    def _split(self, index: int, rng: np.random.Generator) -> tuple[list[slice], int]:
        """Two segments, and whether they are in order."""
        piece = self._pieces[index]
        cut = int(rng.choice(piece.breaks or self._word_starts(piece)))
        first, second = slice(piece.first, cut), slice(cut, piece.last)
        if rng.random() < 0.5:
            return [first, second], IN_ORDER
        if self._pairs == "sop":
            return [second, first], NOT_IN_ORDER
        others = np.flatnonzero(self._documents != self._documents[index])
        other = self._span(self._pieces[int(rng.choice(others))])
        # No longer than what it stands for: lengths must not give the answer away, nor outgrow the model.
        return [first, slice(other.start, min(other.stop, other.start + second.stop - second.start))], NOT_IN_ORDER

    def _word_starts(self, piece: Piece) -> Sequence[int]:
        """Where a piece of one line may be cut: between words, or anywhere if it is one word."""
        words = self._corpus.words[piece.first : piece.last]
        inside = piece.first + 1 + np.flatnonzero(words[1:] != words[:-1])
        return inside.tolist() or range(piece.first + 1, piece.last)

    @staticmethod
    def _span(piece: Piece) -> slice:
        return slice(piece.first, piece.last)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index), for data that differs from epoch to epoch; otherwise like LengthGroupedBatches."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._batches = LengthGroupedBatches(lengths, batch_size, seed)
        self.batch_size, self.drop_last = batch_size, False

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before each epoch."""
        self._batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self._batches.epoch
        for batch in self._batches:
            yield [(epoch, index) for index in batch]

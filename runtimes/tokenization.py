"""Texts to the inputs of one artifact, with the ids that transformers' AutoTokenizer gives."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from yizhi.errors import InputError, show
from yizhi.model.config import EncoderConfig
from yizhi.reading.auto_tokenizer import read_tokenizer
from yizhi.reading.tokenizer_files import TextTokenizer
from yizhi.runtimes.base import Inputs
from yizhi.runtimes.pieces import Pieces

Text = str | tuple[str, str]
# How a mask is written where nobody knows the tokenizer.
USUAL_MASK = "[MASK]"
_NO_TOKENS = "is empty, and has no tokens: this tokenizer puts none around a text"


# What to do with a text that is too long: "error", "truncate", or windows that share so many tokens; "windows"
# for those that share a quarter of theirs.
Long = Literal["error", "truncate", "windows"] | int


class TooLong(InputError):
    """A text has more tokens than the model has positions, and `long` does not allow cutting."""


@dataclass(frozen=True)
class Row:
    """One tokenized text, or one window of it, without padding.

    ids, types: int64 [T]. offsets: int64 [T, 2], as in `Encoded`.
    places: int64 [T], each token's place before a window was cut out.
    parts: the places of the tokens of the text, or of each text of a pair, without special tokens; empty if not
    requested.
    """

    ids: NDArray[np.int64]
    types: NDArray[np.int64]
    offsets: NDArray[np.int64]
    places: NDArray[np.int64]
    parts: tuple[slice, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """A batch of tokenized texts, padded on the right to the longest.

    tokens: each text's tokens, without padding.
    offsets: int64 [B, T, 2], the first and the last-plus-one character of each token in its own text; 0, 0 for special
    tokens and padding.
    """

    inputs: Inputs
    tokens: list[list[str]]
    offsets: NDArray[np.int64]


class Tokenizer:
    """The tokenizer of an artifact, or of a checkpoint. Thread-safe.

    A special token's name in a text is read as this token, as by default in transformers. With `split_special_tokens`
    in `tokenizer_config.json`, the name is ordinary text.
    """

    def __init__(self, text: TextTokenizer, max_length: int) -> None:
        """max_length: the most tokens in a row."""
        self.vocab = text.vocab
        self.max_length = max_length
        self.cls_id, self.sep_id = text.cls_id, text.sep_id
        self.mask_id, self.pad_id, self.unknown_id = text.mask_id, text.pad_id, text.unknown_id
        self.mask = text.special.get("mask_token", USUAL_MASK)
        self.special_ids = sorted({text.id_of(name) for name in text.special})
        self._pieces = Pieces(text.tokenizer, text.vocab)
        # Whether the mask stands for the space before it too.
        mask = text.tokenizer.get_added_tokens_decoder().get(self.mask_id)
        self.mask_takes_space = mask is not None and mask.lstrip
        self._keeps_end = text.truncation_side == "left"
        self._frame, self._gives_types = text.frame, text.gives_types
        self._tokenizer = text.tokenizer

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open an artifact's or a checkpoint's folder.

        A row has at most as many tokens as the model has positions. A smaller `model_max_length` lowers this limit.
        Raises InputError if `config.json` or a tokenizer file cannot be used.
        """
        folder = Path(folder)
        config = EncoderConfig.read(folder / "config.json")
        text = read_tokenizer(folder)
        misfit = text.find_misfit(config.vocab_size, config.padding_idx)
        if misfit:
            raise InputError(folder, misfit)
        return cls.of(text, config)

    @classmethod
    def of(cls, text: TextTokenizer, config: EncoderConfig) -> Self:
        """The tokenizer of a model that is already open."""
        return cls(text, text.length(config.longest))

    def cutting(self, side: Literal["left", "right"]) -> Self:
        """The same tokenizer, which cuts texts at this side, whatever its files say."""
        other = copy.copy(self)
        other._keeps_end = side == "left"
        return other

    def encode(self, texts: Sequence[Text]) -> Encoded:
        """Tokenize texts, or pairs of texts, with the special tokens around each.

        Nothing is cut. Raises InputError, naming each text that is too long for the model, or has no tokens.
        """
        rows = self.tokenize(texts)
        faults = [
            f"{_name(texts, index)}: {self._too_long(length, self.max_length) if length else _NO_TOKENS}"
            for index, length in enumerate(len(row.ids) for row in rows)
            if not 0 < length <= self.max_length
        ]
        if faults:
            raise InputError("texts", faults)
        offsets = np.zeros((len(rows), max(len(row.ids) for row in rows), 2), np.int64)
        for index, row in enumerate(rows):
            offsets[index, : len(row.ids)] = row.offsets
        return Encoded(
            inputs=pad(rows, self.pad_id),
            tokens=[[self.vocab[index] for index in row.ids] for row in rows],
            offsets=offsets,
        )

    def tokenize(self, texts: Sequence[Text]) -> list[Row]:
        """Tokenize like `encode`, without padding and at any length. Raises InputError for values that are no texts."""
        texts = self._check(texts)
        return [
            Row(
                ids=np.array(encoding.ids, np.int64),
                types=np.array(encoding.type_ids if self._gives_types else [0] * len(encoding), np.int64),
                offsets=np.array(encoding.offsets, np.int64),
                places=np.arange(len(encoding)),
                parts=self._parts(encoding, isinstance(text, tuple)),
            )
            for text, encoding in zip(texts, self._tokenizer.encode_batch(texts), strict=True)
        ]

    def _parts(self, encoding: Encoding, is_pair: bool) -> tuple[slice, ...]:
        """Where the tokens of each text are. A text may itself name a special token; only the frame's are outside."""
        begin, last = self._frame.begin, len(encoding) - self._frame.end
        if not is_pair:
            return (slice(begin, last),)
        end = begin + encoding.sequence_ids.count(0)
        return slice(begin, end), slice(end + len(self._frame.between or ()), last)

    def tokenize_words(self, words: Sequence[str]) -> tuple[Row, NDArray[np.int64]]:
        """One row of given words, and where the tokens of each word begin, int64 [words].

        A word that leaves no token, such as a control character, becomes [UNK]. `offsets` count within each word.
        Raises InputError unless `words` is a list of texts.
        """
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise InputError("the words", f"expected a list of words; found {show(words)}")
        rows = self.tokenize(words) if words else []
        pieces = [np.stack([row.ids, *row.offsets.T])[:, row.parts[0]] for row in rows]
        none = np.array([[max(self.unknown_id, 0)], [0], [0]])
        pieces = [found if found.size else none for found in pieces]
        frame = self._frame
        special = np.array([frame.around(()), [0] * (frame.begin + frame.end), [0] * (frame.begin + frame.end)])
        ids, begins, ends = np.concatenate([special[:, : frame.begin], *pieces, special[:, frame.begin :]], axis=1)
        offsets, whole = np.stack([begins, ends], axis=1), (slice(frame.begin, len(ids) - frame.end),)
        row = Row(ids, np.zeros_like(ids), offsets, np.arange(len(ids)), whole)
        return row, np.cumsum([frame.begin, *(found.shape[1] for found in pieces)])[: len(words)]

    def goes_on(self, row: Row, text: str) -> NDArray[np.bool_]:
        """Which tokens of a row continue the word of the token before, bool [T]: see `Pieces.goes_on`."""
        found, inside = np.zeros(len(row.ids), bool), row.parts[0]
        found[inside] = self._pieces.goes_on(row.ids[inside], row.offsets[inside], text)
        return found

    def trim(self, offsets: NDArray[np.int64], text: str) -> NDArray[np.int64]:
        """Offsets in a text without white space: see `Pieces.trim`."""
        return self._pieces.trim(offsets, text)

    def spell(self, token_id: int) -> str:
        """The text of a token: see `Pieces.spell`."""
        return self._pieces.spell(token_id)

    def put_mask(self, text: Text) -> Text:
        """The text with this tokenizer's own mask in place of [MASK], which most users write.

        The text is unchanged if it has the tokenizer's own mask, or if [MASK] is the name of another token. Raises
        InputError for a value that is no text.
        """
        if self._tokenizer.token_to_id(USUAL_MASK) is not None:
            return text
        if isinstance(text, str):
            return text if self.mask in text else text.replace(USUAL_MASK, self.mask)
        self._check([text])
        first, second = text
        if self.mask in first + second:
            return text
        return first.replace(USUAL_MASK, self.mask), second.replace(USUAL_MASK, self.mask)

    def fit(self, row: Row, long: Long = "error", spare: int = 0, cut: int | None = None) -> list[Row]:
        """The row, or its windows, short enough for the model, with `spare` positions left to grow into.

        long: for a row with too many tokens. `error` raises InputError with the length. `truncate` keeps the beginning
        (the end, if `truncation_side` is left). A number makes windows over the whole row: neighbours share this number
        of tokens. `windows` shares a quarter.
        cut: which text of a pair is cut. The other text is kept whole, and InputError is raised if this leaves no room.
        None: the longer text is cut. If both texts are long, `truncate` cuts them to equal lengths, and windows are
        refused.
        Raises InputError for a row without tokens, whatever `long` is: it would have a vector of nothing.
        """
        if not len(row.ids):
            raise InputError("the text", _NO_TOKENS)
        room = self.max_length - spare
        if len(row.ids) <= room:
            return [row]
        if long == "error":
            raise TooLong("the text", f"{self._too_long(len(row.ids), room)}: `truncate` cuts what is too long")
        parts = text_parts(row)
        special = np.setdiff1d(np.arange(len(row.ids)), np.concatenate(parts), assume_unique=True)
        sizes = [len(part) for part in parts]
        budget = room - (len(row.ids) - sum(sizes))
        longest = int(np.argmax(sizes)) if cut is None else cut
        kept = [min(size, budget // len(sizes)) for size in sizes] if cut is None else list(sizes)
        size = kept[longest] = budget - sum(kept[:longest] + kept[longest + 1 :])
        if size < 1:
            other = budget - size
            raise InputError(
                "the text", f"expected at most {budget - 1} tokens, to leave room for its pair; found {other}"
            )
        if long == "truncate":
            begins = [size - count if self._keeps_end else 0 for size, count in zip(sizes, kept, strict=True)]
            cuts = [slice(begin, begin + count) for begin, count in zip(begins, kept, strict=True)]
            return [_select(row, special, parts, cuts)]
        if [*kept[:longest], *kept[longest + 1 :]] != [*sizes[:longest], *sizes[longest + 1 :]]:
            raise InputError("the text", f"both texts of the pair are too long to be read in windows of {room} tokens")
        shared = size // 4 if long == "windows" else long
        if not 0 <= shared < size:
            raise InputError("`stride`", f"expected 0 … {size - 1}; found {shared}")
        starts = range(0, sizes[longest] - shared, size - shared)
        windows = [[slice(None)] * len(parts) for _ in starts]
        for window, start in zip(windows, starts, strict=True):
            window[longest] = slice(start, start + size)
        return [_select(row, special, parts, window) for window in windows]

    @property
    def adds_space(self) -> bool:
        """Whether the first word of a text is read as if a space stood before it."""
        return self._pieces.adds_space

    def pieces(self, word: str, spaced: bool = False) -> list[int]:
        """The ids of a word: its own id if the vocabulary has the word as written, else the ids of its pieces.

        spaced: the ids after a space. SentencePiece's vocabularies and byte vocabularies have spaces in words.
        Raises InputError for a word without pieces, or with a piece that the vocabulary does not have.
        """
        self._check([word])
        own = self._tokenizer.token_to_id(word)
        if own is not None and not (spaced and self._pieces.write_spaces):
            return [own]
        ids = self._pieces.split(word, spaced)
        if not ids or self.unknown_id in ids:
            raise InputError("targets", f"{word!r}: the vocabulary cannot spell it")
        return ids

    def _too_long(self, found: int, allowed: int) -> str:
        around = " and ".join(self.vocab[index] for index in self._frame.around(()))
        return f"expected at most {allowed} tokens{f' with {around}' if around else ''}; found {found}"

    def _check(self, texts: Sequence[Text]) -> list[Text]:
        """Raise InputError, naming each text that the tokenizer cannot read."""
        if isinstance(texts, str) or not texts:
            raise InputError("texts", f"expected a list of texts or of pairs of texts; found {show(texts)}")
        faults = []
        for index, text in enumerate(texts):
            parts = text if isinstance(text, tuple) and len(text) == 2 else (text,)
            if not all(isinstance(part, str) for part in parts):
                faults.append(f"{_name(texts, index)}: expected a text or a pair of texts; found {show(text)}")
            elif len(parts) == 2 and self._frame.between is None:
                found = "a pair, for which post_processor in tokenizer.json has no frame"
                faults.append(f"{_name(texts, index)}: expected a text; found {found}")
            elif any("\ud800" <= char <= "\udfff" for part in parts for char in part):
                faults.append(
                    f"{_name(texts, index)}: holds half of a surrogate pair, which is no character: {show(text)}"
                )
        if faults:
            raise InputError("texts", faults)
        return list(texts)


def pad(rows: Sequence[Row], pad_id: int, multiple: int = 1) -> Inputs:
    """A batch of rows, padded on the right to the longest, rounded up to a multiple."""
    width = -(-max(len(row.ids) for row in rows) // multiple) * multiple
    ids, mask, types = np.full((len(rows), width), pad_id), *np.zeros((2, len(rows), width), np.int64)
    for index, row in enumerate(rows):
        length = len(row.ids)
        ids[index, :length], mask[index, :length], types[index, :length] = row.ids, 1, row.types
    return Inputs.of(ids, mask, types)


def assign_places(windows: Sequence[Row]) -> list[NDArray[np.int64]]:
    """For each window, the positions of the tokens that it answers for. Each token of the text is in one window.

    It is the window where the token has most context on its poorer side; of equals, the first.
    """
    size = 1 + max(int(window.places.max()) for window in windows)
    margins, owners = np.full(size, -1), np.zeros(size, np.int64)
    for index, window in enumerate(windows):
        positions = np.arange(len(window.places))
        found = np.minimum(positions, positions[::-1])
        better = found > margins[window.places]
        margins[window.places[better]], owners[window.places[better]] = found[better], index
    return [np.flatnonzero(owners[window.places] == index) for index, window in enumerate(windows)]


def check_long(long: object, *, windows: bool = True) -> None:
    """Raise InputError unless `long` is a valid value. windows: also allow windows."""
    if long in ("error", "truncate") or (windows and (long == "windows" or (type(long) is int and long >= 0))):
        return
    known = "error, truncate, windows or a number of tokens" if windows else "error or truncate"
    raise InputError("long", f"expected {known}; found {long!r}")


def text_parts(row: Row) -> list[NDArray[np.int64]]:
    """Positions of the first text's tokens and, in a pair, of the second's, without special tokens."""
    return [np.arange(part.start, part.stop) for part in row.parts]


def _select(row: Row, special: NDArray[np.int64], parts: list[NDArray[np.int64]], slices: list[slice]) -> Row:
    """The row with only these tokens of each of its parts, and the special tokens, in time proportional to them."""
    chosen = [part[taken] for part, taken in zip(parts, slices, strict=True)]
    keep = np.sort(np.concatenate([special, *chosen]))
    kept, shift = [], 0
    for part, taken in zip(row.parts, chosen, strict=True):
        begin = part.start - shift
        kept.append(slice(begin, begin + len(taken)))
        shift += part.stop - part.start - len(taken)
    return Row(row.ids[keep], row.types[keep], row.offsets[keep], row.places[keep], tuple(kept))


def _name(texts: Sequence[Text], index: int) -> str:
    """The name of one of several texts in a message, counting from 1."""
    return f"text {index + 1} of {len(texts)}" if len(texts) > 1 else "the text"

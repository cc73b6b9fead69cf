"""The pieces of words in a vocabulary: their text, and which pieces continue a word."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, pre_tokenizers

from yizhi.reading.tokenizer_json import WORDPIECE, kind_of

# What BERT makes words of their own (`is_chinese_char` of tokenizers, after Google's tokenization.py).
_CHINESE = (
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),
    *((0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F)),
)
# How a space is written in SentencePiece's vocabularies, and in those of bytes.
_SPACE, _BYTE_SPACE = "▁", "Ġ"
_REPLACED = "\N{REPLACEMENT CHARACTER}"


def pattern_of_chinese(least: int = 0) -> str:
    """A regular expression for one of BERT's Chinese characters, in ranges that begin at `least` or later."""
    return f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in _CHINESE if first >= least)}]"


class Pieces:
    """The vocabulary of one tokenizer, as pieces of words. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, vocab: list[str]) -> None:
        """vocab: every token, in the order of the ids.

        write_spaces: whether the space before a word is part of its first piece.
        """
        self._tokenizer = tokenizer
        self._vocab = vocab
        self._added = frozenset(tokenizer.get_added_tokens_decoder())
        self.write_spaces = kind_of(tokenizer) != WORDPIECE

    @cached_property
    def _goes_on(self) -> NDArray[np.bool_]:
        return np.array([token.startswith("##") for token in self._vocab])

    @cached_property
    def _words(self) -> pre_tokenizers.PreTokenizer:
        apart = pre_tokenizers.Split(Regex(pattern_of_chinese()), "isolated")
        return pre_tokenizers.Sequence([apart, pre_tokenizers.BertPreTokenizer()])

    def goes_on(self, ids: NDArray[np.int64], offsets: NDArray[np.int64], text: str) -> NDArray[np.bool_]:
        """Which tokens of a text continue the word of the token before, bool [T].

        ids: int64 [T], offsets: int64 [T, 2]. WordPiece marks these tokens with ##. Pieces of other vocabularies begin
        and end anywhere. Their words are BERT's: a Chinese character, a punctuation mark, or other text between white
        space. A piece belongs to the word that it begins in. A piece of white space alone belongs to the word after it.
        """
        if not self.write_spaces:
            return self._goes_on[ids]
        word_at = np.full(len(text) + 1, -1)
        for number, (_, (begin, end)) in enumerate(self._words.pre_tokenize_str(text)):
            word_at[begin:end] = number
        begins, ends = _trim(offsets, text).T
        first, last = word_at[begins], word_at[np.maximum(ends, 1) - 1]
        after = np.zeros(len(ids), bool)
        empty = begins == ends
        after[1:] = (first[1:] == last[:-1]) & (first[1:] >= 0) & ~empty[1:] | empty[:-1] & ~empty[1:]
        return after

    def spell(self, token_id: int) -> str:
        """The text of a token, including a space before it.

        A token that is no text by itself (`##ing`, a byte of a character, a control character) is spelled as in the
        vocabulary.
        """
        entry = self._vocab[token_id]
        decoder = self._tokenizer.decoder
        if not self.write_spaces or decoder is None or token_id in self._added:
            return entry
        written = decoder.decode(["x", entry])[1:]  # a decoder drops the space before the first token
        is_text = all(char.isspace() or (char.isprintable() and char != _REPLACED) for char in written)
        return written if written and is_text else entry

    def split(self, word: str, spaced: bool = False) -> list[int]:
        """The ids of a word inside a text. spaced: the ids after a space, which differ outside WordPiece."""
        if not self.write_spaces:
            return list(self._tokenizer.encode(word, add_special_tokens=False).ids)
        spaced = spaced or word[:1].isspace()
        normalizer, model = self._tokenizer.normalizer, self._tokenizer.model
        word = f" {word.lstrip()}" if spaced else word
        written = normalizer.normalize_str(word) if normalizer else word
        parts = self._cut(written)
        if parts and not spaced and self.adds_space and word[:1] != _SPACE:
            parts[0] = parts[0].removeprefix(_SPACE).removeprefix(_BYTE_SPACE)
        return [piece.id for part in parts for piece in model.tokenize(part)]

    @cached_property
    def adds_space(self) -> bool:
        """Whether the first word of a text is read as if a space stood before it."""
        return self.write_spaces and self._cut("x")[0][:1] in (_SPACE, _BYTE_SPACE)

    def _cut(self, written: str) -> list[str]:
        pre_tokenizer = self._tokenizer.pre_tokenizer
        return [part for part, _ in pre_tokenizer.pre_tokenize_str(written)] if pre_tokenizer else [written]

    def trim(self, offsets: NDArray[np.int64], text: str) -> NDArray[np.int64]:
        """Offsets [T, 2] without the white space that pieces begin with. Both are equal for white space alone."""
        return _trim(offsets, text) if self.write_spaces else offsets


def _trim(offsets: NDArray[np.int64], text: str) -> NDArray[np.int64]:
    """Offsets [T, 2] without the white space at either end. Both are equal for white space alone."""
    is_space = np.array([char.isspace() or char == _SPACE for char in text] + [False])
    # The next character from each on that is no space, and the last one before each, plus one.
    places = np.arange(len(text) + 1)
    ahead = np.minimum.accumulate(np.where(is_space, len(text), places)[::-1])[::-1]
    behind = np.concatenate([[0], np.maximum.accumulate(np.where(is_space[:-1], 0, places[1:]))])
    begins, ends = offsets.T
    begin, end = ahead[begins], behind[ends]
    nothing = begin >= end
    return np.stack([np.where(nothing, begins, begin), np.where(nothing, begins, end)], axis=1)

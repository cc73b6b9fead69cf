"""Words of Chinese text, and which word each token is part of."""

import importlib
import logging
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from yizhi.errors import InputError, show
from yizhi.runtimes.tokenization import Row

# A text to its words, in order. White space may be left out; nothing else may be added, left out or changed.
Segmenter = Callable[[str], Sequence[str]]


def open_segmenter(name: str) -> Segmenter:
    """The segmenter of this name.

    `jieba`; `spaces`, for text with spaces between words; or `module:function`, an importable function from a text to
    the list of its words. Raises InputError if it does not exist.
    """
    if name == "spaces":
        return str.split
    if name == "jieba":
        return _open_jieba()
    module, _, function = name.partition(":")
    if not module or not function:
        raise InputError("`segmenter`", f"expected jieba, spaces or module:function; found {name!r}")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError("`segmenter`", f"{name}: {error}") from None
    if not callable(found):
        raise InputError("`segmenter`", f"{name}: expected a function; found {show(found)}")
    return found


class WordNumberer:
    """Numbers the words of a text, token by token."""

    def __init__(self, vocab: Sequence[str], special_ids: Sequence[int]) -> None:
        self._goes_on = np.array([token.startswith("##") and len(token) > 2 for token in vocab])
        self._barred = np.isin(np.arange(len(vocab)), special_ids)

    def __call__(self, text: str, words: Sequence[str], row: Row) -> NDArray[np.int64]:
        """int64 [T]: the number of the word, from 0, that each token of the row begins in.

        words: the Segmenter's words of the text. row: the tokenized text. A token that WordPiece marks with ## has the
        number of the token before it, whatever the segmenter says. −1 for special tokens, and for all tokens of a word
        with [UNK].
        Raises InputError if the words are not those of the text.
        """
        numbers = _find_words(text, words)[row.offsets[:, 0]]
        places = np.arange(len(row.ids))
        numbers = numbers[np.maximum.accumulate(np.where(self._goes_on[row.ids], 0, places))]
        barred = self._barred[row.ids]
        inside = barred & (row.offsets[:, 1] > row.offsets[:, 0])  # [CLS] and [SEP] are at no character
        numbers[barred | np.isin(numbers, numbers[inside])] = -1
        return numbers


def _find_words(text: str, words: Sequence[str]) -> NDArray[np.int64]:
    """int64 [characters + 1]: the number of the word at each character; −1 at white space."""
    numbers = np.full(len(text) + 1, -1, np.int64)
    end = 0
    for number, word in enumerate(words):
        if not isinstance(word, str):
            raise InputError("segmenter", f"{show(text)}: expected words that are strings; found {show(word)}")
        start = text.find(word, end)
        if start < 0 or text[end:start].strip():
            raise InputError(
                "segmenter", f"{show(text)}: expected the text after {show(text[:end])}; found {show(word)}"
            )
        end = start + len(word)
        numbers[start:end] = number
    if text[end:].strip():
        raise InputError("segmenter", f"{show(text)}: no word covers {show(text[end:])}")
    return numbers


def _open_jieba() -> Segmenter:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jieba 0.42 has escapes that Python 3.12 warns of
            import jieba
    except ImportError:
        raise InputError("`segmenter`", "jieba is missing: pip install 'yizhi[training]'") from None
    jieba.setLogLevel(logging.WARNING)
    return jieba.lcut

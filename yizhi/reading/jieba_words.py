"""RoFormer's words: jieba cuts a text into them before WordPiece. No `tokenizer.json` can hold this step."""

from collections.abc import Collection
from typing import Any

from tokenizers import NormalizedString, PreTokenizedString, Tokenizer, normalizers, pre_tokenizers

from yizhi.errors import InputError


class _JiebaWords:
    """A pre-tokenizer: jieba's words that the vocabulary has, and BERT's (`JiebaPreTokenizer` of transformers)."""

    def __init__(self, rjieba: Any, vocab: Collection[str]) -> None:
        self._rjieba = rjieba
        self._vocab = vocab
        self._apart = normalizers.BertNormalizer(
            clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False
        )

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        """Cut a text in place; called by the library."""
        text.split(self._cut)

    def _cut(self, index: int, text: NormalizedString) -> list[NormalizedString]:
        found = []
        for word, begin, end in self._rjieba.tokenize(str(text), hmm=False):
            if word in self._vocab:
                found.append(text[begin:end])
                continue
            for part in self._apart.normalize_str(word).split():
                found.append(text[begin : begin + len(part)])
                begin += len(part)
        return found


def cut_by_jieba(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, changed in place to cut a text into jieba's words first. Raises InputError without rjieba."""
    try:
        import rjieba
    except ImportError:
        raise InputError(
            "tokenizer",
            "RoFormerTokenizer cuts text into words with rjieba, which is missing: pip install 'yizhi[roformer]'",
        ) from None
    words = _JiebaWords(rjieba, tokenizer.get_vocab(with_added_tokens=True))
    tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(words)
    return tokenizer

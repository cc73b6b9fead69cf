"""Texts to the inputs of one artifact, with the ids that transformers' BertTokenizer gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from converters.checkpoint import read_vocab
from converters.config import EncoderConfig
from converters.errors import InputError, show
from converters.tokenizer_files import build_tokenizer, read_tokenizer_settings
from runtimes.base import Inputs

Text = str | tuple[str, str]


@dataclass(frozen=True)
class Encoded:
    """A batch of tokenized texts, padded on the right to the longest.

    tokens: each text's tokens, without padding.
    offsets: int64 [B, T, 2], the first and the last-plus-one character of each token in its own text;
        0, 0 for special tokens and padding. In a pair, `inputs.token_type_ids` says which text.
    """

    inputs: Inputs
    tokens: list[list[str]]
    offsets: NDArray[np.int64]


class Tokenizer:
    """The tokenizer of an artifact: its `vocab.txt` and `tokenizer_config.json`.

    The artifact's `tokenizer.json` says the same for other programs. Thread-safe.
    """

    def __init__(self, vocab: list[str], settings: dict[str, bool | None], max_length: int) -> None:
        self.vocab = vocab
        self.max_length = max_length
        self.mask_id = vocab.index("[MASK]")
        self._tokenizer = build_tokenizer(vocab, settings)
        self._tokenizer.enable_padding(pad_id=vocab.index("[PAD]"), pad_token="[PAD]")

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open an artifact's or a checkpoint's folder.

        Raises InputError where `config.json`, `vocab.txt` or `tokenizer_config.json` cannot be used.
        """
        folder = Path(folder)
        config = EncoderConfig.read(folder / "config.json")
        vocab = read_vocab(folder / "vocab.txt")
        if len(vocab) != config.vocab_size:
            raise InputError(folder / "vocab.txt", f"expected {config.vocab_size} lines; found {len(vocab)}")
        return cls(vocab, read_tokenizer_settings(folder), config.max_position_embeddings)

    def encode(self, texts: Sequence[Text]) -> Encoded:
        """Tokenize texts, or pairs of texts: `[CLS] text [SEP]`, or `[CLS] first [SEP] second [SEP]`.

        Nothing is cut. Raises InputError naming each text that the model is too short for.
        """
        texts = _check_texts(texts)
        encodings = self._tokenizer.encode_batch(texts)
        lengths = [sum(encoding.attention_mask) for encoding in encodings]
        faults = [
            f"{_name(texts, index)}: expected at most {self.max_length} tokens with [CLS] and [SEP]; found {length}"
            for index, length in enumerate(lengths)
            if length > self.max_length
        ]
        if faults:
            raise InputError("texts", faults)
        return Encoded(
            inputs=Inputs.of(
                input_ids=[encoding.ids for encoding in encodings],
                attention_mask=[encoding.attention_mask for encoding in encodings],
                token_type_ids=[encoding.type_ids for encoding in encodings],
            ),
            tokens=[encoding.tokens[:length] for encoding, length in zip(encodings, lengths, strict=True)],
            offsets=np.array([encoding.offsets for encoding in encodings], np.int64),
        )


def _check_texts(texts: Sequence[Text]) -> list[Text]:
    """Raise InputError, naming each, for what the tokenizer would choke on."""
    if isinstance(texts, str) or not texts:
        raise InputError("texts", f"expected a list of texts or of pairs of texts; found {show(texts)}")
    faults = []
    for index, text in enumerate(texts):
        parts = text if isinstance(text, tuple) and len(text) == 2 else (text,)
        if not all(isinstance(part, str) for part in parts):
            faults.append(f"{_name(texts, index)}: expected a text or a pair of texts; found {show(text)}")
        elif any("\ud800" <= char <= "\udfff" for part in parts for char in part):
            faults.append(f"{_name(texts, index)}: holds half of a surrogate pair, which is no character: {show(text)}")
    if faults:
        raise InputError("texts", faults)
    return list(texts)


def _name(texts: Sequence[Text], index: int) -> str:
    """How a message calls one of several texts, counting from 1."""
    return f"text {index + 1} of {len(texts)}" if len(texts) > 1 else "the text"

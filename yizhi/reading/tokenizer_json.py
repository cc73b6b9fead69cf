"""`tokenizer.json`, written here: the library's own writer prints to standard output where an id has no token."""

import json
from typing import Any

from tokenizers import Tokenizer


def unreachable(index: int) -> str:
    """An entry for an id that no token has. Words hold no space, so no text becomes it."""
    return f"[no token {index}]"


def serialize(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `tokenizer.json` says of a WordPiece tokenizer, without truncation and padding."""
    model = tokenizer.model
    parts = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    found = {part: getattr(tokenizer, part) for part in parts}
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": token.content, **{flag: getattr(token, flag) for flag in flags}}
            for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
        ],
        **{part: None if value is None else json.loads(value.__getstate__()) for part, value in found.items()},
        "model": {
            "type": "WordPiece",
            "unk_token": model.unk_token,
            "continuing_subword_prefix": model.continuing_subword_prefix,
            "max_input_chars_per_word": model.max_input_chars_per_word,
            "vocab": tokenizer.get_vocab(with_added_tokens=False),
        },
    }


def complete_vocabulary(whole: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, with an entry that no text reaches for each id without a token.

    So `vocab.txt` has a line for each id, and every reader gives added tokens the ids that they have.
    """
    vocab = dict(whole["model"]["vocab"])
    taken = {*vocab.values(), *(token["id"] for token in whole["added_tokens"])}
    vocab |= {unreachable(index): index for index in range(max(taken)) if index not in taken}
    vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
    return Tokenizer.from_str(json.dumps({**whole, "model": {**whole["model"], "vocab": vocab}}))

"""The tokenizer files that travel in every artifact, made from `vocab.txt` and `tokenizer_config.json`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from converters.config import read_json_object
from converters.errors import InputError

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# BertTokenizer's defaults. Lower-casing is its default too, also for Chinese models.
_DEFAULTS: dict[str, Any] = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}


def tokenizer_files(checkpoint: "Checkpoint") -> dict[str, str]:
    """File name -> text of `vocab.txt`, `tokenizer.json` and `tokenizer_config.json`."""
    settings = read_tokenizer_settings(checkpoint.folder)
    config = {
        **settings,
        "tokenizer_class": "BertTokenizer",
        "model_max_length": checkpoint.config.max_position_embeddings,
        **{f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS},
    }
    return {
        "vocab.txt": "\n".join(checkpoint.vocab) + "\n",
        "tokenizer.json": build_tokenizer(checkpoint.vocab, settings).to_str(),
        "tokenizer_config.json": json.dumps(config, indent=2, sort_keys=True) + "\n",
    }


def read_tokenizer_settings(folder: Path) -> dict[str, Any]:
    """`do_lower_case`, `strip_accents` and `tokenize_chinese_chars`; BertTokenizer's defaults where unsaid.

    Raises InputError for a value that is not a boolean.
    """
    path = folder / "tokenizer_config.json"
    raw = read_json_object(path) if path.exists() else {}
    settings = {key: raw.get(key, default) for key, default in _DEFAULTS.items()}
    faults = [
        f"{key}: expected true or false; found {value!r}"
        for key, value in settings.items()
        if not isinstance(value, bool) and not (key == "strip_accents" and value is None)
    ]
    if faults:
        raise InputError(path, faults)
    return settings


def build_tokenizer(vocab: list[str], settings: dict[str, Any]) -> Tokenizer:
    """A fast tokenizer that gives the ids of transformers' BertTokenizer."""
    ids = {token: index for index, token in enumerate(vocab)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings["tokenize_chinese_chars"],
        strip_accents=settings["strip_accents"],
        lowercase=settings["do_lower_case"],
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    return tokenizer

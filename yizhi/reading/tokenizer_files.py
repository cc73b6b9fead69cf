"""The tokenizer files that travel in every artifact, made from `vocab.txt` and `tokenizer_config.json`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from yizhi.errors import InputError, show
from yizhi.storage.json_files import read_json_object

if TYPE_CHECKING:
    from yizhi.reading.checkpoint import Checkpoint

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# BertTokenizer's defaults. Lower-casing is its default too, also for Chinese models.
_DEFAULTS: dict[str, Any] = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
_TOKENIZER_CLASSES = tuple(f"{family}Tokenizer{suffix}" for family in ("Bert", "Electra") for suffix in ("", "Fast"))

# What BasicTokenizer removes: control, format, private and unassigned characters, and U+FFFD; not tab and line ends.
_CONTROL = "[^\\P{C}\\t\\n\\r]|\ufffd"
# What it makes a token of its own, inside square brackets: all ASCII that is neither letter, digit nor space, Unicode
# punctuation, and the blocks of Han characters. Escapes are those that every regular-expression engine shares.
_PUNCTUATION = r"!-/:-@\[-`{-~\p{P}"
_CHINESE = "".join(
    f"{chr(first)}-{chr(last)}"
    for first, last in (
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F),
        (0x2B820, 0x2CEAF),
        (0xF900, 0xFAFF),
        (0x2F800, 0x2FA1F),
    )
)


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

    Raises InputError, listing every fault, for a value that is not a boolean, and for a tokenizer that
    is not BertTokenizer as it comes: its ids would silently be other ids.
    """
    path = folder / "tokenizer_config.json"
    raw = read_json_object(path) if path.exists() else {}
    settings = {key: raw.get(key, default) for key, default in _DEFAULTS.items()}
    faults = [
        f"{key}: expected true or false; found {show(value)}"
        for key, value in settings.items()
        if not isinstance(value, bool) and not (key == "strip_accents" and value is None)
    ]
    faults += _find_other_tokenizers(raw)
    if faults:
        raise InputError(path, faults)
    return settings


def _find_other_tokenizers(raw: dict[str, Any]) -> list[str]:
    """What makes BertTokenizer give other ids than `build_tokenizer` does."""
    faults = []
    if raw.get("tokenizer_class") not in (None, *_TOKENIZER_CLASSES):
        known = ", ".join(_TOKENIZER_CLASSES)
        faults.append(f"tokenizer_class: expected one of {known}; found {show(raw['tokenizer_class'])}")
    for key, usual in {"do_basic_tokenize": True, "never_split": None, "additional_special_tokens": None}.items():
        if raw.get(key, usual) != usual and raw[key] != []:
            faults.append(f"{key}: not supported; found {show(raw[key])}")
    for token in SPECIAL_TOKENS:
        key = f"{token[1:-1].lower()}_token"
        if _content(raw.get(key, token)) != token:
            faults.append(f"{key}: expected {token}; found {show(raw[key])}")
    added = raw.get("added_tokens_decoder", {})
    for entry in added.values() if isinstance(added, dict) else [added]:
        if _content(entry) not in SPECIAL_TOKENS:
            faults.append(f"added_tokens_decoder: tokens beyond the vocabulary are not supported; found {show(entry)}")
    return faults


def _content(token: object) -> object:
    """A token's text; files hold it bare, or in an object that may also ask for spaces around it to be dropped."""
    if isinstance(token, dict) and not any(token.get(key) for key in ("lstrip", "rstrip", "single_word")):
        return token.get("content")
    return token


def build_tokenizer(vocab: list[str], settings: dict[str, Any]) -> Tokenizer:
    """A fast tokenizer that gives the ids of transformers' BertTokenizer.

    Its normalizer and pre-tokenizer spell out the steps of BertTokenizer's BasicTokenizer, in its order.
    The ready-made BertNormalizer and BertPreTokenizer differ: no NFC, no CJK extension E below U+2B920,
    and categories of Unicode 8.
    """
    ids = {token: index for index, token in enumerate(vocab)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    lower, strip_accents = settings["do_lower_case"], settings["strip_accents"]
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if lower else []
    steps += [normalizers.Replace(Regex(_CONTROL), ""), normalizers.NFC()]
    if strip_accents or (lower and strip_accents is None):
        steps += [normalizers.NFD(), normalizers.Replace(Regex(r"\p{Mn}"), "")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    alone = _PUNCTUATION + (_CHINESE if settings["tokenize_chinese_chars"] else "")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(f"[{alone}]"), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    return tokenizer

"""The files of a folder that say how its text becomes ids, read and checked, not yet interpreted.

`vocab.txt`, `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, as
transformers writes them; what they mean together is `auto_tokenizer.py`'s.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from yizhi.errors import InputError, collect_faults, show
from yizhi.reading.tokenizer_json import serialize, unreachable
from yizhi.storage.json_files import read_json_object

VOCAB, TOKENIZER = "vocab.txt", "tokenizer.json"
SETTINGS, SPECIAL_TOKENS_MAP, ADDED_TOKENS = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
TOKENIZER_FILES = (VOCAB, TOKENIZER, SETTINGS, SPECIAL_TOKENS_MAP, ADDED_TOKENS)

# Classes that rebuild BERT's tokenizer from vocabulary and settings, and those that take `tokenizer.json` as it is.
BERT_CLASSES = tuple(f"{family}Tokenizer{suffix}" for family in ("Bert", "Electra") for suffix in ("", "Fast"))
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# The special tokens with names of their own, in the order in which transformers adds them.
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SWITCHES = ("do_lower_case", "tokenize_chinese_chars", "split_special_tokens")
# Ids are 32 bits wide in the library.
_HIGHEST = 2**31
_SIDES = ("truncation_side", "padding_side")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


@dataclass(frozen=True)
class TokenizerSources:
    """settings, special_map, added: of the three JSON files; empty where there is none.

    saved: `tokenizer.json`, checked to be a WordPiece tokenizer. lines: `vocab.txt`'s, in id order.
    generic: whether the tokenizer's class takes `tokenizer.json` as it is. notes: what the user should know.
    """

    settings: Mapping[str, Any]
    special_map: Mapping[str, Any]
    added: Mapping[str, int]
    saved: dict[str, Any] | None
    lines: list[str] | None
    generic: bool
    notes: tuple[str, ...]


def read_sources(folder: Path, vocab: Path | None = None) -> TokenizerSources:
    """Read the tokenizer files of a folder. Raises InputError listing every fault, each under its file's name.

    vocab: a vocabulary to use instead of the folder's `vocab.txt` and `tokenizer.json`.
    """
    faults: list[str] = []
    files = {
        name: collect_faults(faults, partial(read_json_object, folder / name))
        for name in (SETTINGS, SPECIAL_TOKENS_MAP, ADDED_TOKENS)
        if (folder / name).exists()
    }
    settings, special_map, added = (files.get(name) or {} for name in (SETTINGS, SPECIAL_TOKENS_MAP, ADDED_TOKENS))
    faults += [f"{SETTINGS}: {fault}" for fault in _check_settings(settings)]
    faults += [f"{SPECIAL_TOKENS_MAP}: {fault}" for fault in _check_special_tokens(special_map)]
    faults += [
        f"{ADDED_TOKENS}: {show(token)}: expected an id; found {show(index)}"
        for token, index in added.items()
        if not _is_id(index)
    ]
    saved = None
    if vocab is None and (folder / TOKENIZER).exists():
        saved = collect_faults(faults, lambda: _read_saved(folder / TOKENIZER))
    notes: list[str] = []
    lines = None
    vocab = vocab or folder / VOCAB
    # Not needed beside tokenizer.json, and then what is wrong with it changes nothing.
    if vocab != folder / VOCAB or (vocab.exists() and not (folder / TOKENIZER).exists()):
        lines = collect_faults(faults, lambda: read_vocab(vocab, notes))
    found = _class_of(folder, settings)
    if settings.get("tokenizer_class") is None and found not in (None, *BERT_CLASSES, *GENERIC_CLASSES):
        faults.append(f"config.json: {_say_class(found)}")
    generic = found in GENERIC_CLASSES
    if not faults and saved is None and (lines is None or generic):
        faults.append(
            f"{TOKENIZER}: the file is missing; tokenizer_class in {SETTINGS} asks for it"
            if generic
            else f"{VOCAB}: the file is missing, and so is {TOKENIZER}"
        )
    if faults:
        raise InputError(folder, faults)
    return TokenizerSources(settings, special_map, added, saved, lines, generic, tuple(notes))


def read_vocab(path: Path, notes: list[str] | None = None) -> list[str]:
    """The entries of a `vocab.txt`, in id order, as transformers reads them. Raises InputError.

    Lines end in LF, CRLF or CR: two real entries hold U+2028, a line break to `str.splitlines`. A byte-order mark
    and blank lines at the end are no entries. Of an entry that appears twice the later is meant; the earlier
    becomes one that no text reaches. notes: is told of what was passed over.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(path, "the file is missing") from None
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 (byte {error.start})") from None
    notes = [] if notes is None else notes
    if text.startswith("\ufeff"):
        notes.append(f"{path.name}: begins with a byte-order mark, which is not part of its first entry")
    entries = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")
    last = {entry: index for index, entry in enumerate(entries)}
    twice = [entry for index, entry in enumerate(entries) if last[entry] != index]
    if twice:
        notes.append(
            f"{path.name}: {len(twice)} entries appear again, first {show(twice[0])}; the last of each is used, as by "
            "transformers"
        )
    return [entry if last[entry] == index else unreachable(index) for index, entry in enumerate(entries)]


def _class_of(folder: Path, settings: Mapping[str, Any]) -> object:
    """The tokenizer's class; None where neither file names one."""
    if settings.get("tokenizer_class") is not None or not (folder / "config.json").exists():
        return settings.get("tokenizer_class")
    try:
        return read_json_object(folder / "config.json").get("tokenizer_class")
    except InputError:  # told by whoever reads the configuration
        return None


def _say_class(found: object) -> str:
    known = ", ".join((*BERT_CLASSES, *GENERIC_CLASSES))
    return f"tokenizer_class: expected one of {known}; found {show(found)}"


def _check_settings(settings: Mapping[str, Any]) -> list[str]:
    """What `tokenizer_config.json` may not say: values of another kind, and what would silently give other ids."""
    faults = [
        f"{key}: expected true or false; found {show(settings[key])}"
        for key in _SWITCHES
        if not isinstance(settings.get(key, True), bool)
    ]
    if not isinstance(settings.get("strip_accents"), bool | None):
        faults.append(f"strip_accents: expected true, false or null; found {show(settings['strip_accents'])}")
    if settings.get("tokenizer_class") not in (None, *BERT_CLASSES, *GENERIC_CLASSES):
        faults.append(_say_class(settings["tokenizer_class"]))
    for key, usual in {"do_basic_tokenize": True, "never_split": None, "init_inputs": None}.items():
        if settings.get(key, usual) != usual and settings[key] != []:
            faults.append(f"{key}: not supported; found {show(settings[key])}")
    given = settings.get("model_input_names", ["token_type_ids"])
    if not isinstance(given, list) or "token_type_ids" not in given:
        faults.append(
            f"model_input_names: expected token_type_ids among them; found {show(given)}: transformers would give the "
            "second text of a pair no type of its own"
        )
    for key in _SIDES:
        if settings.get(key, "right") not in ("left", "right"):
            faults.append(f"{key}: expected left or right; found {show(settings[key])}")
    length = settings.get("model_max_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | float) or length < 1):
        faults.append(f"model_max_length: expected a number of tokens; found {show(length)}")
    faults += [
        f"{key}: is a Japanese tokenizer's; found {show(settings[key])}"
        for key in ("word_tokenizer_type", "subword_tokenizer_type")
        if settings.get(key)
    ]
    faults += _check_special_tokens(settings)
    decoder = settings.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict):
        return [*faults, f"added_tokens_decoder: expected an object of id to token; found {show(decoder)}"]
    for index, entry in decoder.items():
        if not (index.isdecimal() and len(index) < 10) or not _is_token_object(entry):
            faults.append(f"added_tokens_decoder: {show(index)}: expected a token; found {show(entry)}")
    return faults


def _check_special_tokens(values: Mapping[str, Any]) -> list[str]:
    faults = []
    for key in NAMED_TOKENS:
        value = values.get(key)
        if value is not None and not isinstance(value, str) and not _is_token_object(value):
            faults.append(f"{key}: expected a token; found {show(value)}")
    for key in ("additional_special_tokens", "extra_special_tokens"):
        value = values.get(key)
        if value in (None, {}):
            continue
        if isinstance(value, dict):
            faults.append(f"{key}: tokens with names of their own are not supported; found {show(value)}")
        elif not isinstance(value, list) or not all(isinstance(t, str) or _is_token_object(t) for t in value):
            faults.append(f"{key}: expected a list of tokens; found {show(value)}")
    return faults


def _is_token_object(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("content"), str)
        and all(isinstance(value.get(flag, False), bool) for flag in _FLAGS)
        and set(value) <= {"content", "__type", *_FLAGS}
    )


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _HIGHEST


def _read_saved(path: Path) -> dict[str, Any]:
    """`tokenizer.json` as the library understands it, which must hold a WordPiece tokenizer. Raises InputError."""
    text = json.dumps(read_json_object(path))
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # noqa: BLE001  the library raises nothing narrower
        raise InputError(path, f"is not a tokenizer: {str(error).partition(chr(10))[0]}") from None
    if not isinstance(tokenizer.model, WordPiece):
        raise InputError(path, f"model: expected WordPiece; found {type(tokenizer.model).__name__}")
    saved = serialize(tokenizer)
    ids = saved["model"]["vocab"].values()
    faults = _check_frame(saved["post_processor"])
    prefix = saved["model"]["continuing_subword_prefix"]
    if prefix != "##":  # by which words are told apart where they are tagged
        faults.append(f"model: continuing_subword_prefix: expected '##'; found {show(prefix)}")
    if not ids:
        faults.append("model: its vocabulary is empty")
    elif len(ids) * 2 < max(ids):
        faults.append(f"model: has the id {max(ids)}, but only {len(ids)} tokens")
    if faults:
        raise InputError(path, faults)
    return {**saved, "truncation": tokenizer.truncation, "padding": tokenizer.padding}


def _check_frame(found: Mapping[str, Any] | None) -> list[str]:
    """Why a post-processor frames no text as BERT does, or would break the library."""
    if found is None or found["type"] == "BertProcessing":
        return []
    if found["type"] != "TemplateProcessing":
        return [f"post_processor: expected TemplateProcessing; found {show(found['type'])}"]
    pieces = [piece["SpecialToken"]["id"] for piece in (*found["single"], *found["pair"]) if "SpecialToken" in piece]
    unknown = sorted(set(pieces) - found["special_tokens"].keys())
    return [f"post_processor: has no ids of {', '.join(map(show, unknown))}"] if unknown else []

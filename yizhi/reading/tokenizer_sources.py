"""The files of a folder that say how its text becomes ids, read and checked, not yet interpreted.

`tokenizer.json`, `vocab.txt`, `sentencepiece.bpe.model`, `vocab.json` and `merges.txt`, with `tokenizer_config.json`,
`special_tokens_map.json` and `added_tokens.json`, as transformers writes them. `auto_tokenizer.py`
interprets them together.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from yizhi.errors import InputError, collect_faults, show
from yizhi.reading.other_vocabularies import (
    BPE_VOCAB,
    MERGES,
    PROBES,
    SENTENCEPIECE,
    read_merges,
    read_sentencepiece,
)
from yizhi.reading.tokenizer_classes import CLASSES, NAMED_TOKENS, TokenizerClass, class_of_model, needed_tokens
from yizhi.reading.tokenizer_json import (
    BPE,
    MODELS,
    UNIGRAM,
    WORDPIECE,
    describe_parts,
    find_unusable_parts,
    kind_of,
    members,
    serialize,
    try_out,
    unreachable,
)
from yizhi.storage.json_files import read_json_object

VOCAB, TOKENIZER = "vocab.txt", "tokenizer.json"
SETTINGS, SPECIAL_TOKENS_MAP, ADDED_TOKENS = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
TOKENIZER_FILES = (
    *(VOCAB, TOKENIZER, SENTENCEPIECE, BPE_VOCAB, MERGES),
    *(SETTINGS, SPECIAL_TOKENS_MAP, ADDED_TOKENS),
)
_SWITCHES = ("do_lower_case", "tokenize_chinese_chars", "split_special_tokens", "add_prefix_space", "trim_offsets")
# Ids are 32 bits wide in the library.
_HIGHEST = 2**31
_SIDES = ("truncation_side", "padding_side")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


@dataclass(frozen=True)
class TokenizerSources:
    """settings, special_map, added: of the three JSON files; empty where there is none.

    saved: `tokenizer.json`, checked, or what the files of another format say; opened: the same as a tokenizer, since
    parsing a large one takes a second. lines: `vocab.txt`'s, in id order.
    kind: the tokenizer's class, `name`. needed: the special tokens that it must have. notes: lines for the user.
    """

    settings: Mapping[str, Any]
    special_map: Mapping[str, Any]
    added: Mapping[str, int]
    saved: dict[str, Any] | None
    opened: Tokenizer | None
    lines: list[str] | None
    name: str
    kind: TokenizerClass
    needed: tuple[str, ...]
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
    faults += [f"{SETTINGS}: {fault}" for fault in check_settings(settings)]
    faults += [f"{SPECIAL_TOKENS_MAP}: {fault}" for fault in _check_special_tokens(special_map)]
    faults += [
        f"{ADDED_TOKENS}: {show(token)}: expected an id; found {show(index)}"
        for token, index in added.items()
        if not _is_id(index)
    ]
    notes: list[str] = []
    name, needed = _class_of(folder, settings, faults, given=vocab is not None)
    kind = CLASSES[name]
    found = None
    if vocab is None and (folder / TOKENIZER).exists():
        found = collect_faults(faults, lambda: _read_saved(folder / TOKENIZER, kind))
    elif vocab is None and kind.takes_json:
        found = collect_faults(faults, lambda: _build_saved(folder, name, bool(settings.get("add_prefix_space"))))
    saved, opened = found or (None, None)
    lines = None
    vocab = vocab or folder / VOCAB
    # Not needed beside tokenizer.json, and then what is wrong with it changes nothing.
    if vocab != folder / VOCAB or (vocab.exists() and not (folder / TOKENIZER).exists()):
        lines = collect_faults(faults, lambda: read_vocab(vocab, notes))
    if not faults and saved is None and (lines is None or kind.takes_json):
        faults.append(
            f"{TOKENIZER}: the file is missing; tokenizer_class {name} needs it"
            if kind.takes_json
            else f"{VOCAB}: the file is missing, and so is {TOKENIZER}"
        )
    if faults:
        raise InputError(folder, faults)
    return TokenizerSources(settings, special_map, added, saved, opened, lines, name, kind, needed, tuple(notes))


def read_vocab(path: Path, notes: list[str] | None = None) -> list[str]:
    """The entries of a `vocab.txt`, in id order, as transformers reads them. Raises InputError.

    Lines end in LF, CRLF or CR: two real entries hold U+2028, a line break to `str.splitlines`. A byte-order mark
    and blank lines at the end are no entries. Of an entry that appears twice, the later counts; the earlier
    becomes an entry that no text reaches. notes: gets a line for the repeated entries.
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


def _class_of(folder: Path, settings: Mapping[str, Any], faults: list[str], given: bool) -> tuple[str, tuple[str, ...]]:
    """The name of the tokenizer's class, and the special tokens that it must have.

    given: whether the vocabulary is, in place of what the folder has.
    """
    named, file, model_type = settings.get("tokenizer_class"), SETTINGS, None
    if (folder / "config.json").exists():
        try:
            config = read_json_object(folder / "config.json")
        except InputError:  # told by whoever reads the configuration
            config = {}
        model_type = config.get("model_type")
        if named is None:
            named, file = config.get("tokenizer_class"), "config.json"
    needed = needed_tokens(model_type)
    if named is None:
        found = class_of_model(model_type)
        # A BERT vocabulary alone, which a family with another tokenizer may have been trained with.
        has_json = any((folder / name).exists() for name in (TOKENIZER, SENTENCEPIECE, BPE_VOCAB))
        return (found if (has_json and not given) or not CLASSES[found].takes_json else class_of_model(None)), needed
    if not isinstance(named, str) or named not in CLASSES:
        faults.append(f"{file}: tokenizer_class: expected one of {', '.join(CLASSES)}; found {show(named)}")
        return class_of_model(None), needed
    return named, needed


def check_settings(settings: Mapping[str, Any]) -> list[str]:
    """What `tokenizer_config.json` may not say: values of another kind, and what would silently give other ids."""
    faults = [
        f"{key}: expected true or false; found {show(settings[key])}"
        for key in _SWITCHES
        if not isinstance(settings.get(key, True), bool)
    ]
    if not isinstance(settings.get("strip_accents"), bool | None):
        faults.append(f"strip_accents: expected true, false or null; found {show(settings['strip_accents'])}")
    for key, usual in {"do_basic_tokenize": True, "never_split": None, "init_inputs": None}.items():
        if settings.get(key, usual) != usual and settings[key] != []:
            faults.append(f"{key}: not supported; found {show(settings[key])}")
    given = settings.get("model_input_names", ["input_ids"])
    if not isinstance(given, list) or "input_ids" not in given:
        faults.append(f"model_input_names: expected a list with input_ids; found {show(given)}")
    for key in _SIDES:
        if settings.get(key, "right") not in ("left", "right"):
            faults.append(f"{key}: expected left or right; found {show(settings[key])}")
    for key in ("model_max_length", "max_len"):
        length = settings.get(key)
        if length is not None and (isinstance(length, bool) or not isinstance(length, int | float) or length < 1):
            faults.append(f"{key}: expected a number of tokens; found {show(length)}")
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


def _read_saved(path: Path, kind: TokenizerClass) -> tuple[dict[str, Any], Tokenizer]:
    """`tokenizer.json` as the library understands it. Raises InputError, naming each part that cannot be used."""
    content = read_json_object(path)
    faults = find_unusable_parts(content)
    if faults:
        raise InputError(path, faults)
    try:
        tokenizer = try_out(lambda: Tokenizer.from_buffer(path.read_bytes()))
    except ValueError as error:
        raise InputError(path, f"is not a tokenizer: {error}") from None
    expected = MODELS if kind.takes_json else (WORDPIECE,)
    if kind_of(tokenizer) not in expected:
        raise InputError(path, f"model: expected {' or '.join(expected)}; found {kind_of(tokenizer)}")
    parts = describe_parts(tokenizer)
    model = serialize(tokenizer)["model"] if kind_of(tokenizer) == WORDPIECE else content["model"]
    faults = _check_frame(parts["post_processor"], kind) + _check_model(kind_of(tokenizer), model)
    if faults:
        raise InputError(path, faults)
    baked = {"truncation": tokenizer.truncation, "padding": tokenizer.padding}
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        try_out(lambda: tokenizer.encode_batch([*PROBES, ("x", "x")]))
    except ValueError as error:
        raise InputError(path, f"its tokenizer reads no text: {error}") from None
    return {**parts, "model": model, **baked}, tokenizer


def _build_saved(folder: Path, name: str, add_prefix_space: bool) -> tuple[dict[str, Any], Tokenizer] | None:
    """The same of a class's other files, where there is no `tokenizer.json`; None without these."""
    if name.startswith("XLMRoberta") and (folder / SENTENCEPIECE).exists():
        tokenizer = read_sentencepiece(folder / SENTENCEPIECE)
    elif name.startswith("Roberta") and (folder / BPE_VOCAB).exists():
        tokenizer = read_merges(folder, add_prefix_space)
    else:
        return None
    return {**describe_parts(tokenizer), "model": {}}, tokenizer


def _check_model(kind: str, model: Mapping[str, Any]) -> list[str]:
    """What a model may not be: without tokens, with ids that none has, or by chance."""
    ids = range(len(model["vocab"])) if kind == UNIGRAM else model["vocab"].values()
    faults = []
    if not ids:
        faults.append("model: its vocabulary is empty")
    elif kind == WORDPIECE and len(ids) * 2 < max(ids):
        faults.append(f"model: has the id {max(ids)}, but only {len(ids)} tokens")
    elif kind == BPE and sorted(ids) != list(range(len(ids))):
        faults.append(f"model: expected one token for each id to {max(ids)}; found {len(ids)} tokens")
    prefix = model.get("continuing_subword_prefix")
    if kind == WORDPIECE and prefix != "##":  # by which words are told apart where they are tagged
        faults.append(f"model: continuing_subword_prefix: expected '##'; found {show(prefix)}")
    if kind == UNIGRAM:
        pieces = [piece for piece, _ in model["vocab"]]
        if len(set(pieces)) < len(pieces):
            twice = next(piece for piece, count in Counter(pieces).items() if count > 1)
            faults.append(f"model: expected each piece once; found {show(twice)} again")
    if kind == UNIGRAM and model.get("unk_id") is None:
        faults.append("model: unk_id: expected an id; found None: a text with a rare character would have no ids")
    if model.get("dropout"):
        faults.append(f"model: dropout: expected none; found {show(model['dropout'])}: ids would be left to chance")
    return faults


def _check_frame(found: Mapping[str, Any] | None, kind: TokenizerClass) -> list[str]:
    """Why a post-processor frames no text, or would break the library."""
    faults = []
    for part in members(found):
        if part["type"] == "TemplateProcessing":
            frames = (*part["single"], *part["pair"])
            pieces = {piece["SpecialToken"]["id"] for piece in frames if "SpecialToken" in piece}
            unknown = sorted(pieces - part["special_tokens"].keys())
            faults += [f"post_processor: has no ids of {', '.join(map(show, unknown))}"] if unknown else []
        elif part["type"] != "BertProcessing" and not kind.takes_json:
            faults.append(f"post_processor: expected TemplateProcessing; found {show(part['type'])}")
    return faults

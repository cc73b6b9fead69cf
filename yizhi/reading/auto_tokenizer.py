"""How a folder's text becomes ids: what transformers' AutoTokenizer gives by default, without transformers.

Versions 4 and 5 of transformers read some folders differently, silently. Both readings are written out here, after
`BertTokenizerFast`, `PreTrainedTokenizerFast` and `PreTrainedTokenizerBase._from_pretrained` of 4.57 and
`BertTokenizer`, `TokenizersBackend` and `PreTrainedTokenizerBase._from_pretrained` of 5. A folder that both read
alike, or that only one of them reads, is taken; any other is refused.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from yizhi.errors import InputError, show
from yizhi.reading.tokenizer_files import TextTokenizer
from yizhi.reading.tokenizer_json import complete_vocabulary, serialize, unreachable
from yizhi.reading.tokenizer_sources import (
    ADDED_TOKENS,
    NAMED_TOKENS,
    SETTINGS,
    SPECIAL_TOKENS_MAP,
    TOKENIZER,
    TokenizerSources,
    read_sources,
)

Token: TypeAlias = str | AddedToken
# BertTokenizer's names for its special tokens, where the files have none.
_BERT_TOKENS = {name: f"[{name.removesuffix('_token').upper()}]" for name in NAMED_TOKENS[2:]}
# Texts that tell tokenizers apart, for an error to show.
_PROBES = (
    "北京是中国的首都。",
    "Hello World",
    "Ｆｕｌｌ　ｗｉｄｔｈ　①㍿",
    "Café naïve e\u0301",
    "a\u200bb\u0007c\ufeff",
    "中a文[MASK]b",
)


class _Unreadable(Exception):
    """That a version of transformers fails on these files."""


class _Ambiguous(Exception):
    """That releases of the tokenizers library differ on these files."""


@dataclass
class _Reading:
    """What one version makes of the files.

    named, more: special tokens with and without a name. sought: each added token that is looked for in normalised
    text, as it is spelled there.
    """

    tokenizer: Tokenizer
    named: dict[str, Token]
    more: list[Token]
    sought: dict[str, str] = field(default_factory=dict)


def read_tokenizer(folder: Path, vocab: Path | None = None) -> TextTokenizer:
    """The tokenizer of a checkpoint's or an artifact's folder.

    vocab: a vocabulary to use instead of the folder's `vocab.txt` and `tokenizer.json`.
    Raises InputError listing every fault: files that cannot be used, special tokens that the vocabulary lacks, a
    folder that transformers 4 and 5 read differently.
    """
    sources = read_sources(folder, vocab)
    readings: list[_Reading] = []
    failures: list[str] = []
    for version, read in ((4, _read_as_version_4), (5, _read_as_version_5)):
        try:
            readings.append(read(sources))
        except _Ambiguous as error:
            raise InputError(folder, str(error)) from None
        except _Unreadable as error:
            failures.append(f"transformers {version} cannot read its tokenizer: {error}")
    if not readings:
        raise InputError(folder, failures)
    for reading in readings:
        reading.tokenizer.no_padding()
        reading.tokenizer.no_truncation()
        faults = _find_missing(reading)
        if faults:
            raise InputError(folder, faults)
    _check_agreement(folder, readings)
    return _conclude(folder, sources, readings[0])


def _read_as_version_4(sources: TokenizerSources) -> _Reading:
    """Version 4: `tokenizer.json` as it is, but for the settings of a BertNormalizer; else BERT's from `vocab.txt`."""
    if isinstance(sources.settings.get("extra_special_tokens"), list):
        raise _Unreadable("extra_special_tokens is a list, as version 5 writes it")
    named, more, decoder = _special_tokens(sources, 4)
    if sources.saved is None:
        reading = _Reading(_build_bert(_vocab_of(sources.lines or []), sources.settings, named), named, more)
        _add_tokens(reading, decoder, 4)
        # The ids of the framing tokens are those that the slow tokenizer looks up: added tokens first.
        _set_frame(reading, {token.content: index for index, token in decoder.items()})
        return _note_sought(reading, reading.tokenizer.normalizer)
    reading = _Reading(_open_saved(sources), named, more)
    _add_tokens(reading, decoder, 4)
    before = reading.tokenizer.normalizer
    if not sources.generic:
        if before is None:
            raise _Unreadable("tokenizer.json has no normalizer")
        state = json.loads(before.__getstate__())
        wanted = _normalizer_settings(sources.settings)
        if any(state.get(key, value) != value for key, value in wanted.items()):
            reading.tokenizer.normalizer = normalizers.BertNormalizer(
                **{"clean_text": True, **{key: value for key, value in state.items() if key != "type"}, **wanted}
            )
    # Added tokens were normalised when they were added, before the settings were applied.
    return _note_sought(reading, before)


def _read_as_version_5(sources: TokenizerSources) -> _Reading:
    """Version 5: `tokenizer.json` as it is for the generic classes; else BERT's rules over its vocabulary."""
    named, more, decoder = _special_tokens(sources, 5)
    if sources.generic:
        reading = _Reading(_open_saved(sources), named, more)
        _add_tokens(reading, decoder, 5)
        return _note_sought(reading, reading.tokenizer.normalizer)
    # The library reads vocab.txt, and drops what Unicode calls white space at the end of a line.
    vocab = sources.saved["model"]["vocab"] if sources.saved else _vocab_of(map(str.rstrip, sources.lines or []))
    reading = _Reading(_build_bert(vocab, sources.settings, named), named, more)
    _add_tokens(reading, decoder, 5)
    _set_frame(reading, {})
    return _note_sought(reading, reading.tokenizer.normalizer)


def _open_saved(sources: TokenizerSources) -> Tokenizer:
    return Tokenizer.from_str(json.dumps({**(sources.saved or {}), "truncation": None, "padding": None}))


def _vocab_of(lines: Iterable[str]) -> dict[str, int]:
    # The library numbers added tokens from the count of entries, so an id that no entry has stays free.
    return {entry: index for index, entry in enumerate(lines) if entry != unreachable(index)}


def _normalizer_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "lowercase": settings.get("do_lower_case", True),
        "strip_accents": settings.get("strip_accents"),
        "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
    }


def _build_bert(vocab: dict[str, int], settings: Mapping[str, Any], named: Mapping[str, Token]) -> Tokenizer:
    """BERT's tokenizer over a vocabulary, without its frame of special tokens."""
    tokenizer = Tokenizer(WordPiece(vocab, unk_token=_text(named["unk_token"]), max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True, **_normalizer_settings(settings))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _set_frame(reading: _Reading, ids: Mapping[str, int]) -> None:
    """`[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`. ids: of the special tokens, where not the vocabulary's."""
    cls, sep = _text(reading.named["cls_token"]), _text(reading.named["sep_token"])
    if any(char in "$:" or char.isspace() for char in cls + sep):
        raise _Unreadable(f"{show(cls)} and {show(sep)} cannot stand in a template")
    found = {token: ids.get(token, reading.tokenizer.token_to_id(token)) for token in (cls, sep)}
    reading.tokenizer.post_processor = processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", sep, "$B:1", f"{sep}:1"],
        special_tokens=list(found.items()),
    )


def _special_tokens(
    sources: TokenizerSources, version: int
) -> tuple[dict[str, Token], list[Token], dict[int, AddedToken]]:
    """Special tokens by name, those without one, and added tokens by id, as a version puts them together.

    `special_tokens_map.json` and `added_tokens.json` count only where `tokenizer_config.json` has no
    `added_tokens_decoder`.
    """
    settings = dict(sources.settings)
    others = "additional_special_tokens"
    if version == 5:
        if settings.get(others) is not None and not settings.get("extra_special_tokens"):
            settings["extra_special_tokens"] = settings.pop(others)
        others = "extra_special_tokens"
    decoder: dict[int, AddedToken] = {}
    by_text: dict[str, AddedToken] = {}
    if "added_tokens_decoder" in settings:
        for index, entry in settings["added_tokens_decoder"].items():
            token = decoder[int(index)] = _added(entry)
            by_text[token.content] = token
    else:
        for key, value in sources.special_map.items():
            if key == others and isinstance(value, list):
                value = _without_repeats([*(settings.get(key) or []), *value])
            elif isinstance(value, dict) and value:
                value = {**value, "__type": "AddedToken", "special": True}
            settings[key] = value
        special = {_text(_token(settings[key])) for key in NAMED_TOKENS if settings.get(key)}
        special |= {_text(_token(token, special=True)) for token in settings.get(others) or []}
        for text, index in sources.added.items():
            decoder[index] = AddedToken(text, normalized=text not in special, special=text in special)
            if version == 5:
                by_text[text] = decoder[index]
        for entry in sources.saved["added_tokens"] if sources.saved else []:
            token = decoder[entry["id"]] = _added(entry)
            by_text[token.content] = token
    if version == 5 and settings.get("additional_special_tokens") and not settings.get("extra_special_tokens"):
        settings["extra_special_tokens"] = settings["additional_special_tokens"]
    defaults = {} if sources.generic else _BERT_TOKENS
    named = {key: settings.get(key, defaults.get(key)) for key in NAMED_TOKENS}
    named = {key: _token(value) for key, value in named.items() if value is not None}
    found = {key: by_text.get(_text(token), token) for key, token in named.items()}
    return found, [_token(token, special=True) for token in settings.get(others) or []], decoder


def _without_repeats(tokens: Sequence[Any]) -> list[Any]:
    kept: list[Any] = []
    for token in tokens:
        if token not in kept:
            kept.append(token)
    return kept


def _added(entry: Mapping[str, Any]) -> AddedToken:
    return AddedToken(**{key: value for key, value in entry.items() if key not in ("id", "__type")})


def _token(value: Any, special: bool = False) -> Token:
    """A special token as a file has it. Raises _Unreadable for an object that is not marked as a token."""
    if isinstance(value, dict):
        if special:
            return _added({**value, "special": True})
        if value.get("__type") != "AddedToken":
            raise _Unreadable(f"a special token is an object without __type: {show(value)}")
        return _added(value)
    return value


def _text(token: Token) -> str:
    return token if isinstance(token, str) else token.content


def _add_tokens(reading: _Reading, decoder: Mapping[int, AddedToken], version: int) -> None:
    """Add the added tokens by id, then the special ones that are not there yet; each gets its id from the library."""
    tokenizer, named, more = reading.tokenizer, reading.named, reading.more
    tokens: list[Token] = [decoder[index] for index in sorted(decoder)]
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()} | set(map(_text, tokens))
    for token in (*named.values(), *more):
        if _text(token) not in known:
            known.add(_text(token))
            tokens.append(token)
    special = set(map(_text, named.values())) | (set(map(_text, more)) if version == 4 else set())
    vocab = tokenizer.get_vocab(with_added_tokens=False)
    has_holes = len(vocab) <= max(vocab.values(), default=-1)
    flags = ("lstrip", "rstrip", "single_word", "normalized")
    for token in tokens:
        if isinstance(token, str):
            added = AddedToken(token, special=True)
        else:
            kept = {flag: getattr(token, flag) for flag in flags}
            added = AddedToken(token.content, **kept, special=token.special or token.content in special)
        if has_holes and tokenizer.token_to_id(added.content) is None:
            raise _Ambiguous(
                f"{show(added.content)} is in no vocabulary, and the vocabulary has holes: the id that the tokenizers "
                "library gives it depends on its release"
            )
        tokenizer.add_tokens([added])


def _note_sought(reading: _Reading, normalizer: normalizers.Normalizer | None) -> _Reading:
    """normalizer: what was in force when tokens were added."""
    for token in reading.tokenizer.get_added_tokens_decoder().values():
        if token.normalized:
            reading.sought[token.content] = normalizer.normalize_str(token.content) if normalizer else token.content
    return reading


def _find_missing(reading: _Reading) -> list[str]:
    """What every text needs and this tokenizer has not."""
    ids = {name: reading.named.get(name) for name in _BERT_TOKENS}
    faults = [f"{SETTINGS}: {name}: missing" for name, token in ids.items() if token is None]
    unknown = reading.tokenizer.model.unk_token
    if not faults and reading.tokenizer.model.token_to_id(unknown) is None:
        faults.append(f"vocabulary: the unk_token {show(unknown)} is not in it")
    return faults


def _check_agreement(folder: Path, readings: Sequence[_Reading]) -> None:
    """Raise InputError where two readings would give some text other ids, or sought tokens that are not found."""
    if len(readings) < 2:
        return
    four, five = (_essence(reading) for reading in readings)
    differing = [part for part in four if four[part] != five[part]]
    if not differing:
        return
    lines = [f"its tokenizer is read differently by transformers 4 and 5: {', '.join(differing)}"]
    for probe in _PROBES:
        tokens = [" ".join(reading.tokenizer.encode(probe).tokens) for reading in readings]
        if tokens[0] != tokens[1]:
            lines.append(f"of {show(probe)} version 4 makes {tokens[0]}; version 5 {tokens[1]}")
            break
    lines.append(
        f"to take {TOKENIZER} as it is, set tokenizer_class to PreTrainedTokenizerFast in {SETTINGS}; to take "
        f"BERT's own rules, remove {TOKENIZER} and keep vocab.txt; or save the tokenizer again with the version that "
        "is right"
    )
    raise InputError(folder, lines)


def _essence(reading: _Reading) -> dict[str, Any]:
    """All of a tokenizer that can change an id, in a form to compare."""
    whole = serialize(reading.tokenizer)
    model, vocab = whole["model"], whole["model"].pop("vocab")
    if whole["pre_tokenizer"] == {"type": "BertPreTokenizer"}:  # which leaves no empty word, and no space in one
        idle = ("", model["continuing_subword_prefix"])
        vocab = {entry: at for entry, at in vocab.items() if entry not in idle and not any(map(str.isspace, entry))}
    added = {token["content"]: {**token, "special": None} for token in whole["added_tokens"]}
    return {
        "normalizer": whole["normalizer"],
        "pre-tokenizer": whole["pre_tokenizer"],
        "model": model,
        "vocabulary": vocab,
        "added tokens": added,
        "spelling of added tokens": reading.sought,
        "frame of special tokens": _frame(reading.tokenizer),
    }


def _frame(tokenizer: Tokenizer) -> tuple[Any, ...]:
    """What is put around a word, and around two."""
    one, two = tokenizer.encode("x"), tokenizer.encode("x", "x")
    return one.ids, one.type_ids, two.ids, two.type_ids


def _conclude(folder: Path, sources: TokenizerSources, reading: _Reading) -> TextTokenizer:
    tokenizer, named = reading.tokenizer, reading.named
    whole = serialize(tokenizer)
    faults = _find_lost(reading, whole)
    cls, sep = (tokenizer.token_to_id(_text(named[key])) for key in ("cls_token", "sep_token"))
    words = tokenizer.encode("x", add_special_tokens=False).ids
    single = ([cls, *words, sep], [0] * (len(words) + 2))
    pair = ([*single[0], *words, sep], [*single[1], *([1] * (len(words) + 1))])
    if _frame(tokenizer) != (*single, *pair):
        faults.append(
            f"{TOKENIZER if sources.saved else SETTINGS}: post_processor: expected {_text(named['cls_token'])} text "
            f"{_text(named['sep_token'])}, and the same with a second text of type 1 and "
            f"{_text(named['sep_token'])} after it; found {show(whole['post_processor'])}"
        )
    if faults:
        raise InputError(folder, faults)
    settings = sources.settings
    baked = {key: (sources.saved or {}).get(key) or {} for key in ("truncation", "padding")}
    length = settings.get("model_max_length", settings.get("max_len"))
    split = bool(settings.get("split_special_tokens", False))
    complete = complete_vocabulary(whole)
    complete.encode_special_tokens = split
    return TextTokenizer(
        tokenizer=complete,
        special={key: _text(token) for key, token in named.items()},
        more_special=tuple(_text(token) for token in reading.more),
        max_length=None if length is None else int(length),
        truncation_side=settings.get("truncation_side", str(baked["truncation"].get("direction", "right")).lower()),
        padding_side=settings.get("padding_side", str(baked["padding"].get("direction", "right")).lower()),
        split_special_tokens=split,
        notes=(*sources.notes, *_notes(sources)),
    )


def _find_lost(reading: _Reading, whole: Mapping[str, Any]) -> list[str]:
    """Added tokens that no text would become, or that are another token too."""
    faults = []
    normalizer = reading.tokenizer.normalizer
    for content, sought in reading.sought.items():
        spelled = normalizer.normalize_str(content) if normalizer else content
        if sought != spelled:
            faults.append(f"{SETTINGS}: {show(content)} is never found: texts say {show(spelled)}")
    entries = {index: entry for entry, index in whole["model"]["vocab"].items()}
    for token in whole["added_tokens"]:
        other = entries.get(token["id"], token["content"])
        if other != token["content"]:
            faults.append(f"vocabulary: {show(token['content'])} and {show(other)} have one id, {token['id']}")
    return faults


def _notes(sources: TokenizerSources) -> list[str]:
    notes = []
    if "added_tokens_decoder" in sources.settings:
        unread = {SPECIAL_TOKENS_MAP: sources.special_map, ADDED_TOKENS: sources.added}
        listed = {entry["content"] for entry in sources.settings["added_tokens_decoder"].values()}
        if set(sources.added) - listed:
            del unread[SPECIAL_TOKENS_MAP]
            notes.append(f"{', '.join(unread)}: not read, since {SETTINGS} has an added_tokens_decoder")
    return notes

"""How versions 4 and 5 of transformers read a folder's tokenizer files, each written out.

After `BertTokenizerFast`, `PreTrainedTokenizerFast` and `PreTrainedTokenizerBase._from_pretrained` of 4.57 and
`BertTokenizer`, `TokenizersBackend` and `PreTrainedTokenizerBase._from_pretrained` of 5.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from yizhi.errors import show
from yizhi.reading.tokenizer_classes import NAMED_TOKENS
from yizhi.reading.tokenizer_json import WORDPIECE, kind_of, unreachable
from yizhi.reading.tokenizer_sources import TokenizerSources

Token: TypeAlias = str | AddedToken


class Unreadable(Exception):
    """A version of transformers fails on these files."""


class Ambiguous(Exception):
    """Releases of the tokenizers library differ on these files."""


@dataclass
class Reading:
    """The tokenizer that one version makes of the files.

    named, more: special tokens with and without a name. sought: each added token that is looked for in normalised
    text, as it is spelled there.
    """

    tokenizer: Tokenizer
    named: dict[str, Token]
    more: list[Token]
    sought: dict[str, str] = field(default_factory=dict)


def reads_alike(sources: TokenizerSources, readings: Sequence[Reading]) -> bool:
    """Whether there is no need to read as version 5: another class counts, or `tokenizer.json` and the same tokens."""
    if not readings:
        return False
    if sources.kind.rebuilt:
        return True
    if not sources.kind.takes_json or _prefix_space(sources) is not None:
        return False
    four, five = (repr(_special_tokens(sources, version)) for version in (4, 5))  # tokens compare without their flags
    return four == five


def read_as_version_4(sources: TokenizerSources) -> Reading:
    """Version 4: `tokenizer.json` as it is, but for the settings of a BertNormalizer; else BERT's from `vocab.txt`."""
    if isinstance(sources.settings.get("extra_special_tokens"), list):
        raise Unreadable("extra_special_tokens is a list, as version 5 writes it")
    named, more, decoder = _special_tokens(sources, 4)
    if sources.opened is None:
        reading = Reading(_build_bert(_vocab_of(sources.lines or []), sources, named), named, more)
        _add_tokens(reading, decoder, 4)
        # The ids of the framing tokens are those that the slow tokenizer looks up: added tokens first.
        _set_frame(reading, {token.content: index for index, token in decoder.items()})
        return _note_sought(reading, reading.tokenizer.normalizer)
    reading = Reading(sources.opened, named, more)
    _add_tokens(reading, decoder, 4)
    before = reading.tokenizer.normalizer
    if sources.kind.takes_json:
        prefix = _prefix_space(sources)
        if prefix is not None:
            state = {**json.loads(reading.tokenizer.pre_tokenizer.__getstate__()), "add_prefix_space": prefix}
            reading.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**{k: state[k] for k in state if k != "type"})
        _set_trimming(sources, reading.tokenizer)
    else:
        if before is None:
            raise Unreadable("tokenizer.json has no normalizer")
        state = json.loads(before.__getstate__())
        wanted = _normalizer_settings(sources)
        if any(state.get(key, value) != value for key, value in wanted.items()):
            reading.tokenizer.normalizer = normalizers.BertNormalizer(
                **{"clean_text": True, **{key: value for key, value in state.items() if key != "type"}, **wanted}
            )
        if sources.kind.cuts_words:  # which replaces whatever the file has
            reading.tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # Added tokens were normalised when they were added, before the settings were applied.
    return _note_sought(reading, before)


def read_as_version_5(sources: TokenizerSources) -> Reading:
    """Version 5: `tokenizer.json` as it is for the generic classes; else BERT's rules over its vocabulary."""
    named, more, decoder = _special_tokens(sources, 5)
    if sources.kind.takes_json:
        reading = Reading(_open_saved(sources), named, more)
        _add_tokens(reading, decoder, 5)
        return _note_sought(reading, reading.tokenizer.normalizer)
    # The library reads vocab.txt, and drops what Unicode calls white space at the end of a line.
    vocab = sources.saved["model"]["vocab"] if sources.saved else _vocab_of(map(str.rstrip, sources.lines or []))
    reading = Reading(_build_bert(vocab, sources, named), named, more)
    _add_tokens(reading, decoder, 5)
    _set_frame(reading, {})
    return _note_sought(reading, reading.tokenizer.normalizer)


def _prefix_space(sources: TokenizerSources) -> bool | None:
    """What version 4 sets `add_prefix_space` of a ByteLevel pre-tokenizer to; None where it already is that."""
    found = (sources.saved or {}).get("pre_tokenizer") or {}
    wanted = bool(sources.settings.get("add_prefix_space", False))
    return wanted if found.get("add_prefix_space", wanted) != wanted else None


def _set_trimming(sources: TokenizerSources, tokenizer: Tokenizer) -> None:
    """Whether offsets leave out white space, as RobertaTokenizerFast sets it: the file's own word does not count."""
    state = (sources.saved or {}).get("post_processor") or {}
    if state.get("type") != "RobertaProcessing" or not sources.kind.rebuilt:
        return
    wanted = {"trim_offsets": True, "add_prefix_space": False}
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=tuple(state["sep"]),
        cls=tuple(state["cls"]),
        **{key: sources.settings.get(key, wanted[key]) for key in wanted},
    )


def _open_saved(sources: TokenizerSources) -> Tokenizer:
    return Tokenizer.from_str(json.dumps({**(sources.saved or {}), "truncation": None, "padding": None}))


def _vocab_of(lines: Iterable[str]) -> dict[str, int]:
    # The library numbers added tokens from the count of entries, so an id that no entry has stays free.
    return {entry: index for index, entry in enumerate(lines) if entry != unreachable(index)}


def _normalizer_settings(sources: TokenizerSources) -> dict[str, Any]:
    settings = sources.settings
    wanted = {"lowercase": settings.get("do_lower_case", True), "strip_accents": settings.get("strip_accents")}
    if sources.kind.cuts_words:  # whose words are not to be cut into characters
        return wanted
    return {**wanted, "handle_chinese_chars": settings.get("tokenize_chinese_chars", True)}


def _build_bert(vocab: dict[str, int], sources: TokenizerSources, named: Mapping[str, Token]) -> Tokenizer:
    """BERT's tokenizer over a vocabulary, without its frame of special tokens."""
    tokenizer = Tokenizer(WordPiece(vocab, unk_token=text_of(named["unk_token"]), max_input_chars_per_word=100))
    wanted = {"handle_chinese_chars": False, **_normalizer_settings(sources)}
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True, **wanted)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _set_frame(reading: Reading, ids: Mapping[str, int]) -> None:
    """`[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`. ids: of the special tokens, where not the vocabulary's."""
    cls, sep = text_of(reading.named["cls_token"]), text_of(reading.named["sep_token"])
    if any(char in "$:" or char.isspace() for char in cls + sep):
        raise Unreadable(f"{show(cls)} and {show(sep)} cannot stand in a template")
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
        special = {text_of(_token(settings[key])) for key in NAMED_TOKENS if settings.get(key)}
        special |= {text_of(_token(token, special=True)) for token in settings.get(others) or []}
        for text, index in sources.added.items():
            decoder[index] = AddedToken(text, normalized=text not in special, special=text in special)
            if version == 5:
                by_text[text] = decoder[index]
        for entry in sources.saved["added_tokens"] if sources.saved else []:
            token = decoder[entry["id"]] = _added(entry)
            by_text[token.content] = token
    if version == 5 and settings.get("additional_special_tokens") and not settings.get("extra_special_tokens"):
        settings["extra_special_tokens"] = settings["additional_special_tokens"]
    named = {key: settings.get(key, sources.kind.special.get(key)) for key in NAMED_TOKENS}
    named = {key: _token(value) for key, value in named.items() if value is not None}
    found = {key: by_text.get(text_of(token), token) for key, token in named.items()}
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
    """A special token as a file has it. Raises Unreadable for an object that is not marked as a token."""
    if isinstance(value, dict):
        if special:
            return _added({**value, "special": True})
        if value.get("__type") != "AddedToken":
            raise Unreadable(f"a special token is an object without __type: {show(value)}")
        return _added(value)
    return value


def text_of(token: Token) -> str:
    """A token as text has it."""
    return token if isinstance(token, str) else token.content


def _add_tokens(reading: Reading, decoder: Mapping[int, AddedToken], version: int) -> None:
    """Add the added tokens by id, then the special ones that are not there yet; each gets its id from the library."""
    tokenizer, named, more = reading.tokenizer, reading.named, reading.more
    tokens: list[Token] = [decoder[index] for index in sorted(decoder)]
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()} | set(map(text_of, tokens))
    for token in (*named.values(), *more):
        if text_of(token) not in known:
            known.add(text_of(token))
            tokens.append(token)
    special = set(map(text_of, named.values())) | (set(map(text_of, more)) if version == 4 else set())
    vocab = tokenizer.get_vocab(with_added_tokens=False) if kind_of(tokenizer) == WORDPIECE else {}
    has_holes = len(vocab) <= max(vocab.values(), default=-1)  # which no other kind has
    flags = ("lstrip", "rstrip", "single_word", "normalized")
    for token in tokens:
        if isinstance(token, str):
            added = AddedToken(token, special=True)
        else:
            kept = {flag: getattr(token, flag) for flag in flags}
            added = AddedToken(token.content, **kept, special=token.special or token.content in special)
        if has_holes and tokenizer.token_to_id(added.content) is None:
            raise Ambiguous(
                f"{show(added.content)} is in no vocabulary, and the vocabulary has holes: the id that the tokenizers "
                "library gives it depends on its release"
            )
        tokenizer.add_tokens([added])


def _note_sought(reading: Reading, normalizer: normalizers.Normalizer | None) -> Reading:
    """Set `sought`. normalizer: the one that was set when the tokens were added."""
    for token in reading.tokenizer.get_added_tokens_decoder().values():
        if token.normalized:
            reading.sought[token.content] = normalizer.normalize_str(token.content) if normalizer else token.content
    return reading

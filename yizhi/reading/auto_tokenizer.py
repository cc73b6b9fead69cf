"""How a folder's text becomes ids: what transformers' AutoTokenizer gives by default, without transformers.

Versions 4 and 5 of transformers read some folders differently, silently. A folder that both read alike, or that only
one of them reads, is accepted; any other is rejected. RoBERTa's and XLM-R's `tokenizer.json` is read as it is, as
version 4 does it (`RobertaTokenizerFast`, `XLMRobertaTokenizerFast`). Version 5 builds some parts anew; a note names
those that differ.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from yizhi.errors import InputError, collect_faults, show
from yizhi.reading.folder_files import is_ignored
from yizhi.reading.jieba_words import cut_by_jieba
from yizhi.reading.other_vocabularies import PROBES, compare_lines, find_disagreements
from yizhi.reading.tokenizer_files import TextTokenizer, find_frame, frames_types
from yizhi.reading.tokenizer_json import (
    WORDPIECE,
    complete_vocabulary,
    describe_parts,
    kind_of,
    members,
    serialize,
)
from yizhi.reading.tokenizer_readings import (
    Ambiguous,
    Reading,
    Unreadable,
    read_as_version_4,
    read_as_version_5,
    reads_alike,
    text_of,
)
from yizhi.reading.tokenizer_sources import (
    ADDED_TOKENS,
    SETTINGS,
    SPECIAL_TOKENS_MAP,
    TOKENIZER,
    VOCAB,
    TokenizerSources,
    read_sources,
    read_vocab,
)


def read_tokenizer(folder: Path, vocab: Path | None = None) -> TextTokenizer:
    """The tokenizer of a checkpoint's or an artifact's folder.

    vocab: a vocabulary to use instead of the folder's `vocab.txt` and `tokenizer.json`.
    Raises InputError listing every fault: files that cannot be used, special tokens that the vocabulary lacks, a
    folder that transformers 4 and 5 read differently.
    """
    return _read(folder, vocab, _stamp(folder, *([vocab] if vocab else [])))


def _stamp(folder: Path, *more: Path) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when a file of the folder does, or one of these: a copy may bring its time along, but not ctime."""
    try:
        files = [(path.name, path.stat()) for path in [*sorted(folder.iterdir()), *more] if path.is_file()]
    except OSError:  # `read_sources` says what is wrong
        return ()
    return tuple((name, about.st_ino, about.st_size, about.st_ctime_ns) for name, about in files)


# A verification needs an artifact's tokenizer five times, and a vocabulary takes a tenth of a second to read.
@lru_cache(maxsize=2)
def _read(folder: Path, vocab: Path | None, stamp: tuple[tuple[str, int, int, int], ...]) -> TextTokenizer:
    sources = read_sources(folder, vocab)
    readings: list[Reading] = []
    failures: list[str] = []
    for version, read in ((4, read_as_version_4), (5, read_as_version_5)):
        if version == 5 and reads_alike(sources, readings):
            continue
        try:
            readings.append(read(sources))
        except Ambiguous as error:
            raise InputError(folder, str(error)) from None
        except Unreadable as error:
            failures.append(f"transformers {version} cannot read its tokenizer: {error}")
    if not readings:
        raise InputError(folder, failures)
    for reading in readings:
        reading.tokenizer.no_padding()
        reading.tokenizer.no_truncation()
        faults = _find_missing(reading, sources.needed)
        if faults:
            raise InputError(folder, faults)
    _check_agreement(folder, sources, readings)
    return _conclude(folder, sources, readings[0])


def _find_missing(reading: Reading, needed: Sequence[str]) -> list[str]:
    """Faults: special tokens that every text needs and the tokenizer does not have. needed: their names."""
    found = {name: reading.named.get(name) for name in needed}
    faults = [f"{SETTINGS}: {name}: missing" for name, token in found.items() if token is None]
    faults += [
        f"{SETTINGS}: {name}: expected a token; found ''"
        for name, token in found.items()
        if token is not None and not text_of(token)
    ]
    model = reading.tokenizer.model
    if not faults and kind_of(reading.tokenizer) == WORDPIECE and model.token_to_id(model.unk_token) is None:
        faults.append(f"vocabulary: the unk_token {show(model.unk_token)} is not in it")
    return faults


def check_beside(folder: Path, text: TextTokenizer, ignored: Collection[str] = ()) -> list[str]:
    """Faults of the folder's other vocabularies: those that give a text other ids than `tokenizer.json`.

    ignored: names, or patterns, of files to ignore.
    """
    is_json = (folder / TOKENIZER).exists()
    passed_over = partial(is_ignored, ignored=ignored)
    space = describe_parts(text.plain)["pre_tokenizer"] or {}
    faults = []
    if is_json or kind_of(text.tokenizer) == WORDPIECE:  # else it is what was read
        faults += find_disagreements(folder, text.tokenizer, bool(space.get("add_prefix_space")), passed_over)
    if is_json and (folder / VOCAB).exists() and not passed_over(VOCAB):
        lines = collect_faults(faults, lambda: read_vocab(folder / VOCAB))
        faults += [f"{VOCAB}: {fault}" for fault in compare_lines(lines, text.tokenizer)] if lines else []
    return faults


def _check_agreement(folder: Path, sources: TokenizerSources, readings: Sequence[Reading]) -> None:
    """Raise InputError where two readings would give some text other ids, or sought tokens that are not found."""
    if len(readings) < 2:
        return
    four, five = (_essence(reading) for reading in readings)
    differing = [part for part in four if four[part] != five[part]]
    if not differing:
        return
    lines = [f"transformers 4 and 5 read its tokenizer differently: {', '.join(differing)}"]
    for probe in PROBES:
        tokens = [" ".join(reading.tokenizer.encode(probe).tokens) for reading in readings]
        if tokens[0] != tokens[1]:
            lines.append(f"version 4 reads {show(probe)} as {tokens[0]}; version 5 reads it as {tokens[1]}")
            break
    if sources.kind.takes_json:
        lines.append(
            f"to have one answer, set add_prefix_space in {SETTINGS} to the value in {TOKENIZER}, or save the "
            "tokenizer again"
        )
        raise InputError(folder, lines)
    lines.append(
        f"to take {TOKENIZER} as it is, set tokenizer_class to PreTrainedTokenizerFast in {SETTINGS}; to take "
        f"BERT's own rules, remove {TOKENIZER} and keep vocab.txt; or save the tokenizer again with the version "
        "whose tokens you want"
    )
    raise InputError(folder, lines)


def _essence(reading: Reading) -> dict[str, Any]:
    """All of a tokenizer that can change an id, in a form to compare."""
    if kind_of(reading.tokenizer) != WORDPIECE:  # one file's: its model is the same
        whole: dict[str, Any] = {**describe_parts(reading.tokenizer), "model": {"vocab": {}}}
    else:
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


def _conclude(folder: Path, sources: TokenizerSources, reading: Reading) -> TextTokenizer:
    tokenizer, named = reading.tokenizer, reading.named
    settings = sources.settings
    frame = find_frame(tokenizer)
    faults = _find_lost(reading)
    stray = [index for index in frame.ids if tokenizer.id_to_token(index) is None] if frame else []
    if stray:
        faults.append(f"{TOKENIZER}: post_processor: the ids {show(stray)} are of no token")
    if sources.kind.takes_json:
        framed = "cls_token" in sources.needed
        if frame is None or (framed and (frame.begin, frame.end) != (1, 1)):
            found = describe_parts(tokenizer)["post_processor"]
            count = "one" if framed else "at most one"
            faults.append(
                f"{TOKENIZER}: post_processor: expected {count} special token before a text and one after it, and for "
                f"a pair the same around both with others between; found {show(found)}"
            )
        elif _gives_types(sources) and not frames_types(tokenizer, frame):
            one, pair = tokenizer.encode("x").type_ids, tokenizer.encode("x", "x").type_ids
            faults.append(
                f"{TOKENIZER}: post_processor: expected type 0, and 0 or 1 from a pair's second text on; found "
                f"{show(one)} and, of a pair, {show(pair)}"
            )
    elif _frame(tokenizer) != _frame_of_bert(reading):
        faults.append(
            f"{TOKENIZER if sources.saved else SETTINGS}: post_processor: expected {text_of(named['cls_token'])} text "
            f"{text_of(named['sep_token'])}, and the same with a second text of type 1 and "
            f"{text_of(named['sep_token'])} after it; found {show(describe_parts(tokenizer)['post_processor'])}"
        )
    if faults or frame is None:
        raise InputError(folder, faults)
    types = _gives_types(sources)
    baked = {key: (sources.saved or {}).get(key) or {} for key in ("truncation", "padding")}
    length = settings.get("model_max_length", settings.get("max_len"))
    split = bool(settings.get("split_special_tokens", False))
    complete = complete_vocabulary(serialize(tokenizer)) if kind_of(tokenizer) == WORDPIECE else tokenizer
    plain = None
    if sources.kind.cuts_words:
        plain, complete = complete, cut_by_jieba(Tokenizer.from_str(complete.to_str()))
    complete.encode_special_tokens = split
    return TextTokenizer(
        tokenizer=complete,
        plain=plain or complete,
        special={key: text_of(token) for key, token in named.items() if text_of(token)},
        more_special=tuple(text_of(token) for token in reading.more),
        frame=frame if types else replace(frame, second_type=0),
        gives_types=types,
        max_length=None if length is None else int(length),
        truncation_side=settings.get("truncation_side", str(baked["truncation"].get("direction", "right")).lower()),
        padding_side=settings.get("padding_side", str(baked["padding"].get("direction", "right")).lower()),
        split_special_tokens=split,
        notes=(*sources.notes, *_notes(sources)),
    )


def _gives_types(sources: TokenizerSources) -> bool:
    names = sources.settings.get("model_input_names")
    return sources.kind.types if names is None else "token_type_ids" in names


def _frame_of_bert(reading: Reading) -> tuple[Any, ...]:
    """What `_frame` gives for `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, the second text and its end of type 1."""
    tokenizer = reading.tokenizer
    cls, sep = (tokenizer.token_to_id(text_of(reading.named[key])) for key in ("cls_token", "sep_token"))
    words = tokenizer.encode("x", add_special_tokens=False).ids
    one, types = [cls, *words, sep], [0] * (len(words) + 2)
    return one, types, [*one, *words, sep], [*types, *([1] * (len(words) + 1))]


def _find_lost(reading: Reading) -> list[str]:
    """Faults: added tokens that no text becomes, or that share an id with another token."""
    faults = []
    normalizer = reading.tokenizer.normalizer
    for content, sought in reading.sought.items():
        spelled = normalizer.normalize_str(content) if normalizer else content
        if sought != spelled:
            faults.append(
                f"{SETTINGS}: {show(content)} is never found: normalised texts have {show(spelled)} in its place"
            )
    for index, token in sorted(reading.tokenizer.get_added_tokens_decoder().items()):
        other = reading.tokenizer.model.id_to_token(index)
        if other not in (None, token.content):
            faults.append(f"vocabulary: {show(token.content)} and {show(other)} have one id, {index}")
    return faults


def _notes(sources: TokenizerSources) -> list[str]:
    notes = []
    if "added_tokens_decoder" in sources.settings:
        unread = {SPECIAL_TOKENS_MAP: sources.special_map, ADDED_TOKENS: sources.added}
        listed = {entry["content"] for entry in sources.settings["added_tokens_decoder"].values()}
        if set(sources.added) - listed:
            del unread[SPECIAL_TOKENS_MAP]
            notes.append(f"{', '.join(unread)}: not read, since {SETTINGS} has an added_tokens_decoder")
    if sources.kind.rebuilt and sources.saved:
        differing = _rebuilt_otherwise(sources)
        if differing:
            notes.append(
                f"{TOKENIZER}: read as it is. transformers 5 reads an artifact's in the same way. From the checkpoint "
                f"itself, {sources.name} of transformers 5 would build these parts differently: {', '.join(differing)}"
            )
    return notes


def _rebuilt_otherwise(sources: TokenizerSources) -> list[str]:
    """Which parts of a saved tokenizer are not those that version 5 builds for RoBERTa's or XLM-R's class."""
    saved: Any = sources.saved
    kinds = {part: [member["type"] for member in members(saved[part])] for part in ("normalizer", "pre_tokenizer")}
    expected: dict[str, list[str]] = {"normalizer": [], "pre_tokenizer": ["ByteLevel"]}
    if sources.name.startswith("Qwen2"):
        expected = {"normalizer": ["NFC"], "pre_tokenizer": ["Split", "ByteLevel"]}
    if sources.name.startswith("XLM"):
        expected = {"normalizer": ["Precompiled"], "pre_tokenizer": ["WhitespaceSplit", "Metaspace"]}
    return [part for part, found in kinds.items() if found != expected[part]]

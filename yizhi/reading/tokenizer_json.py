"""`tokenizer.json`: its parts and its text. The library's own writer prints a line if a WordPiece id has no token."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors

from yizhi.errors import show
from yizhi.reading.charsmap import find_damage

T = TypeVar("T")

WORDPIECE, UNIGRAM, BPE = "WordPiece", "Unigram", "BPE"
MODELS = (WORDPIECE, UNIGRAM, BPE)
_PARTS = {
    "normalizer": (normalizers, normalizers.Normalizer),
    "pre_tokenizer": (pre_tokenizers, pre_tokenizers.PreTokenizer),
    "post_processor": (processors, processors.PostProcessor),
    "decoder": (decoders, decoders.Decoder),
}
# Where a part of the kind Sequence has its members.
_MEMBERS = ("normalizers", "pretokenizers", "processors", "decoders")
# Parts that put special tokens around a text.
_FRAMING = ("TemplateProcessing", "BertProcessing", "RobertaProcessing")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def unreachable(index: int) -> str:
    """An entry for an id that no token has. Words hold no space, so no text becomes it."""
    return f"[no token {index}]"


def kind_of(tokenizer: Tokenizer) -> str:
    """One of MODELS, or the library's name for another."""
    return type(tokenizer.model).__name__


def describe_parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """`tokenizer.json` without the model, truncation and padding."""
    parts = {part: getattr(tokenizer, part) for part in _PARTS}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": token.content, **{flag: getattr(token, flag) for flag in _FLAGS}}
            for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
        ],
        **{part: None if value is None else json.loads(value.__getstate__()) for part, value in parts.items()},
    }


def serialize(tokenizer: Tokenizer) -> dict[str, Any]:
    """The text of `tokenizer.json`, without truncation and padding."""
    model = tokenizer.model
    if kind_of(tokenizer) != WORDPIECE:
        return {**describe_parts(tokenizer), "model": json.loads(tokenizer.to_str())["model"]}
    return {
        **describe_parts(tokenizer),
        "model": {
            "type": WORDPIECE,
            "unk_token": model.unk_token,
            "continuing_subword_prefix": model.continuing_subword_prefix,
            "max_input_chars_per_word": model.max_input_chars_per_word,
            "vocab": tokenizer.get_vocab(with_added_tokens=False),
        },
    }


def members(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """A part of a tokenizer, or those that a sequence has in their order."""
    inside = next((part[key] for key in _MEMBERS if key in part), None) if part else ()
    if part and inside is None:
        yield part
    for member in inside or ():
        yield from members(member)


def find_unusable_parts(saved: Mapping[str, Any]) -> list[str]:
    """Faults: parts of a `tokenizer.json` that are damaged, or of kinds that the installed library does not have."""
    faults = []
    for name, (module, base) in _PARTS.items():
        part = saved.get(name)
        if not isinstance(part, dict | None):
            faults.append(f"{name}: expected an object; found {show(part)}")
            continue
        classes = {kind: value for kind, value in vars(module).items() if isinstance(value, type) and value is not base}
        known = sorted(kind for kind, value in classes.items() if issubclass(value, base))
        try:
            kinds = [member.get("type") for member in members(part)]
        except (AttributeError, TypeError):  # a member that is no object: the library says what is wrong with it
            continue
        unknown = [kind for kind in kinds if kind not in known]
        faults += [f"{name}: expected one of {', '.join(known)}; found {show(kind)}" for kind in unknown]
        faults += [f"{name}: {fault}" for member in members(part) if (fault := _find_damage(member))]
        framing = [kind for kind in kinds if kind in _FRAMING]
        if len(framing) > 1:
            faults.append(f"{name}: expected one part that adds special tokens; found {', '.join(framing)}")
    model = saved.get("model")
    prefix = model.get("continuing_subword_prefix") if isinstance(model, dict) and "merges" in model else None
    if prefix:  # the library cuts its length off the second half of every merge
        faults.append(f"model: continuing_subword_prefix: expected none beside merges; found {show(prefix)}")
    return faults


def try_out(use: Callable[[], T]) -> T:
    """Call the library on a file. Raises ValueError with the first line of its message, also if it panics.

    A panic is no Exception, because a program should end there. Here only the file was bad.
    """
    try:
        return use()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(str(error).partition("\n")[0]) from None


def _find_damage(part: Mapping[str, Any]) -> str | None:
    if part.get("type") == "FixedLength" and part.get("length") == 0:
        return "FixedLength: length: expected 1 or more; found 0"
    if part.get("type") != "Precompiled":
        return None
    try:
        return find_damage(b64decode(part["precompiled_charsmap"], validate=True))
    except (KeyError, TypeError, ValueError):
        return f"precompiled_charsmap: expected base64; found {show(part.get('precompiled_charsmap'))}"


def complete_vocabulary(whole: dict[str, Any]) -> Tokenizer:
    """The WordPiece tokenizer of a `tokenizer.json`, with an entry that no text reaches for each id without a token.

    So `vocab.txt` has a line for each id, and every reader gives added tokens the ids that they have.
    """
    vocab = dict(whole["model"]["vocab"])
    taken = {*vocab.values(), *(token["id"] for token in whole["added_tokens"])}
    vocab |= {unreachable(index): index for index in range(max(taken)) if index not in taken}
    vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
    return Tokenizer.from_str(json.dumps({**whole, "model": {**whole["model"], "vocab": vocab}}))

"""A tokenizer with fewer tokens that cuts a given text as before: which tokens must stay, and the tokenizer of these.

What a text was cut into stays, and with it every choice that led there, so no other cut can win:

- WordPiece takes the longest piece that fits. A piece that was never taken was never the longest, or no word held it.
  Of a word that cannot be spelled, the pieces before the gap stay: a shorter one in their place might go on.
- Unigram takes the best sum of scores. Other sums leave, the best stays; and what an unknown character costs follows
  from the lowest score of the vocabulary, so the piece that has it stays.
- BPE joins the pair that was learnt first. A token stays with all tokens that it was joined from, and their merges.

All special and added tokens stay, and so does every single character of the text: other texts are then spelled in
characters rather than lost.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers

from yizhi.errors import InputError
from yizhi.reading.jieba_words import cut_by_jieba
from yizhi.reading.tokenizer_files import NO_TOKEN, Frame, TextTokenizer
from yizhi.reading.tokenizer_json import BPE, UNIGRAM, WORDPIECE, describe_parts, kind_of, members, serialize

Ids = NDArray[np.int64]
_BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass
class Usage:
    """What texts use of a tokenizer. counts: int64 [V], how often each token came.

    singles: pieces of one character that the texts could be spelled in. spelling: the pieces of words that could not
    be spelled to their end.
    """

    text: TextTokenizer
    counts: Ids = field(init=False)
    singles: set[str] = field(default_factory=set)
    spelling: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Begin with no text."""
        self.counts = np.zeros(len(self.text.vocab), np.int64)

    def add(self, lines: Sequence[str]) -> None:
        """Count the tokens of some lines, each cut by itself."""
        tokenizer = self.text.tokenizer
        normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
        prefix = tokenizer.model.continuing_subword_prefix if kind_of(tokenizer) == WORDPIECE else ""
        rows = cut(self.text, lines)
        self.counts += np.bincount([index for row in rows for index in row], minlength=len(self.counts))
        for line, row in zip(lines, rows, strict=True):
            spelled = normalizer.normalize_str(line) if normalizer else line
            words = [word for word, _ in pre_tokenizer.pre_tokenize_str(spelled)] if pre_tokenizer else [spelled]
            for word in words:
                self.singles.update(word)  # what is inside one word may begin another
                self.singles.update(prefix + character for character in word[1:])
            if prefix and self.text.unknown_id in row:
                for word in words:
                    self.spelling.update(_spell(word, tokenizer.model))


def cut(text: TextTokenizer, lines: Sequence[str]) -> list[list[int]]:
    """The ids of each line, without the special tokens around it, whatever its length."""
    return [encoding.ids for encoding in text.tokenizer.encode_batch(list(lines), add_special_tokens=False)]


def choose_tokens(usage: Usage, min_count: int, named: Iterable[int] = ()) -> Ids:
    """The ids that stay, in order: tokens that came `min_count` times or more, and what is always needed.

    named: more ids that must stay. Ids of other tokens than these may leave.
    """
    text = usage.text
    vocab = text.tokenizer.get_vocab(with_added_tokens=True)
    kept = set(np.flatnonzero(usage.counts >= min_count).tolist())
    kept.update(named, text.added, text.frame.ids, {text.unknown_id} - {NO_TOKEN})
    kept.update(text.id_of(name) for name in text.special)
    model, parts = serialize(text.plain)["model"], describe_parts(text.plain)
    of_bytes = any(part["type"] == "ByteLevel" for part in members(parts["pre_tokenizer"]))
    wanted = {*usage.spelling, *usage.singles, *(pre_tokenizers.ByteLevel.alphabet() if of_bytes else ())}
    kept.update(vocab[piece] for piece in wanted if piece in vocab)
    kept.update(vocab[unknown] for unknown in (model.get("unk_token"),) if unknown in vocab)  # named or not
    if kind_of(text.tokenizer) == UNIGRAM:
        kept.add(model["unk_id"])
        scores = [score for _, score in model["vocab"]]
        kept.add(int(np.argmin(scores)))
    if model.get("byte_fallback"):
        kept.update(index for piece, index in vocab.items() if _BYTE.fullmatch(piece))
    if kind_of(text.tokenizer) == BPE:
        kept = _with_parts(kept, model)
    return np.array(sorted(kept), np.int64)


def trim_tokenizer(text: TextTokenizer, kept: Ids) -> TextTokenizer:
    """The same tokenizer with these tokens alone; the token of the old id `kept[n]` has the new id n.

    Raises InputError where the library gives a token another id.
    """
    new = {int(old): index for index, old in enumerate(kept)}
    whole = serialize(text.plain)
    whole["added_tokens"] = [{**token, "id": new[token["id"]]} for token in whole["added_tokens"]]
    for part in members(whole["post_processor"]):
        _renumber(part, new)
    whole["model"] = _trim_model(whole["model"], new)
    plain = Tokenizer.from_str(json.dumps(whole))
    expected = {text.vocab[old]: index for old, index in new.items()}
    found = plain.get_vocab(with_added_tokens=True)
    if found != expected:
        strange = sorted(token for token in {*found, *expected} if found.get(token) != expected.get(token))
        raise InputError(
            "tokenizer",
            [f"{token!r}: expected the id {expected.get(token)}; found {found.get(token)}" for token in strange[:20]],
        )
    tokenizer = cut_by_jieba(Tokenizer.from_str(plain.to_str())) if text.cuts_words else plain
    tokenizer.encode_special_tokens = text.split_special_tokens
    return replace(
        text,
        tokenizer=tokenizer,
        plain=plain,
        frame=_renumber_frame(text.frame, new),
        notes=(),
    )


def _spell(word: str, model: Any) -> Iterator[str]:
    """The pieces that WordPiece takes of a word, one after another, up to its end or to where none fits."""
    begin = 0
    while begin < len(word):
        before = model.continuing_subword_prefix if begin else ""
        pieces = (before + word[begin:end] for end in range(len(word), begin, -1))
        piece = next((piece for piece in pieces if model.token_to_id(piece) is not None), None)
        if piece is None:
            return
        yield piece
        begin += len(piece) - len(before)


def _with_parts(kept: set[int], model: dict[str, Any]) -> set[int]:
    """These tokens of BPE, those that they were joined from, and so on."""
    vocab = model["vocab"]
    parts: dict[int, set[int]] = {}
    for one, other in map(_pair, model["merges"]):
        parts.setdefault(vocab[one + other], set()).update((vocab[one], vocab[other]))
    found, waiting = set(kept), list(kept)
    while waiting:
        more = parts.get(waiting.pop(), set()) - found
        found |= more
        waiting += more
    return found


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """A merge's two halves; older files have them in one string."""
    one, other = merge.split(" ") if isinstance(merge, str) else merge
    return one, other


def _trim_model(model: dict[str, Any], new: dict[int, int]) -> dict[str, Any]:
    """The model's part of `tokenizer.json` with the ids of `new` alone."""
    if model["type"] == UNIGRAM:
        pieces = [piece for index, piece in enumerate(model["vocab"]) if index in new]
        return {**model, "vocab": pieces, "unk_id": new[model["unk_id"]]}
    vocab = {token: new[index] for token, index in sorted(model["vocab"].items(), key=lambda i: i[1]) if index in new}
    if model["type"] == WORDPIECE:
        return {**model, "vocab": vocab}
    merges = [pair for pair in map(_pair, model["merges"]) if {*pair, "".join(pair)} <= vocab.keys()]
    return {**model, "vocab": vocab, "merges": [list(pair) for pair in merges]}


def _renumber(part: Any, new: dict[int, int]) -> None:
    """Put new ids into one post-processor, in place."""
    if part["type"] == "TemplateProcessing":
        for token in part["special_tokens"].values():
            token["ids"] = [new[index] for index in token["ids"]]
    for name in ("cls", "sep"):  # of BertProcessing and RobertaProcessing
        if name in part:
            token, index = part[name]
            part[name] = [token, new[index]]


def _renumber_frame(frame: Frame, new: dict[int, int]) -> Frame:
    before, after = (None if index is None else new[index] for index in (frame.before, frame.after))
    between = None if frame.between is None else tuple(new[index] for index in frame.between)
    return replace(frame, before=before, after=after, between=between)

"""TextTokenizer: how a checkpoint's text becomes ids, and the files that carry it in every artifact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from yizhi.reading.tokenizer_json import WORDPIECE, describe_parts, kind_of, unreachable
from yizhi.reading.tokenizer_sources import SETTINGS, SPECIAL_TOKENS_MAP, TOKENIZER, VOCAB
from yizhi.storage.json_files import to_json

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# The id of a special token that a tokenizer has not: no row has it.
NO_TOKEN = -1
# What BertTokenizer always has, in every version of transformers.
_BERT_MODEL = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}


@dataclass(frozen=True)
class Frame:
    """The special tokens around texts, by id: `before` A `after`, and `before` A `between` B `after`.

    before, after: None if the tokenizer puts no token there, as before a text in decoders' tokenizers.
    between: None if the tokenizer has no frame for pairs. second_type: the type of the tokens of B and after it; 0 if
    the tokenizer gives no types.
    """

    before: int | None
    after: int | None
    between: tuple[int, ...] | None
    second_type: int

    @property
    def ids(self) -> tuple[int, ...]:
        """Every special token in it."""
        return (*self.around(()), *(self.between or ()))

    def around(self, ids: Sequence[int]) -> list[int]:
        """These ids in it."""
        before, after = ([] if end is None else [end] for end in (self.before, self.after))
        return [*before, *ids, *after]

    @property
    def begin(self) -> int:
        """How many tokens stand before a text: 0 or 1."""
        return int(self.before is not None)

    @property
    def end(self) -> int:
        """How many stand after it: 0 or 1."""
        return int(self.after is not None)


def find_frame(tokenizer: Tokenizer) -> Frame | None:
    """The special tokens around texts; None unless there is at most one before and one after, around pairs too."""
    one, pair = tokenizer.encode("x"), tokenizer.encode("x", "x")
    words = tokenizer.encode("x", add_special_tokens=False).ids
    size, inside = len(words), [place for place, which in enumerate(one.sequence_ids) if which is not None]
    begin, end = (inside[0], len(one.ids) - 1 - inside[-1]) if inside else (2, 2)
    if max(begin, end) > 1 or len(one.ids) != begin + size + end or one.ids[begin:][:size] != words:
        return None
    before, after = one.ids[0] if begin else None, one.ids[-1] if end else None
    if pair.ids == words + words and (begin or end):
        return Frame(before, after, None, 0)
    between = tuple(pair.ids[begin + size : len(pair.ids) - end - size])
    frame = Frame(before, after, between, pair.type_ids[-1])
    if [which for which in pair.sequence_ids if which is not None] != [0] * size + [1] * size:
        return None
    return frame if pair.ids == frame.around([*words, *between, *words]) else None


def frames_types(tokenizer: Tokenizer, frame: Frame) -> bool:
    """Whether the types of a tokenizer are 0, and those of a pair's second text and of what follows `second_type`."""
    one, pair = tokenizer.encode("x"), tokenizer.encode("x", "x")
    second = len(one.ids) - frame.begin  # the second text and what follows it
    first = len(pair.ids) - second if frame.between is not None else len(pair.ids)
    expected = [0] * first + [frame.second_type] * (len(pair.ids) - first)
    return not any(one.type_ids) and frame.second_type in (0, 1) and pair.type_ids == expected


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer that puts a frame of special tokens around every text.

    tokenizer: gives the ids; thread-safe. plain: the same, without the words that jieba cuts for RoFormer, which no
    file can hold. special: the special tokens by transformers' name (`cls_token`, …).
    more_special: those without a name. gives_types: whether transformers gives `token_type_ids`.
    max_length: the most tokens that its files allow; None if they say nothing.
    truncation_side, padding_side: `left` or `right`. split_special_tokens: whether a special token's name in a
    user's text is text. notes: lines for the user.
    """

    tokenizer: Tokenizer
    plain: Tokenizer
    special: Mapping[str, str]
    more_special: tuple[str, ...]
    frame: Frame
    gives_types: bool
    max_length: int | None
    truncation_side: str
    padding_side: str
    split_special_tokens: bool
    notes: tuple[str, ...] = ()

    @cached_property
    def vocab(self) -> list[str]:
        """Every token in the order of the ids; for an id without one, an entry that no text reaches."""
        by_id = {index: token for token, index in self.tokenizer.get_vocab(with_added_tokens=True).items()}
        return [by_id[index] if index in by_id else unreachable(index) for index in range(max(by_id) + 1)]

    @cached_property
    def added(self) -> dict[int, str]:
        """The added tokens, which are found before a text is cut into words, by id."""
        return {index: token.content for index, token in sorted(self.tokenizer.get_added_tokens_decoder().items())}

    def id_of(self, name: str) -> int:
        """The id of a special token by transformers' name."""
        return int(self.tokenizer.token_to_id(self.special[name]))

    @property
    def cls_id(self) -> int:
        """The id of the first token of every row; NO_TOKEN without a token before a text."""
        return NO_TOKEN if self.frame.before is None else self.frame.before

    @property
    def sep_id(self) -> int:
        """The id of the last token of every row; NO_TOKEN without a token after a text."""
        return NO_TOKEN if self.frame.after is None else self.frame.after

    @property
    def mask_id(self) -> int:
        """The id of the mask token; NO_TOKEN without one."""
        return self.id_of("mask_token") if "mask_token" in self.special else NO_TOKEN

    @property
    def pad_id(self) -> int:
        """The id of the padding token."""
        return self.id_of("pad_token")

    @property
    def unknown_id(self) -> int:
        """The id of the unknown token, for what the vocabulary cannot spell; NO_TOKEN if it spells every byte."""
        if kind_of(self.tokenizer) == WORDPIECE:
            return int(self.tokenizer.token_to_id(self.tokenizer.model.unk_token))
        return self.id_of("unk_token") if "unk_token" in self.special else NO_TOKEN

    def find_misfit(self, rows: int, padding: int | None = None) -> list[str]:
        """The faults of this vocabulary for an embedding table with `rows` rows.

        A table may be padded to a multiple of 8, or to one of 64, with rows without a token. padding: the id that a
        model skips when it counts positions; None if it skips none.
        """
        size = len(self.vocab)
        if padding not in (None, self.pad_id):
            named = self.special["pad_token"]
            faults = [f"pad_token: expected the id {padding} (config.json pad_token_id); found {named} ({self.pad_id})"]
            return faults + self.find_misfit(rows)
        if size == rows or any(size < rows < size + most and rows % by == 0 for by, most in ((8, 128), (64, 512))):
            return []
        expected = f"expected {rows} tokens (config.json vocab_size); found {size}"
        beyond = [f"{token!r} ({index})" for index, token in self.added.items() if index >= rows]
        if beyond and size > rows:
            return [f"vocabulary: {expected}: {', '.join(beyond[:4])} have no row in the embeddings"]
        return [f"vocabulary: {expected}"]

    def length(self, positions: int) -> int:
        """The most tokens of a row for a model with that many positions."""
        return positions if self.max_length is None else min(self.max_length, positions)

    def shorten(self, length: int | None) -> "TextTokenizer":
        """The same tokenizer, for at most that many tokens."""
        return self if length is None else replace(self, max_length=self.length(length))

    def files(self, positions: int) -> dict[str, str]:
        """File name -> text of `tokenizer.json` and `tokenizer_config.json`, for that many positions.

        And `vocab.txt` of a WordPiece vocabulary, `special_tokens_map.json` of another. Both AutoTokenizer (of
        transformers 4 and 5) and `read_tokenizer` read this tokenizer from them.
        """
        whole = describe_parts(self.plain)
        normalizer = whole["normalizer"] or {}
        added = {str(token["id"]): {key: token[key] for key in token if key != "id"} for token in whole["added_tokens"]}
        config: dict[str, Any] = {
            "tokenizer_class": self._class(whole),
            "model_max_length": self.length(positions),
            "truncation_side": self.truncation_side,
            "padding_side": self.padding_side,
            "added_tokens_decoder": added,
            **self.special,
        }
        if normalizer.get("type") == "BertNormalizer":
            config |= {
                "do_lower_case": normalizer["lowercase"],
                "strip_accents": normalizer["strip_accents"],
                "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
            }
        if "add_prefix_space" in (whole["pre_tokenizer"] or {}):
            config["add_prefix_space"] = whole["pre_tokenizer"]["add_prefix_space"]
        if not self.gives_types:
            config["model_input_names"] = ["input_ids", "attention_mask"]
        if self.more_special:
            config["additional_special_tokens"] = list(self.more_special)
        if self.split_special_tokens:
            config["split_special_tokens"] = True
        files = {TOKENIZER: self.plain.to_str(pretty=True), SETTINGS: to_json(config)}
        if kind_of(self.tokenizer) != WORDPIECE:
            more = {"additional_special_tokens": list(self.more_special)} if self.more_special else {}
            return {**files, SPECIAL_TOKENS_MAP: to_json({**self.special, **more})}
        model = {index: token for token, index in self.tokenizer.get_vocab(with_added_tokens=False).items()}
        lines = [model.get(index, token) for index, token in enumerate(self.vocab[: max(model) + 1])]
        return {VOCAB: "".join(f"{line}\n" for line in lines), **files}

    def describe(self) -> dict[str, Any]:
        """How text becomes ids, in a few words each, for a person."""
        whole = describe_parts(self.plain)
        return {
            "kind": kind_of(self.tokenizer),
            **({"words": "jieba's (rjieba)"} if self.cuts_words else {}),
            "tokens": len(self.vocab),
            "normalizer": _describe_normalizer(whole["normalizer"]),
            "special_tokens": [f"{name} {token} ({self.id_of(name)})" for name, token in self.special.items()],
            "added_tokens": [f"{token} ({index})" for index, token in self.added.items() if token not in self._named],
            "longest": self.max_length,
            "truncation_side": self.truncation_side,
            "split_special_tokens": self.split_special_tokens,
        }

    @property
    def _named(self) -> set[str]:
        return set(self.special.values())

    @property
    def cuts_words(self) -> bool:
        """Whether jieba cuts a text into words first, as RoFormer's tokenizer does."""
        return self.plain is not self.tokenizer

    def _class(self, whole: Mapping[str, Any]) -> str:
        if self.cuts_words:
            return "RoFormerTokenizer"
        return "BertTokenizer" if self._is_bert(whole) else "PreTrainedTokenizerFast"

    def _is_bert(self, whole: Mapping[str, Any]) -> bool:
        """Whether BertTokenizer makes this tokenizer of its vocabulary and settings."""
        if kind_of(self.tokenizer) != WORDPIECE:
            return False
        normalizer = whole["normalizer"] or {}
        as_bert = normalizer.get("type") == "BertNormalizer" and normalizer["clean_text"]
        if not {"cls_token", "sep_token", "unk_token"} <= self.special.keys():
            return False
        cls, sep = self.id_of("cls_token"), self.id_of("sep_token")
        frame = find_frame(self.plain)  # whose types are there whether or not a model takes them
        as_bert = as_bert and frame == Frame(cls, sep, (sep,), 1) and frames_types(self.plain, frame)
        model = {**_BERT_MODEL, "unk_token": self.special["unk_token"]}
        return bool(
            as_bert
            and whole["pre_tokenizer"] == {"type": "BertPreTokenizer"}
            and all(getattr(self.tokenizer.model, key) == value for key, value in model.items())
        )


def _describe_normalizer(normalizer: Mapping[str, Any] | None) -> str:
    if normalizer is None:
        return "none: text as it is"
    if normalizer["type"] == "Sequence":
        return ", then ".join(map(_describe_normalizer, normalizer["normalizers"]))
    if normalizer["type"] != "BertNormalizer":
        return str(normalizer["type"])
    lower, accents = normalizer["lowercase"], normalizer["strip_accents"]
    return (
        f"BERT's: {'lower case' if lower else 'case kept'}, "
        f"accents {'dropped' if (lower if accents is None else accents) else 'kept'}, "
        f"Chinese characters {'apart' if normalizer['handle_chinese_chars'] else 'not apart'}"
        f"{'' if normalizer['clean_text'] else ', control characters kept'}"
    )

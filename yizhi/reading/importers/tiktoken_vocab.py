"""360Zhinao's tokenizer, of its tiktoken vocabulary: byte-level BPE, whose merges follow from the ranks.

After ZhinaoTokenizer (tokenization_zhinao.py of huggingface.co/qihoo360/360Zhinao-7B-Base) and tiktoken. Before
a text is cut, `[br]` and `<br>` become a line end, and runs of spaces become tokens that stand for them.
"""

import base64
import binascii
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from yizhi.errors import InputError, collect_faults, show
from yizhi.reading.tokenizer_files import TextTokenizer, find_frame
from yizhi.reading.tokenizer_sources import ADDED_TOKENS, SETTINGS, SPECIAL_TOKENS_MAP, check_settings
from yizhi.storage.json_files import read_json_object

TOKENIZER_CLASS = "ZhinaoTokenizer"
_NAMED = {"eos_token": "<eod>", "unk_token": "<unk>", "pad_token": "<pad>"}
# Tokens for runs of spaces, in the order of their ids.
_SPACES = {f"[space{count}]": " " * count for count in (2, 3, 4, 8)}
# Their ids follow the ranks, in this order.
_SPECIAL = ("<pad>", "<unk>", "<mask>", "<eod>", "<eop>", *_SPACES, "<|im_start|>", "<|im_end|>")
_LINE_ENDS = ("[br]", "<br>")
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Merging takes time that grows with the square of a token's length. Published tokens have at most 128 bytes.
_LONGEST = 1024
# A file may have millions of bad lines.
_NAMED_FAULTS = 20


def read_tiktoken(path: Path, folder: Path) -> TextTokenizer:
    """The tokenizer of a file that has a token in base64 and its rank on each line.

    folder: the checkpoint's, whose `tokenizer_config.json` may give lengths and sides. Raises InputError listing every
    fault.
    """
    ranks = _read_ranks(path)
    said = _read_settings(folder)
    made = _make_tokenizer(ranks)
    frame = find_frame(made)
    if frame is None:
        raise InputError(path, "its tokenizer gives the letter x no token")
    length = said.get("model_max_length", said.get("max_len"))
    return TextTokenizer(
        tokenizer=made,
        plain=made,
        special=dict(_NAMED),
        more_special=tuple(token for token in _SPECIAL if token not in (*_NAMED.values(), *_SPACES)),
        frame=frame,
        gives_types=False,
        max_length=None if length is None else int(length),
        truncation_side=said.get("truncation_side", "right"),
        padding_side=said.get("padding_side", "left"),
        split_special_tokens=False,
    )


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Token -> rank. Raises InputError unless the ranks are 0, 1, 2, … and every byte has one."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    ranks: dict[bytes, int] = {}
    faults = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            token, rank = _parse(line)
        except ValueError:
            faults.append(f"line {number}: expected a token in base64, a space and a rank; found {show(line)}")
            continue
        if not 0 < len(token) <= _LONGEST:
            faults.append(f"line {number}: expected a token of 1 to {_LONGEST} bytes; found {len(token)}")
        elif token in ranks:
            faults.append(f"line {number}: has the token of rank {ranks[token]} again: {show(token)}")
        else:
            ranks[token] = rank
    if not faults and sorted(ranks.values()) != list(range(len(ranks))):
        faults.append(f"expected the ranks 0 to {len(ranks) - 1}, each once; the highest is {max(ranks.values())}")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing and not faults:
        faults.append(f"expected a token for each byte; {len(missing)} have none, first {missing[0]:#04x}")
    faults += [f"{token}: is among the ranks; its id follows them" for token in _SPECIAL if token.encode() in ranks]
    if faults:
        more = [f"and {len(faults) - _NAMED_FAULTS} more faults"] if len(faults) > _NAMED_FAULTS else []
        raise InputError(path, [*faults[:_NAMED_FAULTS], *more])
    return ranks


def _parse(line: bytes) -> tuple[bytes, int]:
    """Raises ValueError."""
    token, rank = line.split()
    if not rank.isdigit() or len(rank) > 9:
        raise ValueError
    try:
        return base64.b64decode(token, validate=True), int(rank)
    except binascii.Error:
        raise ValueError from None


def _read_settings(folder: Path) -> Mapping[str, Any]:
    """Of `tokenizer_config.json`. Raises InputError if a file is another tokenizer's, or names tokens of its own."""
    faults: list[str] = []
    found = {
        name: collect_faults(faults, partial(read_json_object, folder / name)) or {}
        for name in (SETTINGS, SPECIAL_TOKENS_MAP, ADDED_TOKENS)
        if (folder / name).exists()
    }
    said = found.get(SETTINGS, {})
    faults += [
        f"{name}: {fault}" for name in (SETTINGS, SPECIAL_TOKENS_MAP) for fault in check_settings(found.get(name, {}))
    ]
    if (said.get("tokenizer_class") or TOKENIZER_CLASS) != TOKENIZER_CLASS:
        faults.append(f"{SETTINGS}: tokenizer_class: expected {TOKENIZER_CLASS}; found {show(said['tokenizer_class'])}")
    for name, content in found.items():
        for key, token in _NAMED.items():
            if (named := _text_of(content.get(key))) not in (None, token):
                faults.append(f"{name}: {key}: expected {token}, which the tokenizer's code fixes; found {show(named)}")
        others = [] if faults else sorted(_tokens_in(name, content) - set(_SPECIAL))
        faults += [f"{name}: {show(token)}: expected no token beyond {', '.join(_SPECIAL)}" for token in others]
    if faults:
        raise InputError(folder, faults)
    return said


def _tokens_in(name: str, content: Mapping[str, Any]) -> set[str]:
    """The added tokens of a file that was checked."""
    if name == ADDED_TOKENS:
        return set(content)
    listed = [
        token for key in ("additional_special_tokens", "extra_special_tokens") for token in content.get(key) or ()
    ]
    return {str(_text_of(token)) for token in (*listed, *content.get("added_tokens_decoder", {}).values())}


def _text_of(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _make_tokenizer(ranks: Mapping[bytes, int]) -> Tokenizer:
    spelled = {token: _spell(token) for token in ranks}
    vocab = {spelled[token]: rank for token, rank in ranks.items()}
    merges = [
        (spelled[parts[0]], spelled[parts[1]])
        for token in sorted(ranks, key=lambda token: ranks[token])
        if (parts := split(token, ranks)) is not None
    ]
    # tiktoken takes a word that is a token as it is, whether or not merges lead there.
    made = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    longest_first = sorted(_SPACES.items(), key=lambda item: -len(item[1]))
    made.normalizer = normalizers.Sequence(
        [normalizers.Replace(tag, "\n") for tag in _LINE_ENDS]
        + [normalizers.Replace(spaces, token) for token, spaces in longest_first]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.Sequence(
        [decoders.ByteLevel(), *(decoders.Replace(token, spaces) for token, spaces in _SPACES.items())]
    )
    # They are looked for in the normalised text, where runs of spaces are tokens already. Those of spaces are text.
    made.add_tokens([AddedToken(token, normalized=True, special=token not in _SPACES) for token in _SPECIAL])
    return made


def split(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts whose merge is this token; None for a single byte, and for one that no merge gives.

    Where tiktoken joins parts of a word to this token, it joined none of them to a neighbour before. So it took the
    same steps as from the token's bytes alone: always the pair of the lowest rank, the leftmost of equal ones.
    """
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(one + other) for one, other in pairwise(parts)]
        known = [rank for rank in pairs if rank is not None]
        if not known:
            return None
        place = pairs.index(min(known))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None


def _spell(token: bytes) -> str:
    """Bytes in the letters of byte-level BPE."""
    return "".join(_LETTERS[byte] for byte in token)


def _make_letters() -> list[str]:
    """A letter for each byte: its own of Latin-1 if that is visible, else one from U+0100 on (OpenAI's GPT-2)."""
    visible = [byte for byte in range(256) if chr(byte).isprintable() and not chr(byte).isspace()]
    others = iter(range(256, 512))
    return [chr(byte) if byte in visible else chr(next(others)) for byte in range(256)]


_LETTERS = _make_letters()

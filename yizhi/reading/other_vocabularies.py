"""The vocabularies that may stand in place of `tokenizer.json`, or beside it: a tokenizer is made of each.

They are made as transformers 4 makes them (`XLMRobertaConverter` and `RobertaConverter` of `convert_slow_tokenizer`).
"""

import math
import struct
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from yizhi.errors import InputError, show
from yizhi.reading.charsmap import find_damage
from yizhi.reading.tokenizer_json import BPE, UNIGRAM, WORDPIECE, kind_of, unreachable
from yizhi.storage.protobuf import fields_of, integer, message_of

SENTENCEPIECE, BPE_VOCAB, MERGES = "sentencepiece.bpe.model", "vocab.json", "merges.txt"
# Texts that tell tokenizers apart, for an error to show.
PROBES = (
    "北京是中国的首都。",
    "Hello World",
    "Ｆｕｌｌ　ｗｉｄｔｈ　①㍿",
    "Café naïve e\u0301",
    "a\u200bb\u0007c\ufeff",
    "中a文[MASK]b",
)
_INSTEAD = (
    "to make tokenizer.json of it, with transformers and sentencepiece: "
    "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
)
# Fields of sentencepiece_model.proto, and values of its enumerations.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _SUFFIX_SPACE, _BYTE_FALLBACK = 3, 24, 35
_CHARSMAP, _DUMMY_PREFIX = 2, 3
_UNIGRAM_TYPE, _CONTROL, _USER_DEFINED = 1, 3, 4
# fairseq's ids before and after the pieces; the first three pieces are <unk>, <s> and </s>.
_BEFORE, _FIRST = ("<s>", "<pad>", "</s>", "<unk>"), ["<unk>", "<s>", "</s>"]
_MASK = "<mask>"


def read_sentencepiece(path: Path) -> Tokenizer:
    """XLM-R's tokenizer of a SentencePiece model. Raises InputError where it would not be the model's own."""
    try:
        pieces, types, trainer, normalizer = _read_model(path.read_bytes())
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    except (ValueError, IndexError, struct.error) as error:
        raise InputError(path, f"is not a SentencePiece model: {error}") from None
    faults = []
    if integer(trainer, _MODEL_TYPE) not in (0, _UNIGRAM_TYPE):
        faults.append("expected a Unigram model; found another")
    if [piece for piece, _ in pieces[:3]] != _FIRST:
        faults.append(f"expected {', '.join(_FIRST)} first, as XLM-R's has; found {show([p for p, _ in pieces[:3]])}")
    if integer(trainer, _BYTE_FALLBACK):
        faults.append("byte_fallback: not supported: the tokenizers library gives <unk> where the model gives bytes")
    if integer(trainer, _SUFFIX_SPACE) or normalizer.get(_DUMMY_PREFIX, [1])[-1] != 1:
        faults.append("expected a space before the first word of a text, as XLM-R's has")
    scored = [*((token, 0.0) for token in _BEFORE), *pieces[3:], (_MASK, 0.0)]
    twice = [piece for piece, count in Counter(piece for piece, _ in scored).items() if count > 1]
    if twice:
        faults.append(f"expected each piece once, and none of the special tokens; found {show(twice[0])} again")
    odd = [piece for piece, score in scored if not math.isfinite(score)]
    if odd:
        faults.append(f"expected a finite score of each piece; found another of {show(odd[0])}")
    charsmap = message_of(normalizer.get(_CHARSMAP, [b""])[-1])
    damage = find_damage(charsmap) if charsmap else None
    if faults or damage:
        raise InputError(path, [damage] if damage else [*faults, _INSTEAD])
    made = Tokenizer(models.Unigram(scored, _BEFORE.index("<unk>"), byte_fallback=False))
    kinds = zip(pieces, types, strict=True)
    made.add_tokens(
        [
            AddedToken(piece, normalized=False, special=kind == _CONTROL)
            for (piece, _), kind in kinds
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    made.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    ids = [(token, _BEFORE.index(token)) for token in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    return made


def _read_model(
    data: bytes,
) -> tuple[list[tuple[str, float]], list[int], dict[int, list[int | bytes]], dict[int, list[int | bytes]]]:
    """Pieces with their scores, the type of each, and the fields of the trainer's and the normalizer's settings."""
    model = fields_of(data)
    pieces, types = [], []
    for message in model.get(_PIECES, []):
        fields = fields_of(message_of(message))
        score = struct.unpack("<f", struct.pack("<I", integer(fields, _SCORE)))[0]
        pieces.append((message_of(fields.get(_PIECE, [b""])[-1]).decode(), score))
        types.append(integer(fields, _TYPE) or 1)
    if not pieces:
        raise ValueError("it has no pieces")
    trainer, normalizer = (fields_of(message_of(model.get(field, [b""])[-1])) for field in (_TRAINER, _NORMALIZER))
    return pieces, types, trainer, normalizer


def read_merges(folder: Path, add_prefix_space: bool) -> Tokenizer:
    """RoBERTa's tokenizer of `vocab.json` and `merges.txt`. Raises InputError."""
    made = _read_bpe(folder)
    missing = [token for token in ("<s>", "</s>") if made.token_to_id(token) is None]
    if missing:
        raise InputError(folder / BPE_VOCAB, f"expected {' and '.join(missing)} among its tokens, as RoBERTa's has")
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(
        *((token, made.token_to_id(token)) for token in ("</s>", "<s>")), add_prefix_space=add_prefix_space
    )
    return made


def _read_bpe(folder: Path) -> Tokenizer:
    """The model of `vocab.json` and `merges.txt` alone. Raises InputError."""
    for name in (BPE_VOCAB, MERGES):
        if not (folder / name).is_file():
            raise InputError(folder / name, "the file is missing, and so is tokenizer.json")
    try:
        vocab, merges = models.BPE.read_file(str(folder / BPE_VOCAB), str(folder / MERGES))
        return Tokenizer(models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    except Exception as error:  # noqa: BLE001  the library raises nothing narrower
        raise InputError(folder / MERGES, f"cannot be read with {BPE_VOCAB}: {error}") from None


def _read_beside(folder: Path, tokenizer: Tokenizer) -> Tokenizer:
    """The same with the words of `tokenizer.json`: those of Qwen's slow class are in no file."""
    made = _read_bpe(folder)
    made.normalizer, made.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    return made


def find_disagreements(
    folder: Path, tokenizer: Tokenizer, add_prefix_space: bool, ignored: Callable[[str], bool]
) -> list[str]:
    """Faults of the vocabularies beside `tokenizer.json`, which slow tokenizers read: those that give a text other ids.

    tokenizer: that of `tokenizer.json`. ignored: whether a file is ignored.
    """
    faults, is_roberta = [], tokenizer.token_to_id("<s>") is not None
    makers: Mapping[str, tuple[str, Collection[str], Callable[[], Tokenizer]]] = {
        SENTENCEPIECE: (UNIGRAM, (SENTENCEPIECE,), lambda: read_sentencepiece(folder / SENTENCEPIECE)),
        MERGES: (
            BPE,
            (BPE_VOCAB, MERGES),
            lambda: read_merges(folder, add_prefix_space) if is_roberta else _read_beside(folder, tokenizer),
        ),
    }
    for name, (kind, files, make) in makers.items():
        found = [file for file in files if (folder / file).exists() and not ignored(file)]
        if not found:
            continue
        if kind_of(tokenizer) != kind:
            faults += [f"{file}: is of {kind}; the tokenizer is {kind_of(tokenizer)}" for file in found]
            continue
        try:
            faults += [f"{name}: {fault}" for fault in _compare(make(), tokenizer)]
        except InputError as error:
            faults += [f"{name}: {fault}" for fault in error.faults]
    return faults


def compare_lines(lines: list[str], tokenizer: Tokenizer) -> list[str]:
    """The fault of a `vocab.txt` with other tokens than `tokenizer.json`. lines: in id order."""
    if kind_of(tokenizer) != WORDPIECE:
        return [f"is of {WORDPIECE}; tokenizer.json holds {kind_of(tokenizer)}"]
    for index, line in enumerate(lines):
        found = tokenizer.id_to_token(index)
        if found != unreachable(index) and (found is None or found.rstrip() != line.rstrip()):
            return [f"token {index}: expected {show(found)}, as tokenizer.json has; found {show(line)}"]
    return []


def _compare(other: Tokenizer, tokenizer: Tokenizer) -> list[str]:
    """The first token, or the first of some texts, on which another vocabulary differs from `tokenizer.json`."""
    for index in range(other.get_vocab_size(with_added_tokens=False)):
        one, two = other.id_to_token(index), tokenizer.id_to_token(index)
        if one != two and one != _MASK:  # whose id XLM-R's converter gives it
            return [f"token {index}: expected {show(two)}, as tokenizer.json has; found {show(one)}"]
    for text in PROBES:
        ids = [made.encode(text, add_special_tokens=False).ids for made in (tokenizer, other)]
        if ids[0] != ids[1]:
            return [f"tokenizer.json gives {show(text)} the ids {show(ids[0])}; this file gives {show(ids[1])}"]
    return []

"""From text to ids, and from logits to labels: an artifact's own files must agree with the checkpoint's.

The cases compare ids with tensors. A user sends text, and reads labels. Another order of the vocabulary, other
lower-casing or other labels would change every answer and no tensor.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yizhi.converters.shared_files import CONFIG, shared_files
from yizhi.errors import InputError, show
from yizhi.model.config import EncoderConfig
from yizhi.model.label_heads import describe_labels, read_labels
from yizhi.model.spec import SPLADE, Pooling
from yizhi.parity.answers import TextAnswer, everyday_questions
from yizhi.reading.auto_tokenizer import read_tokenizer
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.sentence_settings import MODULES, read_sentence_settings
from yizhi.reading.sentences import CHINESE, ENGLISH
from yizhi.reading.tokenizer_files import TextTokenizer
from yizhi.reading.tokenizer_sources import TOKENIZER_FILES
from yizhi.release.artifact import Artifact
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.storage.codec import from_plain
from yizhi.storage.digests import sha256_of_file

# What tells tokenizers apart: each is read differently by some setting, or some version.
SEPARATING = (
    "BERT base Chinese 和 RoBERTa 在 GPU 上跑 3.5 次",
    "ＡＢＣ１２３，全角！｛｝ ㈱ ㍿ ﬁ ﬀ Ⅳ ½",
    "Ångström café naïve ÀÉÎÕÜ ñ ß İstanbul ǅ",
    "e\u0301 a\u0308 o\u0302 n\u0303 \u1100\u1161\u11a8",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ☺️ 🇨🇳",
    "a\u200bb\u200dc\ufeffd\u00ade \u2060f",
    "tab\there\nnew\r\nline\u2028sep\u2029par\x00nul\x07bell",
    "𠀀𠮷𪚥𫝆𬺓𮯠𰻞 㐀㐁 豈更",
    "antidisestablishmentarianismantidisestablishmentarianism" * 3,
    "[MASK] [CLS] [SEP] [PAD] [UNK] [unused1] [mask] <mask>",
    "it's don't U.S.A. e-mail@example.com http://a.b/c?d=e#f $5.00 50% 1,000",
    "日本語のテキスト 한국어 텍스트 русский текст ελληνικά עברית العربية ไทย हिन्दी",
    "「他说：『好。』」——……·～《书》〈名〉",
    " \u3000\u00a0 ",
    "",
)
_SENTENCES = 5
# The targets whose folders sentence-transformers loads.
WITH_MODULES = ("pytorch", "onnx", "onnx-int8", "openvino", "openvino-int8")
TEXTS = (*CHINESE[:_SENTENCES], *ENGLISH[:_SENTENCES], *SEPARATING)
_MOST_FAULTS = 3


@dataclass(frozen=True)
class TextCase:
    """A text and its ids, including special tokens, from the checkpoint's own tokenizer."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class TextContract:
    """files: sha256 of the files that every artifact has, config.json and the tokenizer's.

    cases: texts with the required ids.
    labels: names of the logits, in their order; empty without labels. pooling: of `sentence_embedding`, if any.
    answers: the required answers for texts.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    cases: tuple[TextCase, ...] = ()
    labels: tuple[str, ...] = ()
    pooling: Pooling | None = None
    answers: tuple[TextAnswer, ...] = ()


def make_contract(checkpoint: Checkpoint, answers: tuple[TextAnswer, ...] = ()) -> TextContract:
    """The requirements for artifacts of this checkpoint. answers: the oracle's."""
    text, spec = checkpoint.text, checkpoint.spec
    files = shared_files(checkpoint)
    return TextContract(
        {name: _digest(content) for name, content in sorted(files.items())},
        tuple(TextCase(one, encode(text, one)) for one in TEXTS),
        tuple(describe_labels(spec).get("labels", ())),
        spec.pooling,
        answers,
    )


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def find_missing_texts(contract: TextContract, artifact: Artifact) -> list[str]:
    """Texts that this version asks and a golden folder does not: see `find_wrong_cases`."""
    tokenizer = Tokenizer.open(artifact.folder)
    asked: dict[str, tuple[set[Any], set[Any]]] = {
        "files": ({CONFIG, *TOKENIZER_FILES} & {path.name for path in artifact.folder.iterdir()}, set(contract.files)),
        "texts": (set(TEXTS), {case.text for case in contract.cases}),
        "answers": (
            set(everyday_questions(artifact.description["task"], tokenizer)),
            {one.text for one in contract.answers},
        ),
    }
    return [
        f"golden: {what}: {len(expected - found)} of {len(expected)} are missing"
        for what, (expected, found) in asked.items()
        if expected - found
    ]


def encode(text: TextTokenizer, one: str) -> tuple[int, ...]:
    """The ids of a text, including special tokens. Nothing is cut."""
    return tuple(text.tokenizer.encode(one).ids)


def check_texts(artifact: Artifact, contract: TextContract) -> list[str]:
    """Faults of an artifact's own files that would give a user other answers than the checkpoint's tools."""
    folder = artifact.folder
    faults = [
        f"{name}: " + ("differs from the checkpoint's" if (folder / name).is_file() else "is missing")
        for name, digest in contract.files.items()
        if name != CONFIG  # looked at before an artifact is opened: `yizhi.parity.claims`
        if not (folder / name).is_file() or sha256_of_file(folder / name) != digest
    ]
    try:
        text = read_tokenizer(folder)
        faults += _compare_ids(text, contract.cases)
        faults += _compare_pooling(folder, text, artifact, contract.pooling)
        faults += _compare_labels(folder, artifact, contract.labels)
    except InputError as error:
        faults += [f"{error.subject}: {fault}" for fault in error.faults]
    return [f"text: {fault}" for fault in faults]


def _compare_ids(text: TextTokenizer, cases: Sequence[TextCase]) -> list[str]:
    wrong = [(case, found) for case in cases if (found := encode(text, case.text)) != case.ids]
    faults = []
    for case, found in wrong[:_MOST_FAULTS]:
        at = next(
            (place for place, (one, other) in enumerate(zip(found, case.ids, strict=False)) if one != other),
            min(len(found), len(case.ids)),
        )
        ids = (f"{show(list(ids[at : at + 4]))[:-1]}, …]" for ids in (case.ids, found))
        faults.append(f"{show(case.text)}: token {at}: expected ids {next(ids)}; found {next(ids)}")
    return faults + ([f"and {len(wrong) - _MOST_FAULTS} more texts"] if len(wrong) > _MOST_FAULTS else [])


def _compare_pooling(folder: Path, text: TextTokenizer, artifact: Artifact, expected: Pooling | None) -> list[str]:
    """Compares artifact.json, and the files of sentence-transformers if there are any."""
    told = artifact.description.get("pooling")
    found = {"artifact.json": from_plain(Pooling, told) if told else None}
    faults = []
    if (folder / MODULES).exists():
        settings = read_sentence_settings(folder, text)
        found[MODULES] = settings.pooling if settings else None
        length = text.length(EncoderConfig.read(folder / "config.json").longest)
        if settings and settings.max_length != length:
            faults.append(f"{MODULES}: longest text in tokens: expected {length}; found {settings.max_length}")
    elif expected and expected.mode != SPLADE and artifact.target in WITH_MODULES:
        faults.append(f"{MODULES}: is missing: sentence-transformers would pool by mean")
    return faults + [
        f"{name}: pooling: expected {expected or 'none'}; found {pooling or 'none'}"
        for name, pooling in found.items()
        if pooling != expected
    ]


def _compare_labels(folder: Path, artifact: Artifact, expected: Sequence[str]) -> list[str]:
    config = EncoderConfig.read(folder / "config.json")
    found = {"artifact.json": list(artifact.description.get("labels", ()))}
    faults = []
    if expected and list(expected) != ["start", "end"]:
        told: list[str] = []
        found["config.json"] = list(read_labels(config.raw, told))
        faults += [f"config.json: {fault}" for fault in told]
        kind = artifact.description.get("problem_type")
        given = config.raw.get("problem_type")
        if kind and given is not None and given != kind:
            faults.append(f"config.json: problem_type: expected {show(kind)}; found {show(given)}")
    return faults + [
        f"{name}: labels: expected {show(list(expected))}; found {show(labels)}"
        for name, labels in found.items()
        if labels != list(expected)
    ]

"""Changes between two releases or checkpoints: tensors, text, labels, tolerances, and the answers.

Each side is described by its golden folder or its files. Only answers are computed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yizhi.converters.shared_files import CONFIG
from yizhi.converters.targets import TARGETS, MissingFramework
from yizhi.errors import InputError
from yizhi.model.config import EncoderConfig
from yizhi.model.label_heads import ANSWER, SEQUENCE, TOKENS
from yizhi.model.spec import Pooling
from yizhi.parity.answers import TextAnswer, ask, questions_of
from yizhi.parity.compare import cosines
from yizhi.parity.golden import Golden
from yizhi.parity.sentence_quality import order_kept
from yizhi.parity.texts import TextContract, make_contract
from yizhi.parity.weights import TensorDigest, digest_tensors
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.sentences import CHINESE, ENGLISH
from yizhi.release.manifest import GOLDEN, find_altered_release, is_meant_as_release, read_manifest
from yizhi.runtimes import open_runtime
from yizhi.runtimes.base import Runtime
from yizhi.runtimes.embeddings import Embedder
from yizhi.runtimes.tasks import FILL_MASK
from yizhi.runtimes.tokenization import Tokenizer
from yizhi.storage.codec import to_plain

# Stored vectors of one side stand beside new ones of the other where each text's cosine is at least this: float32
# targets of one checkpoint differ by 1e-7, and int8 of a sound one by less than this on average (docs/int8.md).
SAME_VECTORS = 0.999
_PREFERRED = ("onnx", "pytorch", "flax", "tensorflow")  # by how soon they answer


@dataclass(frozen=True)
class Side:
    """One of the two sides. config: the fields of `config.json` that the model computes with.

    For a release only, by target: tolerances; versions of the code that made it; options, such as parts kept in
    float32.
    """

    path: Path
    kind: str
    task: str
    tensors: Mapping[str, TensorDigest]
    text: TextContract
    max_length: int
    config: Mapping[str, Any]
    targets: tuple[str, ...] = ()
    tolerances: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """A setting that differs. before, after: None if that side does not have it."""

    what: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Moved:
    """How far answers moved, on the texts that both sides can take.

    ran: how each side was run. texts: their number. same_best: share of the places with the same best answer; places:
    their number; None if the task gives no answers, or the tasks differ. cosine_least, cosine_mean: of the texts'
    vectors; order: Spearman correlation of the similarities of all pairs of texts. None if the widths differ. examples:
    a few answers that differ.
    """

    ran: tuple[str, str]
    texts: int
    places: int | None = None
    same_best: float | None = None
    cosine_least: float | None = None
    cosine_mean: float | None = None
    order: float | None = None
    examples: tuple[Change, ...] = ()


@dataclass(frozen=True)
class ReleaseDiff:
    """changed, added, removed: names of tensors. ids: texts with different ids, and how many were compared.

    reindex: why stored vectors must be computed again; empty if they need not be. labels: why programs that read the
    labels must change; empty if they need not.
    """

    before: str
    after: str
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    tensors: int
    files: tuple[str, ...]
    ids: tuple[str, ...]
    texts: int
    settings: tuple[Change, ...]
    moved: Moved | None
    reindex: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether nothing changed that can change an answer, and no answer changed."""
        moved = self.moved is not None and self.moved.same_best not in (None, 1.0)
        stored = self.changed or self.added or self.removed or self.files or self.ids or self.settings
        return not (stored or moved or self.reindex or self.labels)


def describe_side(path: Path) -> Side:
    """A release, from its manifest and golden folder, or a checkpoint, from its files. Raises InputError."""
    if is_meant_as_release(path):
        manifest = read_manifest(path)
        altered = find_altered_release(path, manifest)
        if altered:
            raise InputError(path, [f"{part}: {fault}" for part, faults in altered.items() for fault in faults])
        golden = Golden.read(path / GOLDEN)
        artifacts = manifest["artifacts"]
        return Side(
            path,
            "release",
            manifest["source"]["task"],
            golden.weights,
            golden.text,
            Tokenizer.open(path / next(iter(artifacts))).max_length,
            _computed(EncoderConfig.read(path / next(iter(artifacts)) / "config.json")),
            tuple(artifacts),
            {name: entry["parity"]["tolerance"] for name, entry in artifacts.items()},
            {name: entry["made_with"] for name, entry in artifacts.items()},
            {name: entry["options"] for name, entry in artifacts.items()},
        )
    with Checkpoint.open(path) as checkpoint:
        checkpoint.check_values()
        return Side(
            path,
            "checkpoint",
            checkpoint.spec.task,
            digest_tensors(checkpoint),
            make_contract(checkpoint),
            checkpoint.text.length(checkpoint.config.longest),
            _computed(checkpoint.config),
        )


def _computed(config: EncoderConfig) -> dict[str, Any]:
    """The fields that arithmetic depends on; labels and the class are compared by what they mean."""
    return {
        field.name: to_plain(getattr(config, field.name))
        for field in fields(config)
        if field.name not in ("raw", "architecture", "vocab_size")
    }


def compare_sides(before: Side, after: Side, moved: Moved | None) -> ReleaseDiff:
    """The differences of two sides, and their consequences."""
    names = [*before.tensors, *(name for name in after.tensors if name not in before.tensors)]
    changed = tuple(
        name
        for name in names
        if name in before.tensors and name in after.tensors and before.tensors[name] != after.tensors[name]
    )
    files = sorted({*before.text.files, *after.text.files} - {CONFIG})  # of that, what counts is among the settings
    known = {case.text: case.ids for case in after.text.cases}
    both = [case for case in before.text.cases if case.text in known]
    ids = tuple(case.text for case in both if known[case.text] != case.ids)
    return ReleaseDiff(
        str(before.path),
        str(after.path),
        changed,
        tuple(name for name in names if name not in before.tensors),
        tuple(name for name in names if name not in after.tensors),
        len(names),
        tuple(name for name in files if before.text.files.get(name) != after.text.files.get(name)),
        ids,
        len(both),
        tuple(_changed_settings(before, after)),
        moved,
        tuple(_why_reindex(before, after, ids, moved)),
        tuple(_why_labels(before, after)),
    )


def _changed_settings(before: Side, after: Side) -> Iterator[Change]:
    pairs: dict[str, tuple[Any, Any]] = {
        "task": (before.task, after.task),
        "labels": (list(before.text.labels), list(after.text.labels)),
        "pooling": (_say(before.text.pooling), _say(after.text.pooling)),
        "longest text in tokens": (before.max_length, after.max_length),
    }
    pairs |= {name: (before.config.get(name), after.config.get(name)) for name in {**before.config, **after.config}}
    if before.kind == after.kind == "release":
        pairs["targets"] = (list(before.targets), list(after.targets))
        for name in before.targets:
            if name in after.targets:
                pairs[f"tolerance of {name}"] = (before.tolerances[name], after.tolerances[name])
                pairs[f"options of {name}"] = (before.options[name], after.options[name])
                pairs[f"{name} was made with"] = (before.versions[name], after.versions[name])
    yield from (Change(what, one, other) for what, (one, other) in pairs.items() if one != other)


def _say(pooling: Pooling | None) -> str | None:
    return str(pooling) if pooling else None


def _why_reindex(before: Side, after: Side, ids: Sequence[str], moved: Moved | None) -> Iterator[str]:
    if ids:
        yield f"the tokenizers give other ids to {len(ids)} of the texts that tell tokenizers apart"
    if before.text.pooling != after.text.pooling:
        yield f"pooling: {_say(before.text.pooling) or 'none'} before; {_say(after.text.pooling) or 'none'} after"
    if moved is None:
        if before.tensors != after.tensors or before.config != after.config:
            yield "the model changed, and no answers were compared"
    elif not moved.texts:
        if before.tensors != after.tensors or before.config != after.config:
            yield "the model changed, and no text is short enough for both to be compared"
    elif moved.cosine_least is None:
        yield "the vectors have another width"
    elif not moved.cosine_least >= SAME_VECTORS:
        yield f"a text's vectors have a cosine of {moved.cosine_least:.4f}; expected at least {SAME_VECTORS}"


def _why_labels(before: Side, after: Side) -> Iterator[str]:
    if before.task != after.task:
        yield f"task: {before.task} before; {after.task} after"
    one, other = before.text.labels, after.text.labels
    if one == other:
        return
    if sorted(one) == sorted(other):
        yield f"the same labels in another order: {', '.join(one)} before; {', '.join(other)} after"
        return
    for what, names in (("gone", set(one) - set(other)), ("new", set(other) - set(one))):
        if names:
            yield f"{what}: {', '.join(sorted(names))}"


def measure_answers(before: Side, after: Side, texts: Sequence[str] = ()) -> Moved:
    """Ask both sides the same texts: the user's, else everyday sentences in the vocabulary's language.

    A release answers with its first target that can run here and that the other release has, too. A checkpoint answers
    with the float64 oracle. Raises InputError if a text is too long for either, or if no target can run.
    """
    with ExitStack() as stack:
        shared = [name for name in before.targets if name in after.targets]
        (one, a), (other, b) = (stack.enter_context(_open(side, shared or side.targets)) for side in (before, after))
        chosen = list(texts) or _everyday(a)
        taken = [text for text in chosen if all(_fits(text, tokenizer) for tokenizer in (a, b))]
        if texts and len(taken) < len(texts):
            raise InputError("`texts`", f"{len(texts) - len(taken)} of {len(texts)} are too long")
        ran = str(one.artifact.description["target"]), str(other.artifact.description["target"])
        moved = Moved(ran, len(taken))
        if not taken:
            return moved
        found: dict[str, Any] = {}
        if before.task == after.task and before.task in (FILL_MASK, SEQUENCE, TOKENS, ANSWER):
            asked = questions_of(before.task, taken, a, b)
            found |= _compare_best(ask(one, a, asked), ask(other, b, asked)) if asked else {}
        first, second = Embedder(one, a), Embedder(other, b)
        if first.size == second.size:
            found |= _compare_vectors(first(taken), second(taken))
        return Moved(ran, len(taken), **found)


def _compare_vectors(one: NDArray[np.float32], other: NDArray[np.float32]) -> dict[str, float | None]:
    values = cosines(one, other)
    order = order_kept(one, other) if len(one) > 2 else None
    return {"cosine_least": float(values.min()), "cosine_mean": float(values.mean()), "order": order}


def _compare_best(one: Sequence[TextAnswer], other: Sequence[TextAnswer]) -> dict[str, Any]:
    places, same, examples = 0, 0, []
    for before, after in zip(one, other, strict=True):
        best = [{said.place: next(iter(said.scores), None) for said in answer.said} for answer in (before, after)]
        for place in {**best[0], **best[1]}:
            places += 1
            pair = best[0].get(place), best[1].get(place)
            same += pair[0] == pair[1]
            if pair[0] != pair[1]:
                examples.append(Change(" / ".join(before.text) + (f", {place}" if place else ""), *pair))
    return {"places": places, "same_best": same / places if places else None, "examples": tuple(examples[:5])}


def _everyday(tokenizer: Tokenizer) -> list[str]:
    def known(text: str) -> bool:
        return _fits(text, tokenizer) and tokenizer.unknown_id not in tokenizer.tokenize([text])[0].ids

    kinds = [[text for text in sentences if known(text)] for sentences in (CHINESE, ENGLISH)]
    best = max(kinds, key=len)
    return best or [*CHINESE[:5], *ENGLISH[:5]]


def _fits(text: str, tokenizer: Tokenizer) -> bool:
    """With a token to spare, for a mask."""
    try:
        return len(tokenizer.tokenize([text])[0].ids) < tokenizer.max_length
    except InputError:
        return False


@contextmanager
def _open(side: Side, targets: Sequence[str]) -> Iterator[tuple[Runtime, Tokenizer]]:
    if side.kind == "checkpoint":
        from yizhi.parity import oracle  # needs scipy, which a machine that only runs artifacts does not have
        from yizhi.parity.oracle_runtime import OracleRuntime

        with Checkpoint.open(side.path) as checkpoint:
            parameters = oracle.Parameters(checkpoint, keep=2**30)
            yield OracleRuntime(checkpoint, parameters), Tokenizer.of(checkpoint.text, checkpoint.config)
        return
    missing = []
    for name in sorted(targets, key=lambda name: _PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED)):
        try:
            TARGETS[name].load_runtime()
        except MissingFramework as error:
            missing += error.faults
            continue
        with open_runtime(side.path / name) as runtime:
            yield runtime, Tokenizer.open(side.path / name)
        return
    raise InputError(side.path, missing)

"""`yizhi export`: plan the jobs that are out of date, run them, verify the artifacts, write the manifest."""

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yizhi import __version__
from yizhi.catalogue.catalogue import advise_pooling, find_known
from yizhi.catalogue.identify import Identity, find_origin, identify
from yizhi.converters.shared_files import describe_interface, describe_pooling
from yizhi.converters.targets import KEEP_BF16, TARGETS, Target
from yizhi.errors import InputError
from yizhi.model.spec import Pooling
from yizhi.parity.record import VerificationRecord
from yizhi.pipeline.code_digests import JUDGED_WITH, MADE_WITH, code_digest
from yizhi.pipeline.head import choose_scorer, find_head
from yizhi.pipeline.jobs import Job, Result, Step, run_jobs, share_cores
from yizhi.pipeline.precision import choose_float_options
from yizhi.pipeline.progress import Progress
from yizhi.pipeline.results import Row
from yizhi.pipeline.steps import CALIBRATION, Convert, MakeGolden, Verify
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.sentences import rows_of
from yizhi.reading.source_card import SourceCard, read_source_card
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.release.documents import write_documents
from yizhi.release.manifest import (
    ATTESTATIONS,
    GOLDEN,
    MANIFEST,
    SIGNATURE,
    describe_documents,
    describe_release,
    list_documents,
    read_manifest,
    write_manifest,
)
from yizhi.release.places import check_writable, refuse_inside, refuse_source
from yizhi.storage.codec import from_plain
from yizhi.storage.digests import describe_folder, sha256_of_file
from yizhi.storage.folders import remove_leftovers
from yizhi.storage.locks import hold
from yizhi.storage.texts import read_texts

# Of a calibration text: rows at most, and tokens of a row. More would only take longer.
MOST_CALIBRATION, LONGEST_CALIBRATION = 256, 128


@dataclass(frozen=True)
class _State:
    """What is already in the release folder and still true.

    current: targets whose artifact is what this checkpoint and this code would write again.
    verdicts: verdicts in the manifest that still hold, by target.
    golden: whether `golden/` is this checkpoint's. documents: whether cards and the like are as written.
    """

    current: set[str]
    verdicts: dict[str, VerificationRecord]
    golden: bool
    documents: bool


def export(
    checkpoint_path: Path,
    release: Path,
    targets: list[Target],
    jobs: int,
    progress: Progress,
    origin: dict[str, str] | None = None,
    int8_options: dict[str, Any] | None = None,
    pooling: Pooling | None = None,
    calibration: Path | None = None,
    ignored_files: Sequence[str] = (),
    dimensions: int | None = None,
    precision: str = "fp32",
) -> list[Row]:
    """Export and verify `targets`. Artifacts that are up to date stay as they are. Returns a row per target.

    origin: hub id and revision, for the manifest.
    int8_options: the arguments of `yizhi.converters.int8_plan.plan_int8` that differ from its defaults.
    pooling: of the output `sentence_embedding`; None: as in `Checkpoint.open`.
    calibration: a file with a sentence per line, to find int8's outlier channels on.
    ignored_files: names of files of the checkpoint to ignore. precision: as `choose_float_options` takes it.
    Raises InputError, before anything is written, for a checkpoint that cannot be used.
    """
    progress.note(f"checking {checkpoint_path}")
    with Checkpoint.open(checkpoint_path, pooling, ignored_files, dimensions) as checkpoint:
        refuse_source(release, checkpoint.folder)
        float_options = choose_float_options(checkpoint, targets, precision)
        rows_of_ids = read_calibration(checkpoint, calibration, progress) if calibration else []
        source = describe_source(checkpoint, origin)
        digest = source["files"]
        descriptions = describe_artifacts(checkpoint, targets, digest, int8_options, calibration, float_options)
        pooling = checkpoint.spec.pooling
        advice = advise_pooling(source.get("known"), pooling)
        for note in [*checkpoint.notes(), *read_source_card(checkpoint.folder).notes, *([advice] if advice else [])]:
            progress.warn(note)
        parameters = count_parameters(checkpoint)
    refuse_inside(release)
    check_writable(release, [target.name for target in targets])
    with locked(release):
        progress.note(f"hashing {release}")
        state = _assess(release, source, descriptions)
        known, ignored = source.get("known"), tuple(source.get("ignored_files", ()))
        plan = _plan(checkpoint_path, release, targets, descriptions, state, known, pooling, rows_of_ids, ignored, jobs)
        check_space(release, plan, parameters)
        if plan or not state.documents:
            # What they say is about to stop being true; the manifest first, since it vouches for the rest.
            for name in (MANIFEST, SIGNATURE, ATTESTATIONS, *list_documents(TARGETS)):
                (release / name).unlink(missing_ok=True)
        progress.begin([job.name for job in plan])
        results = run_jobs(plan, jobs, progress)
        rows = [_row(release, target, results, state) for target in targets]
        if (plan or not state.documents) and all(row.passed for row in rows):
            verdicts = {**state.verdicts, **{row.target: row.verdict for row in rows if row.verdict}}
            artifacts = [Artifact.read(release / name) for name in TARGETS if name in verdicts]
            parity = {name: verdict.as_dict() for name, verdict in verdicts.items()}
            embedding = find_known(source["known"]).embedding if "known" in source else None
            write_documents(release, source, artifacts, parity, embedding.prompt if embedding else None)
            write_manifest(release, describe_release(release, source, artifacts, parity))
    return rows


def read_calibration(checkpoint: Checkpoint, path: Path, progress: Progress) -> list[list[int]]:
    """Rows of ids of a text's lines; warns of unusable lines. Raises InputError if no line is usable."""
    longest = min(LONGEST_CALIBRATION, checkpoint.config.longest)
    try:
        rows, useless = rows_of(checkpoint.text, read_texts(path), longest, MOST_CALIBRATION)
    except InputError as error:
        raise InputError(path, error.faults) from None
    if useless:
        progress.warn(f"{path}: {useless} lines have no words or mostly unknown ones; {len(rows)} are used")
    return rows


def describe_source(checkpoint: Checkpoint, origin: dict[str, str] | None) -> dict[str, Any]:
    """The release's source and the code that judges it. Raises InputError for values that cannot be used."""
    with ThreadPoolExecutor(1) as thread:
        hashing = thread.submit(checkpoint.digest)
        checkpoint.check_values()
        digest = hashing.result()
    identity = identify(checkpoint, digest)
    known = find_origin(identity, origin)
    return {
        "files": digest,
        "model_type": checkpoint.config.model_type,
        "task": checkpoint.spec.task,
        "judged_with": code_digest(JUDGED_WITH),
        **({"origin": origin} if origin else {}),
        **describe_pooling(checkpoint.spec),
        **({"ignored_files": list(checkpoint.ignored_files)} if checkpoint.ignored_files else {}),
        **({"known": known} if known else {}),
        **_describe_card(read_source_card(checkpoint.folder), identity, origin),
    }


def _describe_card(card: SourceCard, identity: Identity | None, origin: dict[str, str] | None) -> dict[str, Any]:
    """Licence, languages and base model, as far as the source says them or it is a known checkpoint, unaltered."""
    known = find_known(identity.name) if identity and identity.is_unaltered else None
    licence = card.licence or (known.licence_id if known else None)
    base_model = (origin or {}).get("hub") or (known.hub[0] if known and known.hub else None) or card.base_model
    languages = list(card.languages) or (["zh"] if known else [])
    return {
        **({"license": licence} if licence else {}),
        **({"languages": languages} if languages else {}),
        **({"base_model": base_model} if base_model else {}),
    }


def describe_artifacts(
    checkpoint: Checkpoint,
    targets: list[Target],
    digest: dict[str, str],
    int8_options: dict[str, Any] | None,
    calibration: Path | None,
    float_options: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """`describe_artifact` of each target, by name, with `export`'s options of int8, or of float32."""
    given = {**(int8_options or {}), **({CALIBRATION: sha256_of_file(calibration)} if calibration else {})}
    options = {"int8": given, "fp32": float_options}
    return {target.name: describe_artifact(target, checkpoint, digest, options[target.precision]) for target in targets}


def describe_artifact(
    target: Target, checkpoint: Checkpoint, digest: dict[str, str], options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """`artifact.json` without its files. Equal descriptions make equal bytes.

    digest: sha256 of each of the checkpoint's files. options: the converter's other arguments.
    """
    return {
        "target": target.name,
        "precision": target.precision,
        **describe_interface(checkpoint.spec, len(checkpoint.text.vocab), target.steps),
        "source": digest,
        "options": options or {},
        "made_with": {
            "yizhi": __version__,
            "converters": code_digest(MADE_WITH),
            **(target.versions() if target.is_convertible() else {}),
        },
    }


def _assess(release: Path, source: dict[str, Any], descriptions: dict[str, dict[str, Any]]) -> _State:
    try:
        manifest = read_manifest(release)
        told = {name: from_plain(VerificationRecord, entry["parity"]) for name, entry in manifest["artifacts"].items()}
    except InputError:
        manifest, told = {"source": None, "golden": {}, "artifacts": {}, "documents": {}}, {}
    judged = manifest["artifacts"] if manifest["source"] == source else {}
    golden = bool(judged) and describe_folder(release / GOLDEN) == manifest["golden"]
    current = {name for name in {*descriptions, *judged} if _is_current(release / name, descriptions.get(name, {}))}
    verdicts = {
        name: told[name]
        for name, entry in judged.items()
        if golden and name in current and sha256_of_file(release / name / DESCRIPTION) == entry[DESCRIPTION]
    }
    documents = describe_documents(release, manifest["artifacts"])
    return _State(current, verdicts, golden, bool(documents) and documents == manifest["documents"])


def _is_current(folder: Path, description: dict[str, Any]) -> bool:
    try:
        artifact = Artifact.read(folder)
    except InputError:
        return False
    as_described = all(artifact.description.get(key) == value for key, value in description.items())
    return as_described and not artifact.find_altered_files()


def _plan(
    checkpoint: Path,
    release: Path,
    targets: list[Target],
    descriptions: dict[str, dict[str, Any]],
    state: _State,
    known: str | None,
    pooling: Pooling | None,
    calibration: list[list[int]],
    ignored: tuple[str, ...],
    parallel: int,
) -> list[Job[Any]]:
    """The jobs still to do, so many at once. The slowest start first, so that no core idles at the end.

    known: the known checkpoint that this is, whose published outputs are to be checked. ignored: files passed over.
    The order in which float sums are added depends on the number of threads, so what ends in the manifest is computed
    by one: the same release has the same manifest however many jobs run, on however many cores.
    """
    stale = [target for target in targets if target.name not in state.current]
    unverified = [target for target in targets if target.name not in state.verdicts]
    plan: list[Job[Any]] = plan_conversions(checkpoint, release, stale, descriptions, calibration, ignored)
    if unverified and not state.golden:
        make = MakeGolden(checkpoint, release / GOLDEN, pooling, ignored, share_cores(1, parallel))
        plan.insert(1, Job("oracle", make, threads=1))
    planned = {job.name for job in plan}
    scores = None if find_head(state.verdicts) else choose_scorer([target.name for target in unverified])
    for target in unverified:
        verify = Verify(
            release / target.name,
            release / GOLDEN,
            score_head=target.name == scores,
            known=known,
            bisect=checkpoint,
            workers=share_cores(len(unverified), parallel),
        )
        after = tuple(name for name in (f"export {target.name}", "oracle") if name in planned)
        plan.append(Job(f"verify {target.name}", verify, after, threads=1))
    return plan


def plan_conversions(
    checkpoint: Path,
    folder: Path,
    targets: list[Target],
    descriptions: dict[str, dict[str, Any]],
    calibration: list[list[int]],
    ignored: tuple[str, ...],
) -> list[Job[None]]:
    """A job for each target, that writes its artifact into this folder; the slowest first."""
    return [
        Job(
            f"export {target.name}",
            Convert(
                checkpoint,
                target.name,
                folder / target.name,
                descriptions[target.name],
                calibration if target.precision == "int8" else [],
                ignored,
            ),
        )
        for target in sorted(targets, key=lambda target: not target.slow)
    ]


def _row(release: Path, target: Target, results: dict[str, Result[Any]], state: _State) -> Row:
    exported, verified = (results.get(f"{step} {target.name}") for step in ("export", "verify"))
    verdict = state.verdicts.get(target.name) or (verified.value if verified else None)
    row = Row(target.name, exported, verified, verdict)
    if not (exported and exported.faults):
        row.describe(Artifact.read(release / target.name))
    return row


def count_parameters(checkpoint: Checkpoint) -> int:
    """How many numbers a checkpoint has."""
    return sum(math.prod(parameter.shape) for parameter in checkpoint.parameters())


def _estimate_bytes(step: Step[object], parameters: int) -> int:
    """What a step will write, more or less, from the number of parameters."""
    if isinstance(step, Convert):
        halved = 2 if step.description["options"].get(KEEP_BF16) else 1
        return int(TARGETS[step.target].size * parameters) // halved
    return parameters if isinstance(step, MakeGolden) else 0


def check_space(release: Path, plan: list[Job[Any]], parameters: int) -> None:
    """Raise InputError if the disk has no space for the output of these jobs. parameters: how many the model has."""
    needed = sum(_estimate_bytes(job.step, parameters) for job in plan)
    free = shutil.disk_usage(release).free
    if free < needed:
        raise InputError(release, f"no space: needs about {needed / 1e9:.2f} GB; {free / 1e9:.2f} GB are free")


@contextmanager
def locked(release: Path) -> Iterator[None]:
    """Lock the release folder against other exports. The lock ends with the process, also after a kill."""
    existed = release.exists()
    try:
        release.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(release, f"cannot be written: {error.strerror}") from None
    try:
        with hold(release, "another export into this folder is running"):
            if not os.access(release, os.W_OK):
                raise InputError(release, "cannot be written: Permission denied")
            for name in (*TARGETS, GOLDEN):
                remove_leftovers(release / name)
            yield
    finally:
        if not existed and not any(release.iterdir()):
            release.rmdir()

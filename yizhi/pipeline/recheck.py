"""`yizhi verify`: files first, then outputs, of a release or of one artifact."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from yizhi.catalogue.catalogue import find_name_by_files
from yizhi.choices import WASM
from yizhi.converters.targets import TARGETS, Target
from yizhi.errors import InputError
from yizhi.parity.record import Integers, VerificationRecord
from yizhi.pipeline.evaluation import Demand
from yizhi.pipeline.head import choose_scorer
from yizhi.pipeline.jobs import Job, run_jobs, share_cores
from yizhi.pipeline.progress import Progress
from yizhi.pipeline.results import Row
from yizhi.pipeline.steps import Verify
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.release.manifest import GOLDEN, find_altered_release, read_manifest
from yizhi.storage.codec import from_plain, to_plain


def verify_path(
    path: Path,
    targets: list[Target] | None,
    device: str,
    jobs: int,
    progress: Progress,
    bisect: Path | None = None,
    demand: Demand | None = None,
    math: str = "strict",
) -> list[Row]:
    """Check the files and outputs of a release, or of one artifact inside or outside a release.

    bisect: the release's checkpoint, to find the first tensor that differs. demand: labelled data to score on.
    math: one of `yizhi.choices.MATH`. On the device `wasm`, the targets are those that a browser can run if None.
    Raises InputError if the path is neither, or if a requested target is not in it.
    """
    progress.note(f"hashing {path}")
    if device == WASM and not targets:
        targets = _choose_for_browsers(path)
    release, names, altered, known = _check_files(path, targets)
    if demand:
        for fault in demand.check(release, names):
            progress.warn(f"left out: {fault}")
    elsewhere = [f"{part}/{fault}" for part in (GOLDEN, ".") for fault in altered.get(part, [])]
    rows = {name: Row(name, altered=[*altered.get(name, []), *elsewhere]) for name in names}
    unaltered = [name for name, row in rows.items() if not row.altered]
    scores = choose_scorer(unaltered)
    workers = share_cores(max(1, len(unaltered)), jobs) if device == "cpu" else 1
    verify = partial(
        Verify, golden=release / GOLDEN, device=device, known=known, bisect=bisect, math=math, workers=workers
    )
    plan = [Job(name, verify(release / name, score_head=name == scores), threads=1) for name in unaltered]
    progress.begin([job.name for job in plan])
    for name, result in run_jobs(plan, jobs, progress).items():
        rows[name].verification = result
        rows[name].verdict = result.value and _compare_with_manifest(result.value, path, name)
    for name, row in rows.items():
        if not row.altered:
            row.describe(Artifact.read(release / name))
    if demand:
        demand.run(release, rows, device, jobs, progress)
    return list(rows.values())


def _choose_for_browsers(path: Path) -> list[Target] | None:
    """What a browser can run of a release; None for an artifact alone. Raises InputError where that is nothing."""
    if (path / DESCRIPTION).exists():
        return None
    has = read_manifest(path)["artifacts"]
    can = [target for target in TARGETS.values() if target.wasm]
    if not any(target.name in has for target in can):
        names = " and no ".join(target.name for target in can)
        raise InputError(path, f"has no {names}, which a browser can run; it has {', '.join(has)}")
    return [target for target in can if target.name in has]


def _compare_with_manifest(verdict: VerificationRecord, path: Path, name: str) -> VerificationRecord:
    """The verdict, with what the release's manifest says otherwise; as it is for an artifact alone."""
    if (path / DESCRIPTION).exists():
        return verdict
    released = read_manifest(path)["artifacts"][name]["parity"]
    verdict = compare_tolerances(verdict, released)
    if TARGETS[name].precision == "int8" and released.get("integers"):
        return compare_integers(verdict, from_plain(Integers, released["integers"]))
    return verdict


def compare_tolerances(verdict: VerificationRecord, released: Mapping[str, Any]) -> VerificationRecord:
    """The verdict, with a fault where the manifest names another tolerance for the same arithmetic.

    Tolerances come from the code. A manifest with another tolerance was edited, or is another version's.
    """
    own = json.loads(json.dumps(to_plain(verdict.tolerance)))
    same_arithmetic = (released["precision"], released["device"]) == (verdict.precision, verdict.device)
    if not same_arithmetic or released["tolerance"] == own:
        return verdict
    fault = f"manifest.json: tolerance: expected this version's, {own}; found {released['tolerance']}"
    return replace(verdict, passed=False, faults=[*verdict.faults, fault])


def compare_integers(verdict: VerificationRecord, released: Integers) -> VerificationRecord:
    """The verdict, with a fault where an int8 artifact's integers are not those that the release was judged on.

    Processors may round floats differently; tolerances allow that. Integers must be equal.
    """
    if verdict.integers and verdict.integers.digest == released.digest:
        return replace(verdict, integers=replace(verdict.integers, released_on=released.instructions))
    found = verdict.integers.digest if verdict.integers else "none"
    fault = f"integer sums: expected sha256 {released.digest}, judged on {released.instructions}; found {found}"
    return replace(verdict, passed=False, faults=[*verdict.faults, fault])


def _check_files(path: Path, targets: list[Target] | None) -> tuple[Path, list[str], dict[str, list[str]], str | None]:
    """The release, its artifacts to run, what was altered by folder, and which known checkpoint it was made from."""
    if (path / DESCRIPTION).exists():
        if not (path.parent / GOLDEN).is_dir():
            raise InputError(path, f"cannot be compared: there is no {GOLDEN}/ beside it")
        artifact = Artifact.read(path)
        known = find_name_by_files(artifact.description.get("source"))
        return path.parent, [path.name], {path.name: artifact.find_altered_files()}, known
    manifest = read_manifest(path)
    names = [name for name in TARGETS if name in manifest["artifacts"]]
    if targets:
        missing = [target.name for target in targets if target.name not in names]
        if missing:
            raise InputError(path, f"has no {', '.join(missing)}; it has {', '.join(names)}")
        names = [target.name for target in targets]
    return path, names, find_altered_release(path, manifest), manifest["source"].get("known")

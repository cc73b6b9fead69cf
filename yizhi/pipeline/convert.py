"""`yizhi convert`: artifacts without a verdict."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yizhi.catalogue.catalogue import advise_pooling
from yizhi.converters.targets import Target
from yizhi.errors import InputError
from yizhi.model.spec import Pooling
from yizhi.pipeline.export import (
    check_space,
    count_parameters,
    describe_artifacts,
    describe_source,
    locked,
    plan_conversions,
    read_calibration,
)
from yizhi.pipeline.jobs import run_jobs
from yizhi.pipeline.precision import choose_float_options
from yizhi.pipeline.progress import Progress
from yizhi.pipeline.results import Row
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import Artifact
from yizhi.release.manifest import MANIFEST
from yizhi.release.places import refuse_inside, refuse_source


def convert(
    checkpoint_path: Path,
    folder: Path,
    targets: list[Target],
    jobs: int,
    progress: Progress,
    int8_options: dict[str, Any] | None = None,
    pooling: Pooling | None = None,
    calibration: Path | None = None,
    ignored_files: Sequence[str] = (),
    dimensions: int | None = None,
    precision: str = "fp32",
) -> list[Row]:
    """Write each target's artifact into `folder`, as `export` does, and compare nothing. Returns a row per target.

    The arguments are those of `yizhi.pipeline.export.export`, which later verifies the artifacts and makes a release
    of them. Raises InputError, before anything is written, for a checkpoint that cannot be used, and if `folder` is a
    release: its manifest lists the artifacts in it.
    """
    refuse_inside(folder)
    if (folder / MANIFEST).exists():
        raise InputError(folder, "is a release: its manifest lists its artifacts. Choose another folder")
    progress.note(f"checking {checkpoint_path}")
    with Checkpoint.open(checkpoint_path, pooling, ignored_files, dimensions) as checkpoint:
        refuse_source(folder, checkpoint.folder)
        float_options = choose_float_options(checkpoint, targets, precision)
        rows_of_ids = read_calibration(checkpoint, calibration, progress) if calibration else []
        source = describe_source(checkpoint, origin=None)
        digest = source["files"]
        descriptions = describe_artifacts(checkpoint, targets, digest, int8_options, calibration, float_options)
        advice = advise_pooling(source.get("known"), checkpoint.spec.pooling)
        for note in [*checkpoint.notes(), *([advice] if advice else [])]:
            progress.warn(note)
        parameters = count_parameters(checkpoint)
    with locked(folder):
        plan = plan_conversions(checkpoint_path, folder, targets, descriptions, rows_of_ids, tuple(ignored_files))
        check_space(folder, plan, parameters)
        progress.begin([job.name for job in plan])
        results = run_jobs(plan, jobs, progress)
    rows = []
    for target in targets:
        result = results[f"export {target.name}"]
        size = Artifact.read(folder / target.name).size() if result.succeeded else None
        rows.append(Row(target.name, export=result, size=size))
    return rows

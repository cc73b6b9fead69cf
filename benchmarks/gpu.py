"""Every target and tier of arithmetic on a GPU, against the float64 oracle, and how fast: docs/gpu.md.

    python -m benchmarks.gpu                                       # the synthetic default, on cuda
    python -m benchmarks.gpu --checkpoint DIR --device cpu         # to rehearse where there is none

Exports with what is installed, verifies on the CPU, runs each target and tier in a process of its own, then times what
could be run. Writes OUT/gpu.json, which `python -m benchmarks.gpu_report` puts into docs/gpu.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TypeVar

from benchmarks.gpu_report import FAIL, NOT_RUN, PASS, MatrixRate, Report, Speed, Verified, render
from yizhi.choices import MATH
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError
from yizhi.parity.record import VerificationRecord
from yizhi.parity.tolerances import FloatTolerance
from yizhi.pipeline.environment import Environment
from yizhi.pipeline.export import export
from yizhi.pipeline.jobs import Job, Result, Watcher, run_jobs
from yizhi.pipeline.progress import Progress
from yizhi.pipeline.results import Row
from yizhi.pipeline.steps import Verify
from yizhi.pipeline.synthesis import DEFAULT_CONFIG, synthesize
from yizhi.release.manifest import GOLDEN
from yizhi.reports.tables import describe_errors
from yizhi.storage.codec import from_plain, to_plain
from yizhi.storage.json_files import to_json

# Verifications at once: each keeps a core or two busy compiling, and takes a gigabyte or two of the GPU.
AT_ONCE = 8
SECONDS = 200  # for timing one target
T = TypeVar("T")


def measure(
    checkpoint: Path, out: Path, device: str, targets: Sequence[str], tiers: Sequence[str]
) -> tuple[Report, Path]:
    """Export and verify: the report, as far as it goes, and the release. Nothing is timed yet.

    OUT/gpu.json is written whenever a verdict is there: a run that is cut short keeps what it found. What is wrong on
    the CPU already goes no further. Raises InputError for a checkpoint that cannot be used.
    """
    missing = {name: sorted(set(TARGETS[name].missing())) for name in targets}
    installed = [TARGETS[name] for name in targets if not missing[name]]
    if not installed:
        raise InputError("--target", [f"{name} needs {', '.join(needs)}" for name, needs in missing.items()])
    _say("exporting, and verifying on the CPU")
    release, cores = out / "release", os.cpu_count() or 1
    with Progress() as progress:
        rows = export(checkpoint, release, installed, min(len(installed), cores), progress)
    absent = [
        Verified(name, "all", NOT_RUN, faults=[f"needs {', '.join(needs)}"]) for name, needs in missing.items() if needs
    ]
    absent += [
        replace(describe("all", row, 0.0), faults=[f"on the CPU: {fault}" for fault in row.faults])
        for row in rows
        if not row.passed
    ]
    report = Report(device, find_card(), time.strftime("%Y-%m-%d"), checkpoint.name, Environment.here(), absent)
    jobs = [
        Job(f"{row.target} {math}", Verify(release / row.target, release / GOLDEN, device, math=math))
        for row in rows
        if row.passed
        for math in tiers
    ]

    class Writer(Watcher):
        def finished(self, result: Result[VerificationRecord]) -> None:
            target, math = result.name.split()
            row = describe(math, Row(target, verification=result, verdict=result.value), result.seconds)
            report.verified.append(row)
            _say(f"{result.name}: {row.verdict}, {result.seconds:.0f} s")
            write(report, out)

    run_jobs(jobs, min(AT_ONCE, cores), Writer())
    report.verified.sort(key=lambda row: (list(targets).index(row.target), [*tiers, "all"].index(row.math)))
    return report, release


def write(report: Report, out: Path) -> None:
    """Write OUT/gpu.json."""
    (out / "gpu.json").write_text(to_json(to_plain(report)), encoding="utf-8")


def describe(math: str, row: Row, seconds: float) -> Verified:
    """One verification, as the report keeps it."""
    record = row.verdict
    verdict = PASS if row.passed else NOT_RUN if row.not_run else FAIL
    if record is None:
        return Verified(row.target, math, verdict, faults=row.faults, seconds=seconds)
    # The two parts of a float tolerance are equal; an int8 artifact has gates of its own.
    allowed = record.tolerance.absolute if isinstance(record.tolerance, FloatTolerance) else None
    needs = max(worst.excess for worst in record.worst.values()) * allowed if allowed and record.worst else None
    return Verified(
        row.target,
        math,
        verdict,
        describe_errors(record),
        needs if needs is not None and isfinite(needs) else None,
        allowed,
        record.requirement,
        record.settings,
        row.faults,
        seconds,
    )


def time_all(report: Report, release: Path, out: Path) -> None:
    """Add the matrix rates, the speed of every target and tier that could be run, and what went wrong."""
    tiers: dict[str, list[str]] = {}
    for row in report.verified:
        if row.verdict != NOT_RUN and row.math in MATH:
            tiers.setdefault(row.target, []).append(row.math)
    if "pytorch" in tiers:
        _say("square products")
        report.rates += _run_speed(list[MatrixRate], report.faults, "multiply", "--device", report.device)
    for name, maths in tiers.items():
        _say(f"{name}: tokens a second")
        arguments = ("encode", str(release), name, "--device", report.device, "--math", *maths)
        report.speeds += _run_speed(list[Speed], report.faults, *arguments)
        write(report, out)


def find_card() -> str | None:
    """Name, driver and memory, by nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.splitlines()[0].strip()


def _run_speed(form: type[list[T]], faults: list[str], *arguments: str) -> list[T]:
    """What was measured; what went wrong is added to the faults."""
    command = [sys.executable, "-m", "benchmarks.gpu_speed", *arguments]
    try:
        found = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        faults.append(f"{' '.join(arguments)}: not done in {SECONDS} s")
        return []
    if found.returncode:
        faults += [f"{' '.join(arguments)}: {line}" for line in found.stderr.splitlines()[-12:] or ["no message"]]
        return []
    return from_plain(form, json.loads(found.stdout.splitlines()[-1]))


def _say(what: str) -> None:
    print(f"gpu: {what}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 where something failed, 2 where nothing passed of what was asked for by name, or of all; else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="default: a synthetic one of BERT-base's shape")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--target", action="append", choices=list(TARGETS))
    parser.add_argument("--math", action="append", choices=MATH)
    options = parser.parse_args(arguments)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # each JAX would take three quarters of the GPU
    checkpoint = options.checkpoint or options.out / "synthetic-bert-base"
    targets, tiers = options.target or list(TARGETS), options.math or list(MATH)
    try:
        if not options.checkpoint and not checkpoint.exists():
            _say("making a checkpoint")
            synthesize(checkpoint, DEFAULT_CONFIG)
        report, release = measure(checkpoint, options.out, options.device, targets, tiers)
    except InputError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    write(report, options.out)
    time_all(report, release, options.out)
    print(render(report))
    return report.exit_code(options.target or (), options.math or ())


if __name__ == "__main__":
    sys.exit(main())

"""Every target and tier of arithmetic on a GPU, against the float64 oracle: the table of docs/gpu.md.

    python -m benchmarks.gpu --out build/gpu                       # the synthetic default, on cuda
    python -m benchmarks.gpu --checkpoint DIR --device cpu         # to try it where there is none

Exports with what is installed, verifies on the CPU, then runs each target and tier in a process of its own. Nothing
is judged that no tolerance was measured for; `needs` is the smallest t with |error| ≤ t + t · scale in every output:
what a tolerance of equal absolute and relative parts would have to be.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError
from yizhi.pipeline.environment import Environment
from yizhi.pipeline.export import export
from yizhi.pipeline.jobs import Job, run_jobs
from yizhi.pipeline.progress import Progress
from yizhi.pipeline.results import Row
from yizhi.pipeline.steps import Verify
from yizhi.pipeline.synthesis import DEFAULT_CONFIG, synthesize
from yizhi.release.manifest import GOLDEN
from yizhi.reports.tables import describe_errors
from yizhi.runtimes.base import MATH


def measure(checkpoint: Path, out: Path, device: str, targets: list[str], tiers: list[str]) -> list[dict[str, Any]]:
    """A row per target and tier. Raises InputError where an artifact is already wrong on the CPU."""
    installed = [TARGETS[name] for name in targets if not TARGETS[name].missing()]
    if not installed:
        raise InputError("--target", f"nothing is installed that {', '.join(targets)} need")
    with Progress() as progress:
        rows = export(checkpoint, out, installed, os.cpu_count() or 1, progress)
    wrong = [f"{row.target}: {fault}" for row in rows for fault in row.faults]
    if wrong:
        raise InputError(out, wrong)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take three quarters of the GPU
    jobs = [
        Job(f"{target.name} {math}", Verify(out / target.name, out / GOLDEN, device, math=math))
        for target in installed
        for math in tiers
    ]
    found = run_jobs(jobs, 1, lambda name: print(name, file=sys.stderr), lambda result: None)
    measured = []
    for name, result in found.items():
        target, math = name.split()
        row = Row(target, verification=result, verdict=result.value)
        parity = result.value
        needs = [worst.excess for worst in parity.worst.values()] if parity and parity.not_judged else []
        measured.append(
            {
                "target": target,
                "math": math,
                "verdict": "pass" if row.passed else "not run" if row.not_run else "FAIL",
                "errors": describe_errors(parity),
                "needs": max((need for need in needs if isfinite(need)), default=None),
                "settings": parity.settings if parity else {},
                "faults": row.faults,
                "seconds": result.seconds,
            }
        )
    missing = [name for name in targets if TARGETS[name] not in installed]
    return measured + [
        {"target": name, "math": "all", "verdict": "not run", "errors": "-", "needs": None, "settings": {}}
        | {"faults": [f"needs {', '.join(TARGETS[name].missing())}"], "seconds": 0.0}
        for name in missing
    ]


def render(rows: list[dict[str, Any]], device: str, environment: Environment) -> str:
    """The table in Markdown."""
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    lines = [
        f"On {device}; {environment.processor}; Python {environment.python}; {packages}.",
        "",
        "| target | math | worst error | needs | verdict | settings, or why not |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        needs = "" if row["needs"] is None else f"{row['needs']:.1e}"
        settings = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
        why = settings or "; ".join(row["faults"])
        lines.append(f"| {row['target']} | {row['math']} | {row['errors']} | {needs} | {row['verdict']} | {why} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 where something failed or was computed elsewhere, 2 where nothing could be run, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="default: a synthetic one of BERT-base's shape")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--target", action="append", choices=list(TARGETS))
    parser.add_argument("--math", action="append", choices=MATH)
    options = parser.parse_args(arguments)
    checkpoint = options.checkpoint or options.out / "checkpoint"
    try:
        if not options.checkpoint and not checkpoint.exists():
            synthesize(checkpoint, DEFAULT_CONFIG)
        rows = measure(
            checkpoint,
            options.out / "release",
            options.device,
            options.target or list(TARGETS),
            options.math or list(MATH),
        )
    except InputError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    environment = Environment.here()
    (options.out / "gpu.json").write_text(json.dumps({"environment": asdict(environment), "rows": rows}, indent=1))
    print(render(rows, options.device, environment))
    if any(row["verdict"] == "FAIL" for row in rows):
        return 1
    return 0 if any(row["verdict"] == "pass" or row["needs"] is not None for row in rows) else 2


if __name__ == "__main__":
    sys.exit(main())

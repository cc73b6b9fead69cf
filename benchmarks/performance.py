"""Ours and what people would use instead, side by side: writes docs/performance.md.

    python -m benchmarks.performance                     everything: about half an hour on 2 cores, 30 GB of disk
    python -m benchmarks.performance --quick             a look, in minutes, on a model of 3 layers
    python -m benchmarks.performance --only fp32 int8    some sections; the others stay as they were measured
    python -m benchmarks.performance --render-only       the document again, from build/bench.json

`make bench` installs the peers first, into build/peers.
"""

import argparse
import json
import os
import sys
import time
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.aims import AIMS, judge
from benchmarks.document import make_document
from benchmarks.processes import ROOT
from benchmarks.sections import SECTIONS
from benchmarks.workbench import PEERS, Workbench
from yizhi.commands.options import positive
from yizhi.pipeline.environment import Environment

EXPLANATIONS = Path(__file__).with_name("explanations.toml")
INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_bf16", "avx_vnni", "avx512_vnni", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "i8mm", "sve"),
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, section by section, and write the document after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 layers, few rounds, one shape")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--render-only", action="store_true", help="measure nothing")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="for everyone (default: a core each)")
    parser.add_argument("--results", type=Path, help="default: build/bench.json, or build/bench-quick.json")
    parser.add_argument("--docs", type=Path, help="default: docs, or build/bench-quick")
    options = parser.parse_args(arguments)
    # A quick run must not take the place of a full one.
    results = options.results or ROOT / "build" / ("bench-quick.json" if options.quick else "bench.json")
    docs = options.docs or ROOT / ("build/bench-quick" if options.quick else "docs")
    if options.render_only:
        if not results.exists():
            parser.error(f"{results}: nothing was measured yet")
        render(results, docs)
        return 0
    if not (PEERS / "python").exists():
        parser.error(f"{PEERS}: the peers are not installed; run `make bench`")
    bench = Workbench(ROOT / "build" / "bench", results, options.threads, options.quick)
    start = time.monotonic()
    for name in options.only or SECTIONS:
        SECTIONS[name](bench)
        render(results, docs)
        for line in summarize(results, name):
            bench.say(line)
        bench.say(f"{name}: done, {time.monotonic() - start:.0f} s since the start")
    print(docs / "performance.md")
    return 0


def summarize(results: Path, section: str) -> list[str]:
    """What was found of each of a section's aims, and on which processor."""
    measured = json.loads(results.read_text(encoding="utf-8"))
    machine = measured["environment"]
    lines = [f"{aim.what}: {judge(aim, measured['sections']).found}" for aim in AIMS if aim.section == section]
    return [f"on {machine['processor']} ({', '.join(machine['instructions'])}):", *lines] if lines else []


def render(results: Path, docs: Path) -> None:
    """Write the document and its charts."""
    measured = json.loads(results.read_text(encoding="utf-8"))
    if "environment" not in measured:
        measured["environment"] = describe_machine()
        results.write_text(json.dumps(measured, ensure_ascii=False, indent=1), encoding="utf-8")
    explanations = tomllib.loads(EXPLANATIONS.read_text(encoding="utf-8"))
    for name, text in make_document(measured, explanations).items():
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text(text, encoding="utf-8")


def describe_machine() -> dict[str, Any]:
    """As in a release's report, with the instruction sets that matter to matrix products."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return {**asdict(Environment.here()), "instructions": [name for name in INSTRUCTIONS if name in words]}


if __name__ == "__main__":
    sys.exit(main())

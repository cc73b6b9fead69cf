"""Ours and what people would use instead, side by side: writes docs/performance.md.

    python -m benchmarks.performance                     everything: an hour on 2 cores, 30 GB of disk
    python -m benchmarks.performance --quick             a look, in minutes, on a model of 3 layers
    python -m benchmarks.performance --only fp32 int8    some sections; the others stay as they were measured
    python -m benchmarks.performance --render-only       the document again, from benchmarks/results

Results go into benchmarks/results, a file for each kind of machine; the document has all of them side by side.
`make bench` installs the peers first, into build/peers and build/peers-5.
"""

import argparse
import json
import os
import sys
import time
import tomllib
from pathlib import Path

from benchmarks.aims import AIMS, judge
from benchmarks.document import make_document
from benchmarks.machines import RESULTS, describe_machine, kind_of, read_results
from benchmarks.processes import ROOT
from benchmarks.sections import SECTIONS
from benchmarks.workbench import VENVS, Workbench
from yizhi.commands.options import positive

EXPLANATIONS = Path(__file__).with_name("explanations.toml")


def main(arguments: list[str] | None = None) -> int:
    """Measure, section by section, and write the document after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 layers, few rounds, one shape")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--render-only", action="store_true", help="measure nothing")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="for everyone (default: a core each)")
    parser.add_argument("--beside", metavar="WORDS", help="what else the machine does, for the document")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results, or build/bench-quick")
    parser.add_argument("--docs", type=Path, help="default: docs, or build/bench-quick")
    options = parser.parse_args(arguments)
    # A quick run must not take the place of a full one.
    folder = options.results or (ROOT / "build" / "bench-quick" if options.quick else RESULTS)
    docs = options.docs or (ROOT / "build" / "bench-quick" if options.quick else ROOT / "docs")
    if options.render_only:
        if not any(folder.glob("*.json")):
            parser.error(f"{folder}: nothing was measured yet")
        render(folder, docs)
        return 0
    if missing := [str(venv) for venv in VENVS.values() if not (venv / "python").exists()]:
        parser.error(f"the peers are not installed; run `make bench`; not found: {', '.join(missing)}")
    results = folder / f"{kind_of(describe_machine())}.json"
    bench = Workbench(ROOT / "build" / "bench", results, options.threads, options.quick, options.beside)
    start = time.monotonic()
    for name in options.only or SECTIONS:
        SECTIONS[name](bench)
        render(folder, docs)
        for line in summarize(results, name):
            bench.say(line)
        bench.say(f"{name}: done, {time.monotonic() - start:.0f} s since the start")
    print(docs / "performance.md")
    return 0


def summarize(results: Path, section: str) -> list[str]:
    """What was found of each of a section's aims, and on which processor."""
    measured = json.loads(results.read_text(encoding="utf-8"))
    machine = measured["machine"]
    lines = [f"{aim.what}: {judge(aim, measured['sections']).found}" for aim in AIMS if aim.section == section]
    return [f"on {machine['processor']} ({', '.join(machine['instructions'])}):", *lines] if lines else []


def render(results: Path, docs: Path) -> None:
    """Write the document and its charts, and remove the charts of an older one.

    results: the folder with a file for each kind of machine.
    """
    explanations = tomllib.loads(EXPLANATIONS.read_text(encoding="utf-8"))
    files = {docs / name: text for name, text in make_document(read_results(results), explanations).items()}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for chart in (docs / "performance").rglob("*.svg"):
        if chart not in files:
            chart.unlink()


if __name__ == "__main__":
    sys.exit(main())

"""What was simulated, and what was measured on GPUs, as the tables of docs/gpu.md.

    python -m benchmarks.gpu_report [GPU.JSON]

With what a run of `benchmarks.gpu` wrote: keeps it in docs/gpu first, by card and checkpoint. Which requirements a card
met stands in `yizhi.parity.tolerances.HARDWARE_SEEN` too, which travels with the package; a test compares the two.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yizhi.parity.tolerances import HARDWARE_SEEN, FloatTolerance, find_gates
from yizhi.pipeline.environment import Environment
from yizhi.storage.codec import from_plain, to_plain
from yizhi.storage.json_files import to_json

DOCUMENT = Path(__file__).parents[1] / "docs" / "gpu.md"
MEASURED = DOCUMENT.parent / "gpu"
SIMULATED = "simulated.json"
BEGIN, END = (f"<!-- python -m benchmarks.gpu_report: {part} -->\n" for part in ("begin", "end"))
PASS, FAIL, NOT_RUN = "pass", "fail", "not run"
TIERS = ("tf32", "bf16", "fp16")


@dataclass(frozen=True)
class Need:
    """The smallest tolerance that one model meets in one arithmetic, and the output that asks for it.

    needs: None where something is not a number, such as a value beyond float16.
    """

    model: str
    arithmetic: str
    tier: str
    needs: float | None
    output: str


@dataclass(frozen=True)
class Verified:
    """One target and tier.

    verdict: PASS, FAIL or NOT_RUN. errors: the worst per kind of output, in words.
    needs, allowed: the smallest t with |error| ≤ t + t · scale everywhere, and the tolerance's; None if not compared.
    requirement: where the tolerance comes from. settings: how the framework said it computed.
    """

    target: str
    math: str
    verdict: str
    errors: str = "-"
    needs: float | None = None
    allowed: float | None = None
    requirement: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class MatrixRate:
    """Square products of `size` in one tier: 10^12 floating-point operations a second."""

    math: str
    size: int
    teraflops: float


@dataclass(frozen=True)
class Speed:
    """One target and tier at one shape. milliseconds: median of a call. teraflops: of its matrix products, a second."""

    target: str
    math: str
    batch: int
    length: int
    milliseconds: float
    tokens_per_second: float
    teraflops: float


@dataclass
class Report:
    """One run on one machine. card: its GPU's name, driver and memory; None where nothing says.

    faults: what could not be timed, and why.
    """

    device: str
    card: str | None
    date: str
    checkpoint: str
    environment: Environment
    verified: list[Verified]
    rates: list[MatrixRate] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def card_name(self) -> str:
        """Such as NVIDIA H100 80GB HBM3."""
        return (self.card or f"no GPU, {self.environment.processor}").split(",")[0]

    def exit_code(self, targets: Sequence[str] = (), tiers: Sequence[str] = ()) -> int:
        """1 where something failed; 2 where a target or tier that was asked for by name, or everything, was not run."""
        passed = [row for row in self.verified if row.verdict == PASS]
        if self.faults or any(row.verdict == FAIL for row in self.verified):
            return 1
        done = {row.target for row in passed} | {row.math for row in passed}
        return 0 if passed and done.issuperset([*targets, *tiers]) else 2

    def met(self) -> set[str]:
        """The precisions whose requirement a target met on a GPU, and none missed."""
        verdicts: dict[str, set[str]] = {}
        for row in self.verified if self.device == "cuda" else ():
            verdicts.setdefault("fp32" if row.math == "strict" else row.math, set()).add(row.verdict)
        return {precision for precision, found in verdicts.items() if PASS in found and FAIL not in found}


def read_needs() -> list[Need]:
    """What was simulated last."""
    return from_plain(list[Need], json.loads((MEASURED / SIMULATED).read_text(encoding="utf-8")))


def read_reports() -> list[Report]:
    """What was measured on each card, by file name."""
    paths = sorted(path for path in MEASURED.glob("*.json") if path.name != SIMULATED)
    return [from_plain(Report, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def keep(written: Path) -> Path:
    """Copy what a run wrote to where it is rendered from. Raises InputError for another form."""
    report = from_plain(Report, json.loads(written.read_text(encoding="utf-8")))
    path = MEASURED / (re.sub(r"[^a-z0-9]+", "-", f"{report.card_name} {report.checkpoint}".lower()) + ".json")
    path.write_text(to_json(to_plain(report)), encoding="utf-8")
    return path


def render_needs(needs: Sequence[Need]) -> str:
    """A Markdown table of what was simulated: a row per model, a column per arithmetic."""
    columns = list(dict.fromkeys(need.arithmetic for need in needs))
    rows: dict[str, dict[str, str]] = {}
    for need in needs:
        rows.setdefault(need.model, {})[need.arithmetic] = "overflow" if need.needs is None else f"{need.needs:.1e}"
    lines = [f"| | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]
    lines += [f"| {model} | {' | '.join(row.get(name, '') for name in columns)} |" for model, row in rows.items()]
    return "\n".join(lines) + "\n"


def render_requirements(needs: Sequence[Need]) -> str:
    """A Markdown table: what each tier is required to meet, beside the most that was simulated and the cards seen."""
    lines = ["| `--math` | required | most simulated | margin | by | hardware seen |", "|---|---|---|---|---|---|"]
    for tier in TIERS:
        required, (most, worst) = tolerance_of(tier), most_needed(tier, needs)
        seen = ", ".join(HARDWARE_SEEN.get(tier, ())) or "none"
        by = f"{worst.model}, {worst.arithmetic}, {worst.output}"
        lines.append(f"| `{tier}` | {required:g} | {most:.1e} | {required / most:.1f} | {by} | {seen} |")
    return "\n".join(lines) + "\n"


def tolerance_of(tier: str) -> float:
    """The t of |error| ≤ t + t · scale."""
    gates = find_gates(tier, "cuda")
    if not isinstance(gates, FloatTolerance) or gates.absolute != gates.relative:
        raise TypeError(gates)
    return gates.absolute


def most_needed(tier: str, needs: Sequence[Need]) -> tuple[float, Need]:
    """The largest need of a tier, and whose; one that overflowed needs another arithmetic, not another tolerance."""
    return max(((need.needs, need) for need in needs if need.tier == tier and need.needs), key=lambda found: found[0])


def render_verified(report: Report) -> str:
    """A Markdown table: verdicts."""
    lines = [
        "| target | `--math` | worst error | needs | required | verdict | settings, or why not |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report.verified:
        needs, allowed = ("" if value is None else f"{value:.1e}" for value in (row.needs, row.allowed))
        why = "; ".join(row.faults) or ", ".join(f"{name} {value}" for name, value in row.settings.items())
        lines.append(f"| {row.target} | {row.math} | {row.errors} | {needs} | {allowed} | {row.verdict} | {why} |")
    return "\n".join(lines) + "\n"


def render_speeds(report: Report) -> str:
    """A Markdown table: tokens a second, and the share of the card's matrix rate that the encoder's products reach."""
    rates = {rate.math: rate.teraflops for rate in report.rates}
    lines = ["| target | `--math` | rows × tokens | tokens/s | ms | TFLOP/s | square products, TFLOP/s | share |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in report.speeds:
        rate = rates.get(row.math)
        beside = f"{rate:.3g} | {row.teraflops / rate:.0%}" if rate else "not measured | "
        lines.append(
            f"| {row.target} | {row.math} | {row.batch} × {row.length} | {row.tokens_per_second:,.0f} "
            f"| {row.milliseconds:.1f} | {row.teraflops:.3g} | {beside} |"
        )
    return "\n".join(lines) + "\n"


def render(report: Report) -> str:
    """Both tables, under the machine they were measured on."""
    environment = report.environment
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    where = f"{report.card or report.card_name}; {environment.processor}, {environment.cores} cores"
    head = f"{where}; Python {environment.python}; {packages}. {report.checkpoint}, {report.date}.\n"
    faults = "".join(f"- not timed: {fault}\n" for fault in report.faults)
    return "\n".join([head, render_verified(report), render_speeds(report), *([faults] if faults else [])])


def render_measured(needs: Sequence[Need], reports: Sequence[Report]) -> str:
    """The part of docs/gpu.md between BEGIN and END."""
    parts = ["## Required\n", render_requirements(needs), "## Simulated\n", render_needs(needs), "## Measured\n"]
    for report in reports:
        parts += [f"### {report.card_name}: {report.checkpoint}\n", render(report)]
    return "\n".join([*parts, *([] if reports else ["No card has been measured yet.\n"])])


def fill(document: str, measured: str) -> str:
    """The document with this between its marks."""
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n{measured}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str] | None = None) -> int:
    """Keep a run's results, if there are any, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("written", metavar="GPU.JSON", type=Path, nargs="?")
    options = parser.parse_args(arguments)
    if options.written:
        print(keep(options.written))
    DOCUMENT.write_text(
        fill(DOCUMENT.read_text(encoding="utf-8"), render_measured(read_needs(), read_reports())), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

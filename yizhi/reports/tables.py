"""The tables that commands print."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from yizhi.errors import printable
from yizhi.model.spec import (
    MATCH_LOGITS,
    REGION_LOGITS,
    SENTENCE_EMBEDDING,
    TERM_WEIGHTS,
    TOKEN_VECTORS,
    TOKEN_WEIGHTS,
    Pooling,
)
from yizhi.parity.record import PublishedCheck, VerificationRecord
from yizhi.pipeline.head import describe_head, find_head
from yizhi.pipeline.jobs import Result
from yizhi.pipeline.results import Evaluation, Row
from yizhi.release.policy_verdict import PolicyVerdict
from yizhi.reports.plain_table import PlainTable

_UNLIMITED = 100_000  # columns
# Kinds of output in the order in which their errors are told; all others are hidden states.
_KINDS = {
    "logits": "logits",
    "last_hidden_state": "hidden",
    "pooler_output": "pooler",
    SENTENCE_EMBEDDING: "sentence",
    TOKEN_WEIGHTS: "tokens",
    TOKEN_VECTORS: "tokens",
    TERM_WEIGHTS: "terms",
    "image_pooler_output": "pooler",
    REGION_LOGITS: "regions",
    MATCH_LOGITS: "match",
}
# Where arithmetic is set by the release alone; elsewhere the table says how each framework computed.
_USUAL = (("cpu", "fp32"), ("cpu", "int8"))


def print_release(
    console: Console,
    release: object,
    rows: Sequence[Row],
    policy: PolicyVerdict | None = None,
    vouched: str | None = None,
) -> None:
    """One line per target: size, seconds, peak memory, worst error per output, verdict; then the reasons.

    Where the console is too narrow for a line, the worst errors have lines of their own below, and if need be peak
    memory, seconds and size are left out: report/parity.json has them.

    policy: the verdict of a policy on the release. vouched: a line that says who signed the manifest, if anyone.
    """
    if rows:
        _print_rows(console, str(release), rows)
    if pooling := find_pooling(rows):
        console.print(Text(f"pooling {pooling}"), soft_wrap=True)
    found = find_head({row.target: row.verdict for row in rows})
    if found:
        console.print(Text(describe_head(*found), "yellow" if found[1].verdict == "untrained" else ""), soft_wrap=True)
    published = next((row.verdict.published for row in rows if row.verdict and row.verdict.published), None)
    if published:
        console.print(_describe_published(published), soft_wrap=True)
    for row in rows:
        if row.verdict and (row.verdict.device, row.verdict.precision) not in _USUAL:
            told = [row.verdict.requirement] if row.verdict.requirement else []
            told.append(", ".join(f"{name} {value}" for name, value in row.verdict.settings.items()))
            where = f"{row.target}: {row.verdict.precision} on {row.verdict.device}"
            console.print(Text(f"{where}: {'; '.join(told)}"), soft_wrap=True)
    for row in rows:
        integers = row.verdict.integers if row.verdict else None
        if integers and integers.released_on not in (None, integers.instructions):
            judged, here = integers.released_on, integers.instructions
            console.print(f"{row.target}: judged on {judged}, here on {here}: the same integers", soft_wrap=True)
        for fault in row.faults:
            console.print(Text(f"{row.target}: {fault}", "red"), soft_wrap=True)
    if policy:
        _print_policy(console, policy)
    passed = sum(row.passed for row in rows)
    fit = passed == len(rows) and (not policy or policy.passed)
    counted = f"{passed} of {len(rows)} passed" if rows else f"{release}: no artifact was run"
    console.print(Text(counted + ("" if fit else ": not fit for release")), soft_wrap=True)
    if vouched:
        console.print(Text(vouched), soft_wrap=True)


def find_pooling(rows: Sequence[Row]) -> Pooling | None:
    """How the vectors of these artifacts, all of one checkpoint, are made; None where they give none."""
    return next((row.pooling for row in rows if row.pooling), None)


def _print_rows(console: Console, title: str, rows: Sequence[Row]) -> None:
    columns = _columns(rows)
    left_out = iter(("worst error", "peak memory", "export", "verify", "size"))
    anything = console.options.update(width=_UNLIMITED)  # a measurement is no wider than what it is asked for
    while console.measure(table := _table(columns), options=anything).maximum > console.width:
        heading = next(left_out, None)
        if heading is None:
            break
        del columns[heading]
    console.print(Text(title, "bold"), soft_wrap=True)
    console.print(table)
    if "worst error" not in columns:
        for row in rows:
            console.print(Text(f"{row.target}: {describe_errors(row.verdict)}"))


def _columns(rows: Sequence[Row]) -> dict[str, list[str | Text]]:
    """By heading, a cell for each row."""
    peaks = [
        [result.peak_bytes for result in (row.export, row.verification) if result and result.peak_bytes] for row in rows
    ]
    columns: dict[str, list[str | Text]] = {
        "target": [row.target for row in rows],
        "size": [format_bytes(row.size) for row in rows],
        "export": [_seconds(row.export, "up to date" if row.verdict and not row.verification else "") for row in rows],
        "verify": [_seconds(row.verification, "kept" if row.verdict else "") for row in rows],
        "peak memory": [format_bytes(max(found, default=None)) for found in peaks],
        "worst error": [describe_errors(row.verdict) for row in rows],
        "verdict": [_verdict(row) for row in rows],
    }
    scored = next((row.evaluation for row in rows if row.evaluation and row.evaluation.scores), None)
    if scored and scored.scores:
        columns[f"{scored.scores.best} on {scored.data}"] = [_score(row.evaluation) for row in rows]
    return columns


def _table(columns: Mapping[str, Sequence[str | Text]]) -> PlainTable:
    table = PlainTable()
    for heading in columns:
        table.add_column(heading, justify="left" if heading in ("target", "verdict") else "right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def _print_policy(console: Console, policy: PolicyVerdict) -> None:
    colours = {"met": "green", "unmet": "red", "not run": "bold yellow"}
    for finding in policy.findings:
        told = printable(f"policy: {finding.demand}: {finding.outcome}: {finding.found}")
        console.print(Text(told, colours[finding.outcome]), soft_wrap=True)


def print_conversion(console: Console, folder: object, rows: Sequence[Row]) -> None:
    """One line per target: size, seconds, peak memory; then the reasons, and a line that nothing is verified."""
    table = PlainTable(title=str(folder), title_justify="left", title_style="bold")
    table.add_column("target")
    for heading in ("size", "convert", "peak memory"):
        table.add_column(heading, justify="right")
    for row in rows:
        peak = row.export.peak_bytes if row.export else None
        table.add_row(row.target, format_bytes(row.size), _seconds(row.export, ""), format_bytes(peak))
    console.print(table)
    for row in rows:
        for fault in row.export.faults if row.export else ():
            console.print(Text(f"{row.target}: {fault}", "red"), soft_wrap=True)
    if any(row.size for row in rows):
        told = "UNVERIFIED: no artifact was compared. `yizhi export` into the same folder verifies them"
        console.print(Text(told, "bold yellow"), soft_wrap=True)


def _verdict(row: Row) -> Text:
    if row.not_run:
        return Text("not run", "bold yellow")
    return Text("pass", "bold green") if row.passed else Text("FAIL", "bold red")


def _score(evaluation: Evaluation | None) -> str:
    """The score that counts, and its share of the reference's."""
    if not evaluation or not evaluation.scores:
        return "-"
    relative = "" if evaluation.relative is None else f" ({evaluation.relative:.1%})"
    return f"{evaluation.scores.scores[evaluation.scores.best]:.4f}{relative}"


def describe_errors(verdict: VerificationRecord | None) -> str:
    """Worst error per kind of output, or an int8 artifact's agreement, in a few words."""
    if not verdict or not verdict.worst:
        return "-"
    if verdict.cosine:
        agreement = [f"cosine {min(verdict.cosine.values()):.4f}"]
        if verdict.quality:
            top1 = [] if verdict.quality.top1 is None else [f"top-1 {verdict.quality.top1:.1%}"]
            agreement = [*top1, f"KL {verdict.quality.kl_mean:.1e}", *agreement]
        elif verdict.label_error is not None:
            agreement = [f"logits off by {verdict.label_error:.1%}", *agreement]
        return ", ".join(agreement)
    worst: dict[str, float] = {}
    for output, difference in verdict.worst.items():
        kind = _KINDS.get(output, "hidden")
        worst[kind] = max(worst.get(kind, 0.0), difference.error)
    return ", ".join(f"{kind} {worst[kind]:.1e}" for kind in dict.fromkeys(_KINDS.values()) if kind in worst)


def _describe_published(check: PublishedCheck) -> str:
    if not check.values and not check.faults:
        return f"this is {check.checkpoint}, whose outputs are not published, as far as is known"
    return f"this is {check.checkpoint}: {check.values} published numbers compared, {len(check.faults)} disagree"


def format_bytes(count: int | None) -> str:
    """Decimal megabytes or gigabytes."""
    if count is None:
        return "-"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _seconds(result: Result[Any] | None, otherwise: str) -> str:
    return f"{result.seconds:.1f} s" if result and result.seconds else otherwise or "-"

"""parity.html: one self-contained page. The verdict first, then the reasons."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from yizhi.parity.compare import Quality
from yizhi.parity.record import VerificationRecord
from yizhi.parity.tolerances import QuantizedGates
from yizhi.pipeline.environment import Environment
from yizhi.pipeline.head import describe_head, find_head
from yizhi.pipeline.jobs import Result
from yizhi.pipeline.results import Row
from yizhi.release.policy_verdict import PolicyVerdict
from yizhi.reports.heat_map import render_heat_map, say_share, shares_used
from yizhi.reports.tables import describe_errors, find_pooling, format_bytes
from yizhi.storage.codec import to_plain


def render_page(name: str, rows: Sequence[Row], environment: Environment, policy: PolicyVerdict | None = None) -> str:
    """The report as HTML: no scripts, no fonts, no network. name: the model's."""
    good = sum(row.passed for row in rows)
    fit = good == len(rows) and (policy is None or policy.passed)
    verdict = "Fit for release" if fit else "Not fit for release"
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)}: {verdict.lower()}</title>
<style>
{style}</style>
</head>
<body>
<header class="{"good" if fit else "bad"}">
<h1>{escape(name)}</h1>
<p><strong>{verdict}.</strong> {good} of {len(rows)} targets agree with the float64 oracle.</p>
</header>
<main>
{"" if fit else _failures(rows, policy)}
{_pooling(rows)}
{_head(rows)}
{render_heat_map(rows)}
{_summary(rows)}
{_policy(policy)}
{"".join(map(_target, rows))}
{_environment(environment)}
</main>
</body>
</html>
"""


def _failures(rows: Sequence[Row], policy: PolicyVerdict | None) -> str:
    """Why it is not fit, before any number: each target's first fault, and each demand that was not met."""
    told = []
    for row in rows:
        if not row.passed:
            more = f" (and {len(row.faults) - 1} more)" if len(row.faults) > 1 else ""
            name = escape(row.target)
            told.append(f'<a href="#{name}">{name}</a>: {escape(row.faults[0])}{more}')
    if policy:
        demands = [one for one in policy.findings if one.outcome != "met"]
        told += [f'<a href="#policy">policy</a>: {escape(f"{one.demand}: {one.found}")}' for one in demands]
    return "<ul class=faults>" + "".join(f"<li>{one}</li>" for one in told) + "</ul>" if told else ""


def _pooling(rows: Sequence[Row]) -> str:
    pooling = find_pooling(rows)
    return f"<p>pooling {escape(str(pooling))}</p>" if pooling else ""


def _summary(rows: Sequence[Row]) -> str:
    timed = [(heading, results) for heading, results in _results(rows) if any(results)]
    cells = [
        [
            f'<a href="#{escape(row.target)}">{escape(row.target)}</a>',
            _mark(row),
            format_bytes(row.size),
            *(_seconds(results[index]) for _, results in timed),
        ]
        for index, row in enumerate(rows)
    ]
    headings = ("target", "verdict", "size", *(heading for heading, _ in timed))
    return f'<section class="summary"><h2>Targets</h2>{_table(headings, cells)}</section>' if rows else ""


def _results(rows: Sequence[Row]) -> list[tuple[str, list[Result[Any] | None]]]:
    return [("export", [row.export for row in rows]), ("verify", [row.verification for row in rows])]


def _head(rows: Sequence[Row]) -> str:
    found = find_head({row.target: row.verdict for row in rows})
    if not found:
        return ""
    kind = "warning" if found[1].verdict == "untrained" else "note"
    return f'<p class="{kind}">{escape(describe_head(*found))}</p>'


def _policy(policy: PolicyVerdict | None) -> str:
    if policy is None:
        return ""
    rows = [[escape(one.demand), escape(one.outcome), escape(one.found)] for one in policy.findings]
    table = _table(("demand", "outcome", "found"), rows)
    return f'<section id="policy"><h2>Policy {_mark(policy)}</h2>{table}</section>'


def _mark(row: Row | PolicyVerdict) -> str:
    if row.not_run:
        return '<strong class="unrun">not run</strong>'
    return '<strong class="good">pass</strong>' if row.passed else '<strong class="bad">fail</strong>'


def _target(row: Row) -> str:
    name = row.target
    parts = [f'<section id="{escape(name)}"><h2>{escape(name)} {_mark(row)}</h2>']
    if row.faults:
        parts.append("<ul class=faults>" + "".join(f"<li>{escape(fault)}</li>" for fault in row.faults) + "</ul>")
    parity = row.verdict
    if parity and parity.device != "cpu":
        parts.append(_place(parity))
    if parity and parity.worst and not parity.tolerance:
        parts.append(_errors(parity))
    elif parity and parity.worst:
        parts.append(f"<p>Worst: {escape(describe_errors(parity))}</p>")
        parts += [_worst_cases(parity), _quality(parity), _tolerance(parity)]
    return "\n".join([*parts, "</section>"])


def _errors(parity: VerificationRecord) -> str:
    """What was measured where nothing is known to judge it by."""
    rows = [
        [
            output,
            found.case,
            *(f"{value:.1e}" if math.isfinite(value) else "-" for value in (found.error, found.excess)),
        ]
        for output, found in parity.worst.items()
    ]
    heading = f"{parity.precision} on {parity.device}: measured, not judged"
    return f"<h3>{heading}</h3>" + _table(("output", "case", "error", "needs"), rows)


def _place(parity: VerificationRecord) -> str:
    """Where it was run, if not by the processor's own instructions alone."""
    settings = ", ".join(f"{name} {value}" for name, value in parity.settings.items())
    return f"<p>{escape(f'{parity.precision} on {parity.device}: {settings}')}</p>"


def _worst_cases(parity: VerificationRecord) -> str:
    """The five outputs that came nearest to their limit, or passed it."""
    shares = shares_used(parity)
    rows = [
        [
            escape(output),
            escape(parity.worst[output].case),
            f"{parity.worst[output].error:.2e}" if math.isfinite(share) else "not comparable",
            f"{say_share(share)} %" if math.isfinite(share) else "-",
        ]
        for output, share in sorted(shares.items(), key=lambda one: one[1], reverse=True)[:5]
    ]
    return "<h3>Nearest to the limit</h3>" + _table(("output", "case", "error", "of allowed"), rows)


def _quality(parity: VerificationRecord) -> str:
    """What int8's gates judge, on everyday sentences and on random ids, with each gate."""
    gates, sentences = parity.tolerance, parity.sentences
    if not isinstance(gates, QuantizedGates):
        return ""
    rows = []
    if sentences:
        order = "-" if sentences.order is None else f"{sentences.order:.4f}"
        rows += [
            ["tokens' vectors: cosine, 1st percentile", f"{sentences.token_p01:.5f}", f"≥ {gates.token_p01:g}"],
            ["sentences' vectors: cosine, mean", f"{sentences.vector_mean:.5f}", f"≥ {gates.vector_mean:g}"],
            ["order of the sentences' similarities (Spearman)", order, f"≥ {gates.order:g}"],
        ]
        rows += _agreement("masked sentences: ", sentences.masked, gates)
    rows += _agreement("random ids: ", parity.quality, gates)
    if parity.label_error is not None:
        rows.append(["logits, relative error", f"{parity.label_error:.1%}", f"≤ {gates.label_error:g}"])
    if parity.cosine:
        shown = f"{min(parity.cosine.values()):.5f}, {min(parity.cosine_mean.values(), default=1.0):.5f}"
        rows.append(["any output's cosine, lowest and mean", shown, f"≥ {gates.cosine:g}, {gates.cosine_mean:g}"])
    what = f"{sentences.sentences} everyday sentences, {sentences.tokens} tokens" if sentences else "random ids alone"
    return f"<h3>int8 quality</h3><p>On {what}.</p>" + _table(("measure", "found", "allowed"), rows)


def _agreement(where: str, quality: Quality | None, gates: QuantizedGates) -> list[list[str]]:
    if quality is None:
        return []
    top1 = "-" if quality.top1 is None else f"{quality.top1:.1%}"
    return [
        [f"{where}top-1 agreement on {quality.decided} decided positions", top1, f"≥ {gates.top1:g}"],
        [
            f"{where}first answer among the five, {quality.positions} positions",
            f"{quality.top5:.1%}",
            f"≥ {gates.top5:g}",
        ],
        [f"{where}KL divergence, mean", f"{quality.kl_mean:.1e} nats", f"≤ {gates.kl_mean:g}"],
        [f"{where}KL divergence, 99th percentile", f"{quality.kl_p99:.1e} nats", f"≤ {gates.kl_p99:g}"],
        [f"{where}KL divergence, largest", f"{quality.kl_max:.1e} nats", "not judged"],
    ]


def _tolerance(parity: VerificationRecord) -> str:
    tolerance = to_plain(parity.tolerance)
    limits = ", ".join(f"{key} {value:g}" for key, value in tolerance.items() if isinstance(value, int | float))
    reason = escape(f"{parity.requirement}. {tolerance['reason']}" if parity.requirement else tolerance["reason"])
    return f"<details><summary>What was allowed, and why</summary><p>{limits}</p><p>{reason}</p></details>"


def _environment(environment: Environment) -> str:
    machine = {
        "processor": environment.processor,
        "int8 products": environment.int8_kernels,
        "cores": environment.cores,
        "memory": format_bytes(environment.memory_bytes),
        "system": environment.system,
        "python": environment.python,
        "yizhi": environment.yizhi,
        **environment.packages,
    }
    rows = [[escape(str(key)), escape(str(value))] for key, value in machine.items()]
    return "<section><h2>Machine and versions</h2>" + _table((), rows) + "</section>"


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _cell(content: str) -> str:
    # Figures stay on one line; only what reads as a text may wrap.
    return f"<td class=text>{content}</td>" if len(content) > 24 and "<" not in content else f"<td>{content}</td>"


def _seconds(result: Result[Any] | None) -> str:
    return f"{result.seconds:.1f} s" if result else "-"

"""parity.html: one page that needs nothing but itself. The verdict first, then why."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from yizhi.parity.compare import Difference, Quality
from yizhi.parity.record import VerificationRecord
from yizhi.parity.tolerances import QuantizedGates
from yizhi.pipeline.environment import Environment
from yizhi.pipeline.head import describe_head, find_head
from yizhi.pipeline.jobs import Result
from yizhi.pipeline.results import Row
from yizhi.release.policy_verdict import PolicyVerdict
from yizhi.reports.tables import describe_errors, format_bytes
from yizhi.storage.codec import to_plain

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 240, 64, 48, 18


def render_page(rows: Sequence[Row], environment: Environment, policy: PolicyVerdict | None = None) -> str:
    """The report as HTML: no scripts, no fonts, no network."""
    good = sum(row.passed for row in rows)
    fit = good == len(rows) and (policy is None or policy.passed)
    verdict = "Fit for release" if fit else "Not fit for release"
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{verdict}: {good} of {len(rows)} targets</title>
<style>
{style}</style>
</head>
<body>
<header class="{"good" if fit else "bad"}">
<h1>{verdict}</h1>
<p>{good} of {len(rows)} targets agree with the float64 oracle.</p>
</header>
<main>
{_summary(rows)}
{_head(rows)}
{_policy(policy)}
{"".join(map(_target, rows))}
{_environment(environment)}
</main>
</body>
</html>
"""


def _summary(rows: Sequence[Row]) -> str:
    cells = [
        [
            f'<a href="#{escape(row.target)}">{escape(row.target)}</a>',
            _mark(row),
            format_bytes(row.size),
            _seconds(row.verification),
            escape(describe_errors(row.verdict)),
        ]
        for row in rows
    ]
    return f'<div class="summary">{_table(("target", "verdict", "size", "verified in", "worst error"), cells)}</div>'


def _head(rows: Sequence[Row]) -> str:
    head = find_head(row.verdict for row in rows)
    return f"<p>{escape(describe_head(head))}</p>" if head else ""


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
        parts += [_layers(name, parity), _worst_cases(parity), _quality(parity), _tolerance(parity)]
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


def _layers(name: str, parity: VerificationRecord) -> str:
    """The error after each layer, with what is allowed: share of the tolerance, or 1 - cosine for int8."""
    layers = [output for output in parity.worst if output.startswith("hidden_states.")]
    layers.sort(key=lambda output: int(output.rpartition(".")[2]))
    if not layers:
        return ""
    if isinstance(parity.tolerance, QuantizedGates):
        values = [max(1 - parity.cosine.get(output, 1.0), 1e-9) for output in layers]
        limit, what = 1 - parity.tolerance.cosine, "1 − lowest cosine"
    else:
        values = [parity.worst[output].excess for output in layers]
        limit, what = 1.0, "largest error ÷ allowed error"
    return f"<figure><figcaption>{what}, after each layer</figcaption>{_plot(name, values, limit)}</figure>"


def _plot(name: str, values: list[float], limit: float) -> str:
    """Bars on a logarithmic axis with the limit across. What is not finite fills the whole height."""
    known = [value for value in values if value and math.isfinite(value)]
    low = math.floor(math.log10(min([*known, limit]) * 0.7))
    high = math.ceil(math.log10(max([*known, limit]) * 1.2))

    def y(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    parts = []
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">1e{power}</text>')
    step = (_WIDTH - _LEFT) / len(values)
    every = math.ceil(len(values) / 13)
    for index, value in enumerate(values):
        top = y(value) if math.isfinite(value) else _TOP
        x, kind = _LEFT + index * step, "bar" if value <= limit else "bar over"
        shown = f"{value:.2e}" if math.isfinite(value) else "not a number"
        parts.append(
            f'<rect class="{kind}" x="{x + step * 0.15:.1f}" y="{top:.1f}" width="{step * 0.7:.1f}" '
            f'height="{max(_HEIGHT - _BOTTOM - top, 1):.1f}"><title>layer {index}: {shown}</title></rect>'
        )
        if index % every == 0:
            parts.append(
                f'<text x="{x + step / 2:.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{index}</text>'
            )
    at = y(limit)
    parts.append(f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH}" y1="{at:.1f}" y2="{at:.1f}"/>')
    parts.append(f'<text class="limit" x="{_WIDTH}" y="{at - 4:.1f}" text-anchor="end">allowed {limit:.2g}</text>')
    parts.append(
        f'<text x="{_LEFT + (_WIDTH - _LEFT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">layers passed</text>'
    )
    label = f"error after each layer of {escape(name)}"
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _worst_cases(parity: VerificationRecord) -> str:
    """The five outputs that came nearest to their limit, or passed it."""
    quantized = isinstance(parity.tolerance, QuantizedGates)

    def badness(item: tuple[str, Difference]) -> float:
        output, found = item
        if not math.isfinite(found.error):
            return math.inf
        return -parity.cosine.get(output, 1.0) if quantized else found.excess

    def used(output: str, found: Difference) -> str:
        if quantized:
            return f"{parity.cosine[output]:.5f}" if output in parity.cosine else "-"
        return f"{found.excess:.2g} ×" if math.isfinite(found.excess) else "-"

    worst = sorted(parity.worst.items(), key=badness, reverse=True)
    rows = [
        [
            escape(output),
            escape(found.case),
            f"{found.error:.2e}" if math.isfinite(found.error) else "not comparable",
            used(output, found),
        ]
        for output, found in worst[:5]
    ]
    headings = ("output", "case", "error", "cosine" if quantized else "÷ allowed")
    return "<h3>Worst cases</h3>" + _table(headings, rows)


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

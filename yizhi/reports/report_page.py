"""parity.html: one page that needs nothing but itself. The verdict first, then why."""

import math
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from yizhi.pipeline.head import describe_head, find_head
from yizhi.reports.tables import describe_errors, format_bytes

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 240, 64, 48, 18


def render_page(report: Mapping[str, Any]) -> str:
    """The report of `yizhi.reports.report.describe` as HTML: no scripts, no fonts, no network."""
    targets = report["targets"]
    good = sum(found["passed"] for found in targets.values())
    verdict = "Fit for release" if report["passed"] else "Not fit for release"
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{verdict}: {good} of {len(targets)} targets</title>
<style>
{style}</style>
</head>
<body>
<header class="{"good" if report["passed"] else "bad"}">
<h1>{verdict}</h1>
<p>{good} of {len(targets)} targets agree with the float64 oracle.</p>
</header>
<main>
{_summary(targets)}
{_head(targets)}
{"".join(_target(name, found) for name, found in targets.items())}
{_environment(report["environment"])}
</main>
</body>
</html>
"""


def _summary(targets: Mapping[str, Any]) -> str:
    rows = [
        [
            f'<a href="#{escape(name)}">{escape(name)}</a>',
            _mark(found),
            format_bytes(found["size"]),
            _seconds(found["verification"]),
            escape(describe_errors(found["parity"])),
        ]
        for name, found in targets.items()
    ]
    return f'<div class="summary">{_table(("target", "verdict", "size", "verified in", "worst error"), rows)}</div>'


def _head(targets: Mapping[str, Any]) -> str:
    head = find_head(found["parity"] for found in targets.values())
    return f"<p>{escape(describe_head(head))}</p>" if head else ""


def _mark(found: Mapping[str, Any]) -> str:
    if found["not_run"]:
        return '<strong class="unrun">not run</strong>'
    return '<strong class="good">pass</strong>' if found["passed"] else '<strong class="bad">fail</strong>'


def _target(name: str, found: Mapping[str, Any]) -> str:
    parts = [f'<section id="{escape(name)}"><h2>{escape(name)} {_mark(found)}</h2>']
    if found["faults"]:
        parts.append("<ul class=faults>" + "".join(f"<li>{escape(fault)}</li>" for fault in found["faults"]) + "</ul>")
    parity = found["parity"]
    if parity and parity["worst"] and not parity["tolerance"]:
        parts.append(_errors(parity))
    elif parity and parity["worst"]:
        parts += [_layers(name, parity), _worst_cases(parity), _quality(parity), _tolerance(parity)]
    return "\n".join([*parts, "</section>"])


def _errors(parity: Mapping[str, Any]) -> str:
    """What was measured where nothing is known to judge it by."""
    rows = [
        [output, found["case"], *("-" if found[key] is None else f"{found[key]:.1e}" for key in ("error", "excess"))]
        for output, found in parity["worst"].items()
    ]
    settings = ", ".join(f"{name} {value}" for name, value in parity["settings"].items())
    heading = f"{parity['precision']} on {parity['device']}: measured, not judged"
    return f"<h3>{heading}</h3><p>{escape(settings)}</p>" + _table(("output", "case", "error", "needs"), rows)


def _layers(name: str, parity: Mapping[str, Any]) -> str:
    """The error after each layer, with what is allowed: share of the tolerance, or 1 - cosine for int8."""
    layers = [output for output in parity["worst"] if output.startswith("hidden_states.")]
    layers.sort(key=lambda output: int(output.rpartition(".")[2]))
    if not layers:
        return ""
    if parity["cosine"]:
        values = [max(1 - parity["cosine"].get(output, 1.0), 1e-9) for output in layers]
        limit, what = 1 - parity["tolerance"].get("cosine", 0.0), "1 − lowest cosine"
    else:
        values = [parity["worst"][output]["excess"] for output in layers]
        limit, what = 1.0, "largest error ÷ allowed error"
    return f"<figure><figcaption>{what}, after each layer</figcaption>{_plot(name, values, limit)}</figure>"


def _plot(name: str, values: list[float | None], limit: float) -> str:
    """Bars on a logarithmic axis with the limit across. None (not finite) fills the whole height."""
    known = [value for value in values if value]
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
        top = _TOP if value is None else y(value)
        x, kind = _LEFT + index * step, "bar" if value is not None and value <= limit else "bar over"
        shown = "not a number" if value is None else f"{value:.2e}"
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


def _worst_cases(parity: Mapping[str, Any]) -> str:
    """The five outputs that came nearest to their limit, or passed it."""
    quantized = bool(parity["cosine"])

    def badness(item: tuple[str, Mapping[str, Any]]) -> float:
        output, found = item
        if found["error"] is None:
            return math.inf
        return -parity["cosine"].get(output, 1.0) if quantized else found["excess"]

    worst = sorted(parity["worst"].items(), key=badness, reverse=True)
    rows = [
        [
            escape(output),
            escape(found["case"]),
            "not comparable" if found["error"] is None else f"{found['error']:.2e}",
            f"{parity['cosine'].get(output, float('nan')):.5f}".replace("nan", "-")
            if quantized
            else "-"
            if found["excess"] is None
            else f"{found['excess']:.2g} ×",
        ]
        for output, found in worst[:5]
    ]
    headings = ("output", "case", "error", "cosine" if quantized else "÷ allowed")
    return "<h3>Worst cases</h3>" + _table(headings, rows)


def _quality(parity: Mapping[str, Any]) -> str:
    quality, limits = parity["quality"], parity["tolerance"]
    if not quality:
        return ""
    measures = {
        "top1": ("top-1 agreement, decided positions", "≥"),
        "top5": ("first answer among the five", "≥"),
        "kl_mean": ("KL divergence, mean", "≤"),
        "kl_p99": ("KL divergence, 99th percentile", "≤"),
        "kl_max": ("KL divergence, largest", ""),
    }
    rows = []
    for key, (words, sign) in measures.items():
        value = quality[key]
        shown = "-" if value is None else f"{value:.1%}" if key.startswith("top") else f"{value:.1e} nats"
        rows.append([words, shown, f"{sign} {limits[key]:g}" if sign else "not judged"])
    positions = f"{quality['positions']} positions, {quality['decided']} decided"
    return f"<h3>int8 quality</h3><p>{positions}.</p>" + _table(("measure", "found", "allowed"), rows)


def _tolerance(parity: Mapping[str, Any]) -> str:
    tolerance = parity["tolerance"]
    limits = ", ".join(f"{key} {value:g}" for key, value in tolerance.items() if isinstance(value, int | float))
    reason = escape(str(tolerance["reason"]))
    return f"<details><summary>What was allowed, and why</summary><p>{limits}</p><p>{reason}</p></details>"


def _environment(environment: Mapping[str, Any]) -> str:
    machine = {
        "processor": environment["processor"],
        "int8 products": environment["int8_kernels"],
        "cores": environment["cores"],
        "memory": format_bytes(environment["memory_bytes"]),
        "system": environment["system"],
        "python": environment["python"],
        "yizhi": environment["yizhi"],
        **environment["packages"],
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


def _seconds(measured: Mapping[str, Any] | None) -> str:
    return f"{measured['seconds']:.1f} s" if measured else "-"

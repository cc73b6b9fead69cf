"""How close each target came to its limits, and where: a row for each output, a column for each target.

The table has numbers, so that it can be read without colours.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

from yizhi.parity.compare import Quality
from yizhi.parity.record import VerificationRecord
from yizhi.parity.tolerances import QuantizedGates
from yizhi.pipeline.results import Row

_LAYER = "hidden_states."
_NAMES = {
    "hidden_states.0": "embeddings",
    "last_hidden_state": "last",
    "pooler_output": "pooler",
    "sentence_embedding": "sentence",
}
_LAST = ("last_hidden_state", "pooler_output", "sentence_embedding", "logits")


def shares_used(record: VerificationRecord | None) -> dict[str, float]:
    """By output, the used share of the limit: 1 is the limit; infinite if the output could not be compared.

    float: the largest |error| / allowed error. int8: of all gates that judge the output, the largest share of the
    distance to a perfect score, (1 - found) / (1 - gate), or of what may be lost, found / gate.
    Empty if nothing was run, or if there is no gate.
    """
    if record is None or record.tolerance is None:
        return {}
    if not isinstance(record.tolerance, QuantizedGates):
        return {output: _share(found.excess, 1.0) for output, found in record.worst.items()}
    by_gates = _shares_of_gates(record, record.tolerance)
    return {
        output: max(by_gates[output]) if math.isfinite(found.error) else math.inf
        for output, found in record.worst.items()
        if output in by_gates or not math.isfinite(found.error)
    }


def _shares_of_gates(record: VerificationRecord, gates: QuantizedGates) -> dict[str, list[float]]:
    shares: dict[str, list[float]] = {}
    for values, gate in ((record.cosine, gates.cosine), (record.cosine_mean, gates.cosine_mean)):
        for output, found in values.items():
            shares.setdefault(output, []).append(_share(1 - found, 1 - gate))
    sentences = record.sentences
    logits = _shares_of_logits(record.quality, gates)
    if sentences:
        logits += _shares_of_logits(sentences.masked, gates)
        shares.setdefault("last_hidden_state", []).extend(
            _share(1 - found, 1 - gate)
            for found, gate in (
                (sentences.token_p01, gates.token_p01),
                (sentences.vector_mean, gates.vector_mean),
                (sentences.order, gates.order),
            )
            if found is not None
        )
    if record.label_error is not None:
        logits.append(_share(record.label_error, gates.label_error))
    return {**shares, **({"logits": logits} if logits else {})}


def _shares_of_logits(quality: Quality | None, gates: QuantizedGates) -> list[float]:
    if quality is None:
        return []
    agreement = ((quality.top1, gates.top1), (quality.top5, gates.top5))
    return [
        *(_share(1 - found, 1 - gate) for found, gate in agreement if found is not None),
        *(_share(found, gate) for found, gate in ((quality.kl_mean, gates.kl_mean), (quality.kl_p99, gates.kl_p99))),
    ]


def _share(found: float, allowed: float) -> float:
    """Not a number counts as infinite. Rounding may put a perfect cosine a little above 1."""
    return max(found / allowed, 0.0) if math.isfinite(found) else math.inf


def say_share(share: float) -> str:
    """In whole percent. Above the limit, never rounded down to 100. `∞` if the output could not be compared."""
    if not math.isfinite(share):
        return "∞"
    percent = math.ceil(share * 100) if 1 < share < 100 else share * 100
    return f"{percent:.0f}" if percent < 10_000 else "> 9999"


def render_heat_map(rows: Sequence[Row]) -> str:
    """The table, the largest share in words above it, and a legend below; empty where nothing was judged."""
    shares = {row.target: found for row in rows if (found := shares_used(row.verdict))}
    if not shares:
        return ""
    outputs = sorted({output for found in shares.values() for output in found}, key=_order)
    heads = "".join(f'<th scope="col"><span>{escape(row.target)}</span></th>' for row in rows)
    body = "".join(
        f'<tr><th scope="row" title="{escape(output)}">{escape(_short(output))}</th>'
        + "".join(_cell(row, output, shares.get(row.target, {})) for row in rows)
        + "</tr>"
        for output in outputs
    )
    return f"""<section id="limits"><h2>How close to the limit, and where</h2>
<p>{_largest(shares)}</p>
<table class="heat">
<caption>Percent of the allowed error that was used (int8: of its gates). 100 is the limit.</caption>
<thead><tr><td></td>{heads}</tr></thead>
<tbody>{body}</tbody>
</table>
<p class="legend"><span class="scale"></span> 0 to 100 <span class="key over"></span> over the limit
<span class="key"></span> - not run, not judged, or no such output</p>
</section>"""


def _order(output: str) -> tuple[int, str]:
    if output.startswith(_LAYER):
        return int(output.removeprefix(_LAYER)), ""
    return 10**6 + (_LAST.index(output) if output in _LAST else len(_LAST)), output


def _short(output: str) -> str:
    return _NAMES.get(output, output.replace(_LAYER, "layer ").replace("_", " "))


def _cell(row: Row, output: str, shares: Mapping[str, float]) -> str:
    share = shares.get(output)
    if share is None or row.verdict is None:
        return "<td>-</td>"
    found = row.verdict.worst[output]
    used = f"{say_share(share)} % of what is allowed, error {found.error:.1e}"
    told = f"{row.target}, {output}: {used if math.isfinite(share) else 'not comparable'} (case {found.case})"
    if share > 1:
        return f'<td class="over" title="{escape(told)}">{say_share(share)}</td>'
    return f'<td style="--used: {share:.0%}" title="{escape(told)}">{say_share(share)}</td>'


def _largest(shares: Mapping[str, Mapping[str, float]]) -> str:
    target, output, share = max(
        ((target, output, share) for target, found in shares.items() for output, share in found.items()),
        key=lambda one: one[2],
    )
    where = f"<strong>{escape(target)}</strong>, {escape(output)}"
    if not math.isfinite(share):
        return f"{where}: cannot be compared at all."
    return f"Nearest to its limit: {where}, at {say_share(share)} % of what is allowed."

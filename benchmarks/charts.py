"""Bar charts as SVG, readable on light and dark pages."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

# Group -> bar -> value, or why there is none.
Groups = Mapping[str, Mapping[str, float | str]]

_WIDTH, _LABELS, _VALUES = 760, 270, 110
_LINE, _GAP, _TOP = 20, 12, 34
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 } .group { font-weight: 600; font-size: 12px } .value { font-variant-numeric: tabular-nums }
.ours { fill: #c2410c } .theirs { fill: #8b949e }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .ours { fill: #fb923c } .theirs { fill: #6e7681 } }"""


def bar_chart(title: str, groups: Groups, form: str, ours: Sequence[str] = ("yizhi",)) -> str:
    """An SVG document: horizontal bars from 0, all to one scale; `form` formats a value."""
    values = [value for bars in groups.values() for value in bars.values() if not isinstance(value, str)]
    scale = (_WIDTH - _LABELS - _VALUES) / max(values, default=1.0)
    y, parts = _TOP, [f'<text class="title" x="0" y="16">{escape(title)}</text>']
    for group, bars in groups.items():
        parts.append(f'<text class="group" x="0" y="{y + 14}">{escape(group)}</text>')
        y += _LINE
        for name, value in bars.items():
            parts.append(f'<text x="{_LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
            width, text = (0.0, value) if isinstance(value, str) else (value * scale, form.format(value))
            kind = "ours" if name in ours else "theirs"
            parts.append(f'<rect class="{kind}" x="{_LABELS}" y="{y + 3}" width="{width:.1f}" height="14" rx="2"/>')
            parts.append(f'<text class="value" x="{_LABELS + width + 6:.1f}" y="{y + 14}">{escape(text)}</text>')
            y += _LINE
        y += _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}" role="img" '
        f'aria-label="{escape(title)}">'
    )
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])

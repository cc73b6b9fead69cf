"""What `yizhi diff` found, in a terminal and as one page of HTML: the two answers first, then why."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from rich.console import Console

from yizhi.errors import printable, show
from yizhi.parity.diff import Change, Moved, ReleaseDiff

_MOST = 12


def print_difference(console: Console, found: ReleaseDiff) -> None:
    """Print the verdict and its reasons, a line each."""
    for heading, lines in _sections(found):
        console.print(heading, style="bold", markup=False, highlight=False)
        for line in lines:
            console.print(f"  {printable(line)}", markup=False, highlight=False, soft_wrap=True)


def render_difference(found: ReleaseDiff) -> str:
    """The same as HTML: no scripts, no fonts, no network."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    (title, verdict), *rest = _sections(found)
    body = "".join(
        f"<section><h2>{escape(heading)}</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul></section>"
        for heading, lines in rest
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header class="{"bad" if found.reindex or found.labels else "good"}">
<h1>{escape(title)}</h1>
{"".join(f"<p>{escape(line)}</p>" for line in verdict)}
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _sections(found: ReleaseDiff) -> Iterator[tuple[str, list[str]]]:
    yield (
        f"{found.before} → {found.after}",
        [
            f"re-index: {_because(found.reindex, 'yes', 'no')}",
            f"labels compatible: {_because(found.labels, 'no', 'yes')}",
            *(["no change can affect an answer"] if found.same else []),
        ],
    )
    yield "Tensors", [*_tensors(found)]
    yield "Text", [*_text(found)]
    if found.settings:
        yield "Settings", [_say(change) for change in found.settings]
    if found.moved:
        yield "Answers", [*_answers(found.moved)]


def _because(reasons: tuple[str, ...], there: str, none: str) -> str:
    return f"{there}: {'; '.join(reasons)}" if reasons else none


def _tensors(found: ReleaseDiff) -> Iterator[str]:
    kept = found.tensors - len(found.changed) - len(found.added) - len(found.removed)
    yield f"{kept} of {found.tensors} are the same in every bit"
    for what, names in (("changed", found.changed), ("added", found.added), ("removed", found.removed)):
        if names:
            yield f"{what}: {len(names)}: {_some(names)}"


def _text(found: ReleaseDiff) -> Iterator[str]:
    yield (
        f"files of the tokenizer that differ: {_some(found.files)}"
        if found.files
        else "the tokenizer's files are the same"
    )
    yield f"{found.texts - len(found.ids)} of {found.texts} texts that tell tokenizers apart have the same ids"
    yield from (f"other ids: {show(text)}" for text in found.ids[:3])


def _answers(moved: Moved) -> Iterator[str]:
    yield f"{moved.texts} texts, by {moved.ran[0]} before and {moved.ran[1]} after"
    if moved.same_best is not None:
        yield f"the best answer is the same in {moved.same_best:.1%} of {moved.places} places"
    if moved.cosine_mean is not None:
        yield f"cosine of a text's vectors: {moved.cosine_mean:.5f} on average, {moved.cosine_least:.5f} at least"
    elif moved.texts:
        yield "the vectors have another width"
    else:
        yield "no text is short enough for both"
    if moved.order is not None:
        yield f"order of the texts' similarities: Spearman {moved.order:.4f}"
    yield from (_say(change) for change in moved.examples)


def _say(change: Change) -> str:
    before, after = (
        "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in (change.before, change.after)
    )
    return f"{change.what}: {before} before; {after} after"


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more

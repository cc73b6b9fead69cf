"""`yizhi models`: the catalogue, for people."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from rich.console import Console
from rich.text import Text

from yizhi.catalogue.catalogue import KnownCheckpoint
from yizhi.reports.plain_table import PlainTable
from yizhi.reports.tables import format_bytes

_HEADS = {
    "trained": "fills masks",
    "random": "RANDOM: noise",
    "corrector": "corrects words; not for [MASK]",
    "absent": "none",
    "unknown": "not known: see verify",
}


_UNLIMITED = 100_000  # columns
# Columns of texts, which may wrap, and the least width in which both can still be read.
_TEXTS = ("MLM head", "choose it for")
_LEAST = 40


def print_models(console: Console, known: Iterable[KnownCheckpoint]) -> None:
    """One line per checkpoint. Where the console is narrow, columns are left out: those that `NAME` adds again."""
    rows = [_row(entry) for entry in known]
    left_out: list[str] = []
    for heading in (None, "layers", "hidden", "parameters", "size", "family"):
        left_out += [heading] if heading else []
        figures = _table(rows, [*left_out, *_TEXTS])
        if console.measure(figures, options=console.options.update(width=_UNLIMITED)).maximum <= console.width - _LEAST:
            break
    console.print(_table(rows, left_out))
    console.print("Size as float32.")
    console.print("`yizhi models NAME` adds licence, hashes, and the source of every statement.")


def _row(entry: KnownCheckpoint) -> dict[str, str]:
    config = entry.spec.config if entry.spec else None
    return {
        "name": entry.name,
        "family": config.model_type if config else "-",
        "layers": str(config.depth) if config else "-",
        "hidden": str(config.hidden_size) if config else "-",
        "parameters": _millions(entry.parameters),
        "size": format_bytes(entry.size),
        "MLM head": _HEADS[entry.head.text],
        "choose it for": entry.choose.text,
    }


def _table(rows: Sequence[Mapping[str, str]], left_out: Collection[str]) -> PlainTable:
    table = PlainTable()
    headings = [heading for heading in rows[0] if heading not in left_out] if rows else []
    for heading in headings:
        is_text = heading in _TEXTS
        justify: Literal["left", "right"] = "left" if is_text or heading in ("name", "family") else "right"
        table.add_column(heading, justify=justify, no_wrap=not is_text, overflow="fold")
    for row in rows:
        table.add_row(*(row[heading] for heading in headings))
    return table


def print_model(console: Console, entry: KnownCheckpoint) -> None:
    """Everything about one, each statement with its source."""
    table = PlainTable(show_header=False)
    config = entry.spec.config if entry.spec else None

    def say(what: str, text: object, source: str | None = None) -> None:
        table.add_row(what, Text(str(text)), Text(f"({source})" if source else ""))

    say("name", entry.name)
    say("published at", ", ".join(entry.hub))
    if config:
        say("family", config.model_type, entry.shape.source)
        say("layers", config.depth)
        say("hidden size", config.hidden_size)
        if config.embedding_size != config.hidden_size:
            say("embedding size", config.embedding_size)
        say("activation", config.hidden_act)
        say("vocabulary", f"{config.vocab_size:,}")
        say("parameters", f"{entry.parameters:,}", "computed from the shape")
        say("size", f"{format_bytes(entry.size)} as float32", "computed from the shape")
    say("licence", entry.licence.text, entry.licence.source)
    say("MLM head", _HEADS[entry.head.text], entry.head.source)
    say("choose it for", entry.choose.text, entry.choose.source)
    if entry.embedding:
        say("vectors", entry.embedding.describe(), entry.embedding.source)
    for file in entry.files:
        size = f", {file.size:,} bytes" if file.size else ""
        say("published file", f"{file.name}{size}\n{file.sha256}", file.source)
    if entry.tensors_source:
        say("tensors", "known one by one", entry.tensors_source)
    console.print(table)


def _millions(count: int | None) -> str:
    return f"{count / 1e6:.1f} M" if count else "-"

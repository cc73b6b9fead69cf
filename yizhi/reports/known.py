"""`yizhi models`: the catalogue, for people."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from yizhi.catalogue.catalogue import KnownCheckpoint
from yizhi.reports.tables import format_bytes

_HEADS = {
    "trained": "fills masks",
    "random": "RANDOM: noise",
    "corrector": "corrects words; not for [MASK]",
    "absent": "none",
    "unknown": "not known: see verify",
}


def print_models(console: Console, known: Iterable[KnownCheckpoint]) -> None:
    """One line per checkpoint."""
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "family"):
        table.add_column(heading, no_wrap=True)
    for heading in ("layers", "hidden", "parameters", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("MLM head", "choose it for"):
        table.add_column(heading)
    for entry in known:
        config = entry.spec.config if entry.spec else None
        table.add_row(
            entry.name,
            config.model_type if config else "-",
            str(config.num_hidden_layers) if config else "-",
            str(config.hidden_size) if config else "-",
            _millions(entry.parameters),
            format_bytes(entry.size),
            _HEADS[entry.head.text],
            entry.choose.text,
        )
    console.print(table)
    console.print("Size as float32. `yizhi models NAME` adds licence, hashes, and the source of every statement.")


def print_model(console: Console, entry: KnownCheckpoint) -> None:
    """Everything about one, each statement with its source."""
    table = Table(box=None, show_header=False, pad_edge=False)
    config = entry.spec.config if entry.spec else None

    def say(what: str, text: object, source: str | None = None) -> None:
        table.add_row(what, Text(str(text)), Text(f"({source})" if source else ""))

    say("name", entry.name)
    say("published at", ", ".join(entry.hub))
    if config:
        say("family", config.model_type, entry.shape.source)
        say("layers", config.num_hidden_layers)
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

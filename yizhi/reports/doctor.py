"""`yizhi doctor`: what was found, as tables."""

from rich.console import Console
from rich.text import Text

from yizhi.pipeline.examination import Examination, Use
from yizhi.reports.plain_table import PlainTable
from yizhi.reports.tables import format_bytes


def print_examination(console: Console, found: Examination) -> None:
    """The machine, a line for each target, and one for each other extra."""
    here = found.environment
    machine = PlainTable(show_header=False)
    machine.add_row("processor", f"{here.processor}, {here.cores} cores, {format_bytes(here.memory_bytes)}")
    slow = ": int8 saves memory and little time" if here.int8_kernels.endswith("without VNNI") else ""
    machine.add_row("int8", f"{here.int8_kernels}{slow}")
    machine.add_row("software", f"yizhi {here.yizhi}, Python {here.python}, {here.system}")
    extras = {name: {"": use} for name, use in found.extras.items()}
    for table in (machine, _table("target", found.targets), _table("extra", extras)):
        console.print(table)
        console.print()


def _table(title: str, rows: dict[str, dict[str, Use]]) -> PlainTable:
    """A row for each name: whether each of its uses is ready, and what to install."""
    table = PlainTable()
    for heading in (title, *next(iter(rows.values()), {}), "to install"):
        table.add_column(heading)
    for name, uses in rows.items():
        ready = ["missing" if use.missing else "ready" for use in uses.values()]
        needed = {use.install: use.missing for use in uses.values() if use.missing}
        advice = [f"pip install 'yizhi[{extra}]'  ({', '.join(names)})" for extra, names in needed.items()]
        table.add_row(name, *ready, Text("\n".join(advice)))
    return table

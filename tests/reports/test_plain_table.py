"""What tables print: lines that end with their text."""

from io import StringIO

import pytest
from rich.console import Console
from rich.text import Text

from tests.imports import ROOT
from yizhi.catalogue.catalogue import read_catalogue
from yizhi.reports.known import print_model, print_models
from yizhi.reports.plain_table import PlainTable


def printed(table, **options):
    console = Console(width=80, file=StringIO(), **options)
    console.print(table)
    return console.file.getvalue()


def filled(table):
    table.add_column("target")
    table.add_column("verdict")
    table.add_row("onnx-int8", Text("pass", "bold green"))
    table.add_row("onnx", "two\nlines")
    table.add_row("")
    return table


def test_no_line_ends_in_a_space():
    title = PlainTable(title="dist/NAME", title_justify="left")
    assert printed(filled(title)) == (
        "dist/NAME\ntarget     verdict\nonnx-int8  pass\nonnx       two\n           lines\n\n"
    )


def test_colours_are_those_of_rich():
    ours = printed(filled(PlainTable()), force_terminal=True, color_system="standard")
    assert "\x1b[1;32mpass\x1b[0m\n" in ours
    assert "\x1b[1mtarget" in ours


@pytest.mark.parametrize("width", [80, 160])
def test_the_lists_of_checkpoints(width):
    console = Console(width=width, file=StringIO())
    known = list(read_catalogue().values())
    print_models(console, known)
    print_model(console, known[0])
    lines = console.file.getvalue().splitlines()
    assert [line for line in lines if line != line.rstrip()] == []


def test_every_table_is_one():
    makers = [path.relative_to(ROOT) for path in (ROOT / "yizhi").rglob("*.py") if " Table(" in path.read_text("utf-8")]
    assert [str(path) for path in makers if path.name not in ("plain_table.py", "flatbuffer.py")] == []

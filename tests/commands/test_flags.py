"""The library names parameters; the command line puts its flags there, in one place."""

import ast
import re
from pathlib import Path

import pytest

import yizhi
from yizhi.cli import build_parser, main
from yizhi.commands.options import name_flags

PACKAGE = Path(yizhi.__file__).parent
# Where flags are our own command line's, or a server's.
SPEAKS_FLAGS = ("commands", "cli.py", "demo", "packaging/tf_serving.py", "packaging/triton.py")
SPEAKS_FLAGS += ("training/sample_entities.py", "pipeline/hardware.py")


def find_texts(path):
    """Line and text of every string that is no docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and is_text(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def is_text(node):
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)


def test_the_library_says_no_flags():
    files = [path for room in PACKAGE.iterdir() for path in (sorted(room.rglob("*.py")) if room.is_dir() else [room])]
    library = [path for path in files if not path.relative_to(PACKAGE).as_posix().startswith(SPEAKS_FLAGS)]
    assert len(library) > 100
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in library
        if path.suffix == ".py"
        for line, text in find_texts(path)
        if re.search(r"(^|[\s`(])--[a-z]", text)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_name_becomes_this_commands_flag():
    options = build_parser().parse_args(["package", "r", "--for", "triton", "--out", "o"])
    text = "`server`, `signatures`, `public_key`; `release` is no flag, nor is `owner/name` or `stride`"
    assert name_flags(text, options.parser) == (
        "--for, --signature, --public-key; `release` is no flag, nor is `owner/name` or `stride`"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["export", "x", "--out", "y", "--target", "onyx"],
            "--target:\n  - unknown: onyx (did you mean onnx?); known: pytorch",
        ),
        (["embed", "x", "in.xml", "--output", "o.npy"], "in.xml:\n  - no such file"),
        (["import", "nowhere", "--out", "y"], "nowhere"),
    ],
)
def test_errors_are_told_with_flags(arguments, told, capsys):
    assert main(arguments) == 2
    assert told in capsys.readouterr().err

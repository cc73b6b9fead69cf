"""Every path, module and name of ours that a document, a docstring or a comment gives is there."""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

from tests.imports import ROOT, find_module, parse
from yizhi.cli import build_parser

DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "docs/zh/*.md", "docs/examples/*.sh", "Makefile", "benchmarks/*.toml")
    for path in ROOT.glob(pattern)
)
FOLDERS = ("benchmarks", "converters", "deploy", "docs", "parity_tests", "runtimes", "tests", "training", "yizhi")
# What can be imported from here; the folders whose rooms are the package's have no name of their own.
PACKAGES = ("benchmarks", "parity_tests", "tests", "yizhi")
# A path of ours, and not the end of a longer one such as dist/yizhi/...; NAME and * stand for anything.
PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w*./-]*")
DOTTED = re.compile(rf"(?<![\w/.-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?![\w/])")
IMPORT = re.compile(r"^\s*(?:>>> )?from ([\w.]+) import ([\w, ]+)$|^\s*(?:>>> )?import ([\w.]+)$", re.MULTILINE)
RUN = re.compile(r"python3? -m ([\w.]+)")
LINK = re.compile(r"\]\(([\w./-]+)(?:#[^)]*)?\)")
# Names of other projects' files that begin as ours do.
ELSEWHERE = ("docs/user_guide/", "yizhi/prediction_log.proto")
FILES = (".css", ".json", ".md", ".py", ".sh", ".toml", ".tsv", ".txt")


@cache
def find_names(module: Path) -> frozenset[str]:
    """What a module defines or imports at its top, those of `if TYPE_CHECKING` and a star's too."""
    names = {"__file__", "__path__"}
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            names |= find_names(find_module(node.module))
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return frozenset(names)


def exists(dotted: str) -> bool:
    """Whether `package.module.name` is a module, or a module's name and anything below it."""
    module, _, rest = dotted, "", ""
    while module:
        if found := find_module(module):
            return not rest or rest.split(".")[0] in find_names(found)
        module, _, last = module.rpartition(".")
        rest = f"{last}.{rest}" if rest else last
    return False


def find_faults(text: str) -> list[str]:
    faults = []
    for path in {found.rstrip(".") for found in PATH.findall(text)}:
        pattern = re.sub(r"NAME|…", "*", path)
        if not list(ROOT.glob(pattern.rstrip("/"))) if "*" in pattern else not (ROOT / pattern).exists():
            faults.append(f"{path}: no such path")
    # A module's name, and no file's such as yizhi.toml's.
    for name in {found for found in DOTTED.findall(text) if not found.endswith(FILES)}:
        if not exists(name):
            faults.append(f"{name}: no such module or name")
    for module, names, plain in IMPORT.findall(text):
        first = (module or plain).partition(".")[0]
        if first in FOLDERS and first not in PACKAGES:
            faults.append(f"{first}: no package has this name; yizhi.{first} has")
        elif first in PACKAGES:
            wanted = [f"{module}.{name.split()[0]}" for name in names.split(",")] if module else [plain]
            faults += [f"{name}: cannot be imported" for name in wanted if not exists(name)]
    for name in RUN.findall(text):
        first = name.partition(".")[0]
        if first in FOLDERS and not (first in PACKAGES and find_module(name)):
            faults.append(f"python -m {name}: no such module")
        elif first not in FOLDERS and importlib.util.find_spec(first) is None:
            faults.append(f"python -m {name}: not installed")
    return sorted(faults)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_a_document_names_is_there(name):
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    faults = find_faults(text)
    # Files and sections of this project; LINK leaves out what has a scheme.
    faults += [f"{link}: a link that leads nowhere" for link in LINK.findall(text) if not (path.parent / link).exists()]
    assert not faults, "\n".join(faults)


def test_what_the_code_says_of_itself_is_there():
    """Docstrings, comments and strings: a module's name outlives its move there most easily."""
    faults = [
        f"{path.relative_to(ROOT)}: {fault}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name not in (Path(__file__).name, "test_architecture.py")
        for fault in find_faults(path.read_text(encoding="utf-8"))
        if not fault.startswith(ELSEWHERE)
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "text",
    [
        "see `converters/spec.py`",
        "from runtimes import open_runtime",
        "from yizhi import open_runtime, Embeder",
        "python -m benchmarks.speed",
        "`yizhi.parity.oracle.Oracel`",
        "`converters/to_NAME.rs`",
    ],
)
def test_what_is_not_there_is_found(text):
    assert find_faults(text)


# --- commands

CALL = re.compile(r"(?<![\w./-])yizhi ([a-z][a-z0-9-]*)([^`\n|]*)")
FLAG = re.compile(r"(?<=\s)(--[a-z][a-z0-9-]*)")
MAKE = re.compile(r"(?:`|^)make ([a-z][a-z-]*)", re.MULTILINE)


def find_wrong_calls(text: str) -> list[str]:
    """Commands and flags of ours that a text gives and that are not there."""
    commands = next(action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    wrong = []
    for command, rest in CALL.findall(text.replace("\\\n", " ")):
        if command not in commands:
            continue  # a sentence about Yizhi, not a call
        known = {flag for action in commands[command]._actions for flag in action.option_strings}
        # What follows a pipe or a semicolon is another program's.
        wrong += [f"yizhi {command} {flag}" for flag in FLAG.findall(re.split(r"[;|&]", rest)[0]) if flag not in known]
    return wrong


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_and_flags_are_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert find_wrong_calls(text) == []
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(MAKE.findall(text)) <= targets


def test_a_command_or_a_flag_that_is_not_there_is_found():
    said = (
        "Run `yizhi export A --out B --int8-reduced-range`, or\n\nyizhi verify R \\\n  --devise cuda | sort --unique\n"
    )
    assert find_wrong_calls(said) == ["yizhi export --int8-reduced-range", "yizhi verify --devise"]

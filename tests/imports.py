"""Who imports whom, read from the sources: nothing is run."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def find_module(name: str) -> Path | None:
    """The file of one of our modules; of a package, its `__init__.py`."""
    base = ROOT.joinpath(*name.split("."))
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return file if file.is_file() else None


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def find_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of each import, those inside functions too. A module's own name is kept: `yizhi.errors`, dots."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                yield node.lineno, whole if find_module(whole) or module == "yizhi" else module


def find_all_imported(names: Iterable[str]) -> set[str]:
    """These modules of the package and all that they import of it, and so on, but not what only types need."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        path = find_module(name)
        if name in found or path is None:
            continue
        found.add(name)
        typed = {
            line
            for node in ast.walk(parse(path))
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            for line in range(node.body[0].lineno, node.body[-1].end_lineno + 1)
        }
        waiting += [module for line, module in find_imports(path) if module.startswith("yizhi.") and line not in typed]
    return found

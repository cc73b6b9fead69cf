"""Imports run one way: each room imports what docs/architecture.md says that it may."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import yizhi
from tests.imports import ROOT, find_imports
from yizhi import runtimes

PACKAGE = ROOT / "yizhi"
# Every room knows the errors, and the version.
EVERYWHERE = {"choices", "errors", "__version__"}


def read_table() -> dict[str, set[str]]:
    """What each room may import, in the order of the table."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    allowed: dict[str, set[str]] = {}
    for line in text.partition("| room |")[2].partition("\n\n")[0].splitlines():
        cells = line.strip("|").split("|")
        if name := re.fullmatch(r" `(\w+)` ", cells[0]):
            above = "every room above" in cells[-1]
            allowed[name[1]] = set(allowed) if above else set(re.findall(r"`(\w+)`", cells[-1]))
    return allowed


ALLOWED = read_table()


def find_modules() -> dict[str, Path]:
    """Every room and its files; a link is followed."""
    return {
        path.stem: path
        for path in sorted(PACKAGE.iterdir())
        if (path.suffix == ".py" and not path.stem.startswith("__")) or (path / "__init__.py").is_file()
    }


def find_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of each import of ours; what is not the package's has no room."""
    for line, module in find_imports(path):
        first, _, rest = module.partition(".")
        if first == "yizhi":
            yield line, rest.partition(".")[0]
        elif first in ("", "converters", "runtimes", "training", "tests", "parity_tests", "benchmarks"):
            yield line, module


def test_the_table_names_every_room_and_runs_one_way():
    assert set(ALLOWED) == set(find_modules())
    rooms = list(ALLOWED)
    for room, allowed in ALLOWED.items():
        assert allowed <= set(rooms[: rooms.index(room)]), f"{room} may import only rooms above it"


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_what_it_may(room):
    path = find_modules()[room]
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    assert files
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {room} may not import {found or 'yizhi'}"
        for file in files
        for line, found in find_rooms(file)
        if found not in {room, *ALLOWED[room], *EVERYWHERE}
        # Where the package lies, which its own digest asks.
        and not (found == "" and file.name == "code_digests.py")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_librarys_names_are_those_of_the_runtimes_and_their_errors():
    assert set(runtimes.__all__) <= set(dir(yizhi))
    assert all(getattr(yizhi, name) is getattr(runtimes, name) for name in runtimes.__all__)
    assert yizhi.InputError
    with pytest.raises(AttributeError, match="no attribute 'Embeder'"):
        yizhi.Embeder  # noqa: B018


# What `import yizhi` and the command line must not wait for; what opens no artifact needs no tokenizers either.
HEAVY = (
    *(
        "onnxruntime",
        "onnx",
        "torch",
        "tensorflow",
        "jax",
        "flax",
        "openvino",
        "ai_edge_litert",
        "transformers",
        "scipy",
    ),
    "huggingface_hub",
)


@pytest.mark.parametrize(
    ("program", "without"),
    [
        ("import yizhi", ("numpy", "tokenizers", *HEAVY)),
        ("import yizhi.cli; yizhi.cli.build_parser()", ("tokenizers", "starlette", "uvicorn", "pydantic", *HEAVY)),
        ("from yizhi import Embedder, FillMask, open_runtime", HEAVY),
        ("from yizhi.reading.checkpoint import Checkpoint; from yizhi.converters import to_pytorch", HEAVY),
    ],
)
def test_imports_stay_light(program, without):
    told = f"{program}\nimport sys\nprint([name for name in {without} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"

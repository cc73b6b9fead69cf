"""An artifact is made again, or judged again, when code that shapes it changes, and not when other code does."""

import shutil
from pathlib import Path

import pytest

from tests.imports import ROOT, find_all_imported, find_module
from yizhi.pipeline.code_digests import JUDGED_WITH, MADE_WITH, code_digest

PACKAGE = ROOT / "yizhi"
# Imported by conversion, and no byte of an artifact is theirs.
NO_BYTES = {
    "errors.py": "what is said of bad input",
    "release/schema.py": "judges what is read",
    "storage/folders.py": "whether a folder is there, not what is in it",
    "storage/locks.py": "who may write",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the project, with the rooms at the root inside the package, as a wheel has them."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("yizhi", "tests", "parity_tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def digests(tree: Path) -> tuple[str, str]:
    return code_digest(MADE_WITH, tree / "yizhi"), code_digest(JUDGED_WITH, tree / "yizhi")


def changed_by(tree: Path, name: str) -> tuple[bool, bool]:
    """Whether one more line in a file changes what artifacts are made with, and what verdicts are judged with."""
    path = tree / name
    before, content = digests(tree), path.read_bytes()
    path.write_bytes(content + b"# a line more\n")
    try:
        after = digests(tree)
    finally:
        path.write_bytes(content)
    return before[0] != after[0], before[1] != after[1]


def test_a_copy_has_the_digests_of_the_original(tree):
    assert digests(tree) == digests(ROOT)


@pytest.mark.parametrize(
    ("name", "made", "judged"),
    [
        ("yizhi/converters/forwards/onnx.py", True, False),
        ("yizhi/model/spec.py", True, False),
        ("yizhi/reading/checkpoint.py", True, False),
        ("yizhi/runtimes/onnx_runtime.py", False, True),
        ("yizhi/parity/oracle.py", False, True),
        ("yizhi/parity/published.toml", False, True),
        ("yizhi/reading/importers/uer.py", False, False),
        ("yizhi/reading/hub.py", False, False),
        ("yizhi/catalogue/catalogue.toml", False, False),
        ("yizhi/training/finetune.py", False, False),
        ("yizhi/commands/export.py", False, False),
        ("tests/checkpoints.py", False, False),
        ("tests/pipeline/test_export.py", False, False),
        ("parity_tests/test_parity.py", False, False),
        ("parity_tests/mutation_table.py", False, False),
    ],
)
def test_an_edit_changes_what_it_should(tree, name, made, judged):
    assert changed_by(tree, name) == (made, judged)


def covered(parts: tuple[str, ...]) -> set[Path]:
    return {path for part in parts for path in [PACKAGE / part, *(PACKAGE / part).rglob("*.py")] if path.is_file()}


def modules_of(room: str) -> set[str]:
    paths = [path.relative_to(ROOT).with_suffix("") for path in (PACKAGE / room).rglob("*.py")]
    return {".".join(path.parts).removesuffix(".__init__") for path in paths}


def not_covered(starts: set[str], parts: tuple[str, ...]) -> set[str]:
    files = {find_module(name) for name in find_all_imported(starts)}
    return {path.relative_to(PACKAGE).as_posix() for path in files - covered(parts)}


def test_made_with_covers_what_conversion_imports():
    assert not_covered(modules_of("converters"), MADE_WITH) == set(NO_BYTES)


def test_judged_with_covers_what_a_verdict_imports():
    """An artifact that is made again is judged again: what it is made with need not be counted twice."""
    judges = {f"yizhi.parity.{name}" for name in ("bisect", "golden", "judge", "plausibility", "published")}
    assert not_covered(judges | modules_of("runtimes"), (*MADE_WITH, *JUDGED_WITH)) == set(NO_BYTES)


@pytest.mark.parametrize("part", [*MADE_WITH, *JUDGED_WITH])
def test_every_part_is_there(part):
    assert (PACKAGE / part).exists()

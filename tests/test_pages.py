"""Every command and every line of Python that a page gives runs as printed, or says in the page why it is not run."""

import pytest

from tests.checkpoints import write_variant
from tests.imports import ROOT
from tests.page_folders import FOLDERS, PageFolder
from tests.pages import find_missing, read_blocks, read_page, run_blocks
from tests.test_translations import ENGLISH
from yizhi.cli import main

PATTERNS = ("*.md", "docs/*.md", "docs/zh/*.md")
PAGES = sorted(path.relative_to(ROOT).as_posix() for pattern in PATTERNS for path in ROOT.glob(pattern))
# What `yizhi export` writes where a page names no target; nine take a minute, and have tests of their own.
FEW = ("onnx", "onnx-int8")
TARGETS = {"docs/ner-walkthrough.md": ("pytorch", *FEW)}


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Makes a release once."""
    made = {}

    def make(variant, *flags, **changes):
        key = f"{variant} {flags} {changes}"
        if key not in made:
            folder = tmp_path_factory.mktemp("release")
            checkpoint = write_variant(folder / "checkpoint", variant, **changes)
            wanted = flags if "--target" in flags else (*flags, *(f"--target={target}" for target in FEW))
            assert main(["export", str(checkpoint), "--out", str(folder / "release"), *wanted]) == 0
            made[key] = folder / "release"
        return made[key]

    return make


@pytest.mark.parametrize("name", PAGES)
def test_every_block_runs_or_says_why_not(name):
    runs = any(block.runs for block in read_page(name))
    # The commands of a Chinese page are the English page's: tests/test_translations.py.
    assert runs == (name in FOLDERS) or name in ENGLISH


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_a_page_runs_as_printed(name, tmp_path, export):
    FOLDERS[name](PageFolder(tmp_path, export))
    run_blocks([block for block in read_page(name) if block.runs], tmp_path, TARGETS.get(name, FEW))


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ("```\nmake\n```", "line 1: a block without a language"),
        ("Do:\n\n    make\n", "line 3: a block without a language"),
        ("```console\nprinted\n```", "line 1: expected a console block to begin with a command"),
        ("<!-- not run -->\n```sh\nmake\n```", "line 1: expected <!-- not run: REASON -->"),
        ("<!-- not run: no network -->\n\nDo:\n\n```sh\nmake\n```", "line 3: expected a block of sh"),
    ],
)
def test_a_block_that_nobody_would_run_is_found(page, fault):
    with pytest.raises(ValueError, match=fault):
        read_blocks(page)


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ("```sh\nfalse\ntrue\n```", "the block at line 1 ended with exit code 1"),
        ("```sh\nfalse | true\n```", "the block at line 1"),
        (
            "```sh\nx=1\n```\n\n```python\nimport nothing_of_this_name\n```",
            "the block at line 5 .*\n.*\n.*\n.*ModuleNot",
        ),
        ("```console\n$ echo 1 good\n2 bad\n```", "lacks: 2 bad"),
        ("<!-- not compared: chance -->\n```console\n$ false\n2 bad\n```", "the block at line 2"),
    ],
)
def test_a_block_that_fails_is_found(page, fault, tmp_path):
    with pytest.raises(AssertionError, match=fault):
        run_blocks(read_blocks(page), tmp_path)


def test_what_runs_passes(tmp_path):
    page = "```sh\nx=1\n```\n\n```console\n$ echo is $x && false\nis 7\n$ echo a b\na …\n```"
    run_blocks(read_blocks(page), tmp_path)


def test_output_is_compared_but_for_figures():
    printed = "target  size\nonnx    3 MB  1.1e-06  pass\n1 of 1 passed\n"
    assert find_missing(["target size", "onnx 413 MB 3.9e-06 pass", "2 of 2 …"], printed) == []
    assert find_missing(["onnx 413 MB 3.9e-06 fail"], printed) == ["onnx 413 MB 3.9e-06 fail"]
    assert find_missing(["1 of 1 passed", "target size"], printed) == ["target size"]

"""The documentation site: it builds without a warning, and what a reader looks for is found in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from yizhi.cli import GROUPS
from yizhi.runtimes import __all__ as LIBRARY

pytest.importorskip("sphinx")
pytest.importorskip("furo")

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Warnings are faults: a page that no other leads to, a link to nowhere, a docstring that cannot be read."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        folder / "trees",
        "docs",
        folder / "html",
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder / "html"


def test_every_page_is_there(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}


def test_the_reference_has_every_command_and_every_name_of_the_library(site):
    commands = (site / "reference/commands.html").read_text(encoding="utf-8")
    assert commands.count("usage: yizhi ") == sum(len(group) for group in GROUPS.values())
    library = (site / "reference/library.html").read_text(encoding="utf-8")
    assert [name for name in LIBRARY if name != "Outputs" and f'id="yizhi.runtimes.{name}"' not in library] == []
    assert "Alias for field" not in library


def test_english_and_chinese_are_found(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    found = json.loads(index.removeprefix("Search.setIndex(").removesuffix(")"))
    assert "quantiz" in found["terms"]
    assert "一致" in found["titleterms"]

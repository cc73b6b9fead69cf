"""The documentation site: it builds without a warning, and what a reader looks for is found in it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import open_pages, run_chromium
from tests.web import serve_folders
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
    for folder in ("", "zh"):
        pages = {path.stem for path in (ROOT / "docs" / folder).glob("*.md")}
        assert pages
        assert pages <= {path.stem for path in (site / folder).glob("*.html")}


def test_a_page_says_its_language(site):
    for name, language in (("serving", "en"), ("zh/serving", "zh-CN")):
        assert f' lang="{language}"' in (site / f"{name}.html").read_text(encoding="utf-8")


def test_the_reference_has_every_command_and_every_name_of_the_library(site):
    commands = (site / "reference/commands.html").read_text(encoding="utf-8")
    assert commands.count("usage: yizhi ") == sum(len(group) for group in GROUPS.values())
    library = (site / "reference/library.html").read_text(encoding="utf-8")
    assert [name for name in LIBRARY if name != "Outputs" and f'id="yizhi.runtimes.{name}"' not in library] == []
    assert "Alias for field" not in library


def test_english_and_chinese_are_found(site):
    """A word, a part of a sentence without spaces, a name; and nothing where a phrase is nowhere."""
    with serve_folders({"": site}) as address, run_chromium() as browser, open_pages(browser) as open_page:
        for query, expected in {
            "quantize": "int8",
            "链路追踪": "通过 HTTP 提供服务",
            "量与": "通过 HTTP 提供服务",
            "traceparent": "Serving a release over HTTP",
            "踪追路链": None,
        }.items():
            page = open_page(f"{address}search.html?q={query}")
            page.locator("#search-results .search-summary").get_by_text(re.compile("finished|did not match")).wait_for()
            found = page.locator("#search-results li > a").all_text_contents()
            assert expected in found if expected else found == [], query

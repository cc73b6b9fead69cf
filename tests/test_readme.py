"""README.md and README.zh-CN.md: one says what the other says, and both are true of the package."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))


def code_of(text):
    """Lines of code blocks, without comments."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    return [[re.sub(r"\s+# .*", "", line) for line in block.splitlines()] for block in blocks]


def prose_of(text):
    return re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", text, flags=re.DOTALL)


def test_commands_and_their_output_are_the_same():
    assert code_of(ENGLISH) == code_of(CHINESE)


def test_code_in_prose_and_links_are_the_same():
    for pattern in (r"(?<!`)`([^`\n]+)`(?!`)", r"\]\((docs/[^)]*|CONTRIBUTING.md)\)"):
        english, chinese = (
            re.findall(pattern, re.sub(r"```.*?```", "", text, flags=re.DOTALL)) for text in (ENGLISH, CHINESE)
        )
        assert sorted(english) == sorted(chinese)


def test_figures_are_the_same():
    """But for small numbers, which English writes as words."""
    english, chinese = (re.findall(r"\d[\d.,]*\d|\d{2,}", prose_of(text)) for text in (ENGLISH, CHINESE))
    assert sorted(english) == sorted(chinese)


def test_it_is_short():
    assert len(ENGLISH.splitlines()) < 120


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_its_extras_can_be_installed(text):
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for group in re.findall(r"pip install '\.\[([^\]]*)\]'", text) for extra in group.split(",")}
    assert named
    assert named <= known.keys()

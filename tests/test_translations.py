"""The Chinese pages say what the English pages say, and what the README says is true of the package."""

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHINESE = {"README.md": "README.zh-CN.md"} | {
    f"docs/{path.name}": f"docs/zh/{path.name}" for path in sorted((ROOT / "docs/zh").glob("*.md"))
}
ENGLISH = {chinese: english for english, chinese in CHINESE.items()}
# The list of the Chinese pages, with their terms, is no translation.
PAIRS = [(english, chinese) for english, chinese in CHINESE.items() if english != "docs/index.md"]

BLOCK = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"(?:^|\s+)# .*")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
# 1,024, 3.4e-04 and the 99 of 99th, and not the digits of a name: int8, AVX-512, 2x.
FIGURE = re.compile(r"(?<![\w.-])(\d+(?:[.,]\d+)*(?:e[-+]?\d+)?)(?:st|nd|rd|th)?(?!\w)", re.ASCII)
ITEM = re.compile(r"^ *(?:-|\d+\.) ", re.MULTILINE)
PARAGRAPH = re.compile(r"(?:^|\n\n)(?=[^-|#\s])(?!\d+\. )")
BROKEN = re.compile(r"[\u3000-\u9fff\uff00-\uffef]\n *[\u3000-\u9fff\uff00-\uffef].*")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def split_into_sections(text: str) -> list[str]:
    """What stands before the first heading, then a section for each heading."""
    sections, fence = [""], ""
    for line in text.splitlines(keepends=True):
        mark = re.match(r" *```|", line)[0]
        if mark and fence in ("", mark):
            fence = "" if fence else mark
        if line.startswith("#") and not fence:
            sections.append("")
        sections[-1] += line
    return sections


def resolve(page: str, link: str) -> str:
    """Where a link leads, from the root of the project."""
    return link if "://" in link else ((ROOT / page).parent / link).resolve().relative_to(ROOT).as_posix()


def find_facts(page: str, section: str) -> Counter[str]:
    """What a translation leaves as it is: how often each line of code, figure, link … is there."""
    blocks = [line for block in BLOCK.finditer(section) for line in block[0].splitlines()]
    comments = "\n".join(found for line in blocks for found in COMMENT.findall(line))
    prose = BLOCK.sub("", section).strip()
    goals = [resolve(page, link) for link in LINK.findall(prose)]
    plain = CODE.sub(" ", LINK.sub(" ", ITEM.sub(" ", prose)))
    return Counter(
        [f"line: {line}" for line in (COMMENT.sub("", line).strip() for line in blocks) if line]
        + [f"code: {code}" for code in CODE.findall(prose)]
        + [f"link: {ENGLISH.get(goal, goal)}" for goal in goals]
        + [f"figure: {figure}" for figure in FIGURE.findall(plain + comments)]
        + ["a row of a table" for line in prose.splitlines() if line.startswith("|")]
        + ["an item of a list" for _ in ITEM.findall(prose)]
        + ["a paragraph" for _ in PARAGRAPH.findall(prose)]
    )


def find_differences(english: str, text: str, chinese: str, translation: str) -> list[str]:
    """What only one of two pages has, section by section.

    Args:
        english: path of the English page, from the root of the project.
        text: what the English page says.
        chinese: path of the Chinese page.
        translation: what the Chinese page says.
    """
    pages = [split_into_sections(page) for page in (text, translation)]
    headings = [[section.partition("\n")[0] for section in page] for page in pages]
    levels = [[re.match("#*", line)[0] for line in lines] for lines in headings]
    if levels[0] != levels[1]:
        return [f"headings of {english}: {headings[0]}", f"headings of {chinese}: {headings[1]}"]
    differences = []
    for section, other, where in zip(*pages, headings[1], strict=True):
        facts, others = find_facts(english, section), find_facts(chinese, other)
        differences += [f"{where}: only in {english}: {fact}" for fact in (facts - others).elements()]
        differences += [f"{where}: only in {chinese}: {fact}" for fact in (others - facts).elements()]
    return differences


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_commands_output_code_links_and_figures_are_the_same(english, chinese):
    differences = find_differences(english, read(english), chinese, read(chinese))
    assert not differences, "\n".join(differences)


SAMPLE = "# A\n\nOne `code` of 5 MB, see [b](b.md).\n\n## B\n\n- item\n\n```\nrun x  # 7 s\n```\n\n| row |\n"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("`code`", "code", "# A: only in a.md: code: code"),
        (" 5 ", " 6 ", "# A: only in zh/a.md: figure: 6"),
        ("b.md", "c.md", "# A: only in a.md: link: b.md"),
        ("- item", "", "## B: only in a.md: an item of a list"),
        ("run x", "run y", "## B: only in zh/a.md: line: run y"),
        ("7 s", "8 s", "## B: only in zh/a.md: figure: 8"),
        ("| row |", "", "## B: only in a.md: a row of a table"),
        ("\n\n##", "\n\nMore.\n\n##", "# A: only in zh/a.md: a paragraph"),
        ("## B", "### B", "headings of zh/a.md: ['', '# A', '### B']"),
    ],
)
def test_a_difference_is_told(old, new, told):
    translation = SAMPLE.replace("b.md", "../b.md")
    assert find_differences("a.md", SAMPLE, "zh/a.md", translation) == []
    assert told in find_differences("a.md", SAMPLE, "zh/a.md", translation.replace(old, new))


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_each_page_leads_to_the_other_below_its_title(english, chinese):
    for page, other in ((english, chinese), (chinese, english)):
        assert [resolve(page, link) for link in LINK.findall(read(page).split("\n\n")[1])] == [other]


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_a_chinese_page_leads_to_chinese_pages(english, chinese):
    goals = [resolve(chinese, link) for link in LINK.findall(read(chinese))]
    assert [CHINESE[goal] for goal in goals if goal in CHINESE and goal != english] == []


@pytest.mark.parametrize("chinese", ENGLISH)
def test_a_line_does_not_end_between_chinese_characters(chinese):
    """Browsers show the end of a line as a space."""
    assert BROKEN.findall(BLOCK.sub("", read(chinese))) == []


@pytest.mark.parametrize("chinese", ENGLISH)
def test_emphasis_ends_before_punctuation(chinese):
    """Between 。 and a character, Markdown shows the asterisks themselves."""
    assert re.findall(r".*[。，：；）”]\*.*", BLOCK.sub("", read(chinese))) == []


def test_the_readme_is_short():
    assert len(read("README.md").splitlines()) < 120


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_extras_of_the_readme_can_be_installed(name):
    known = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    named = {extra for group in re.findall(r"pip install '\.\[([^\]]*)\]'", read(name)) for extra in group.split(",")}
    assert named
    assert named <= known.keys()

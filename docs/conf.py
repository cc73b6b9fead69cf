"""The documentation site: `make docs` builds it from the pages of this folder and the docstrings of the library."""

import argparse
import re

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

from yizhi import __version__
from yizhi.cli import build_parser

project = "Yizhi"
author = "Yizhi's developers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"Yizhi {release}"
html_show_copyright = False
html_show_sphinx = False
exclude_patterns = ["examples/*"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# Most blocks are commands and their output; those in Python say so.
highlight_language = "text"
smartquotes = False
# Docstrings name code in single backticks.
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "imported-members": True, "special-members": "__call__"}


class CommandHelp(Directive):
    """The help of every command, as the command line prints it."""

    def run(self) -> list[nodes.Node]:
        """A section for each command."""
        parser = build_parser()
        (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        found: list[nodes.Node] = []
        for name, command in commands.choices.items():
            section = nodes.section("", nodes.title(text=f"yizhi {name}"), ids=[name])
            section += nodes.literal_block(text=command.format_help(), language="text")
            found.append(section)
        return found


class Search(SearchEnglish):
    """English by words, Chinese by pairs of neighbouring characters: any phrase is found, without a dictionary.

    Sphinx's own search of Chinese fails in the browser: https://github.com/sphinx-doc/sphinx/issues/14229.
    """

    js_splitter_code = r"""
var splitQuery = (query) =>
  [...query.matchAll(/(?=([\u4e00-\u9fff]{2}))|((?:(?![\u4e00-\u9fff])[\p{L}\p{N}_])+)/gu)].map((m) => m[1] || m[2]);
"""

    def split(self, input: str) -> list[str]:
        """The words and pairs of a text; `splitQuery` does the same with what is typed."""
        found = re.findall(r"(?=([\u4e00-\u9fff]{2}))|((?:(?![\u4e00-\u9fff])\w)+)", input)
        return [pair or word for pair, word in found]


def leave_out(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """The fields of a named tuple: their docstrings are Python's own, and their class says what they are."""
    return True if str(getattr(member, "__doc__", "")).startswith("Alias for field number") else None


def set_language(app: Sphinx, page: str, template: str, context: dict[str, object], tree: object) -> None:
    """Chinese pages say that they are: browsers choose fonts by a page's language."""
    if page.startswith("zh/"):
        context["language"] = "zh-CN"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_search_language(Search)
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("html-page-context", set_language)

"""The documentation site: `make docs` builds it from the pages of this folder and the docstrings of the library."""

import argparse
import logging

import jieba
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

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
# Splits Chinese into words as well as English.
html_search_language = "zh"
jieba.setLogLevel(logging.WARNING)
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


def leave_out(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """The fields of a named tuple: their docstrings are Python's own, and their class says what they are."""
    return True if str(getattr(member, "__doc__", "")).startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-skip-member", leave_out)

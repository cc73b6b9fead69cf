"""Tables without lines, as commands print them."""

from collections.abc import Iterable
from typing import Any, cast

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text


class PlainTable(Table):
    """A table without lines between its cells. Each printed line ends with its text: rich alone fills the last cell."""

    def __init__(self, **options: Any) -> None:
        super().__init__(box=None, pad_edge=False, **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments = cast(Iterable[Segment], super().__rich_console__(console, options))
        for line in Segment.split_lines(segments):
            text = Text.assemble(*((segment.text, segment.style or "") for segment in line), no_wrap=True)
            text.rstrip()
            yield text

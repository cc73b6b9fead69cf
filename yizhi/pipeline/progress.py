"""What a person sees while jobs run: a live line per running job on a terminal, nothing in a log."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from yizhi.pipeline.jobs import Result


class Progress:
    """Reports jobs as they start and finish; silent unless standard error is a terminal."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._bar = RichProgress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._left = 0

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Something that happens before the jobs."""
        self._forget_note()
        self._tasks[""] = self._bar.add_task(text)

    def warn(self, text: str) -> None:
        """Something that a person should know, terminal or not."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, names: list[str]) -> None:
        """So many jobs are about to run."""
        self._left = len(names)
        self._forget_note()

    def started(self, name: str) -> None:
        """A job began."""
        self._tasks[name] = self._bar.add_task(name)

    def finished(self, result: Result[Any]) -> None:
        """A job ended."""
        self._left -= 1
        task = self._tasks.pop(result.name)
        self._bar.remove_task(task)
        if not self._bar.disable:
            mark = "[green]done[/]" if result.succeeded else "[red]failed[/]"
            self._bar.print(f"  {mark} {result.name} ({result.seconds:.1f} s), {self._left} to go")

    def _forget_note(self) -> None:
        if "" in self._tasks:
            self._bar.remove_task(self._tasks.pop(""))

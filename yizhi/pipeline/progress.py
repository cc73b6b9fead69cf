"""What a person sees while jobs run: a live line per running job on a terminal, a line per finished job in a log."""

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn

from yizhi.parity.pace import Pace
from yizhi.pipeline.jobs import Result, Watcher

# Of a job's tokens: less says little of the rest.
_ENOUGH = 0.1


class Progress(Watcher):
    """Reports jobs on standard error as they start, move and finish."""

    def __init__(self, console: Console | None = None, name: Callable[[str], str] = str) -> None:
        """name: replaces the parameters' names in the library's messages by the caller's names."""
        self._console = console or Console(file=sys.stderr)
        self._name = name
        self._bar = RichProgress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[cases]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[expected]}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._counting_since: dict[str, float] = {}
        self._left = 0

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Show a line about work before the jobs."""
        self._forget_note()
        self._tasks[""] = self._add(text)

    def warn(self, text: str) -> None:
        """Print a warning, on a terminal or not."""
        self._console.print(self._name(text), markup=False, highlight=False, soft_wrap=True)

    def begin(self, names: list[str]) -> None:
        """So many jobs are about to run."""
        self._left = len(names)
        self._forget_note()

    def started(self, name: str) -> None:
        """A job began."""
        self._tasks[name] = self._add(name)

    def moved(self, name: str, pace: Pace) -> None:
        """A job got so far. What it takes in all is expected from what its tokens took so far, once a tenth is done."""
        elapsed = self._task(name).elapsed or 0.0
        since = self._counting_since.setdefault(name, elapsed)
        expected = f"of about {_clock(since + (elapsed - since) / pace.share)}" if pace.share >= _ENOUGH else ""
        cases = f"{pace.done}/{pace.total} cases"
        self._bar.update(self._tasks[name], cases=cases, expected=expected, refresh=True)  # a job may end before a tick

    def finished(self, result: Result[Any]) -> None:
        """A job ended."""
        self._left -= 1
        self._counting_since.pop(result.name, None)
        self._bar.remove_task(self._tasks.pop(result.name))
        mark = "[green]done[/]" if result.succeeded else "[red]failed[/]"
        self._console.print(f"  {mark} {result.name} ({result.seconds:.1f} s), {self._left} to go", highlight=False)

    def _add(self, text: str) -> TaskID:
        return self._bar.add_task(text, cases="", expected="")

    def _task(self, name: str) -> Task:
        return next(task for task in self._bar.tasks if task.id == self._tasks[name])

    def _forget_note(self) -> None:
        if "" in self._tasks:
            self._bar.remove_task(self._tasks.pop(""))


def _clock(seconds: float) -> str:
    """As the column of elapsed time writes it."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

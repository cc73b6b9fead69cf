"""The progress of a bulk run: rows, rate and remaining time, on a terminal only."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress


class Progress:
    """One line on standard error. Silent unless that is a terminal."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        self._bar = RichProgress(
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)
        self._start = (time.monotonic(), 0, 0.0)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, rows: int) -> None:
        """Start at the rows that an earlier run answered. The rate counts from here."""
        self._start = (time.monotonic(), rows, -1.0)

    def advance(self, rows: int, done: float | None) -> None:
        """Show the answered rows. done: the share of the input read, None if its size is not known."""
        began, first, share = self._start
        seconds = time.monotonic() - began
        text = f"{rows:,} rows, {(rows - first) / seconds:,.0f} a second"
        if done is None:
            self._bar.update(self._task, description=text)
            return
        if share < 0:  # the first window also tells where this run began
            self._start = (began, first, done)
        elif done > share:
            text += f", {_clock(seconds * (1 - done) / (done - share))} left"
        self._bar.update(self._task, total=1.0, completed=done, description=text)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"

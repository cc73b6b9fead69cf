"""The two ways Yizhi says no. The command line turns them into exit codes 2 and 1."""

import difflib
import reprlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """Something the user gave cannot be used. Lists every fault found, not just the first.

    Text that speaks of a parameter names it as `name`; the command line puts its flag there.
    """

    def __init__(self, subject: object, faults: Sequence[str] | str) -> None:
        self.subject = printable(str(subject))
        self.faults = [printable(fault) for fault in ([faults] if isinstance(faults, str) else faults)]
        super().__init__("\n".join([f"{self.subject}:", *(f"  - {fault}" for fault in self.faults)]))

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, list[str]]]:
        # An exception is pickled by its message alone, unless it says what it was made of.
        return type(self), (self.subject, self.faults)


class Altered(InputError):
    """A file is not as it was written. The command line ends with exit code 1: a check ran, and its answer is no."""


class NotRun(InputError):
    """What was asked for cannot be run on this machine: a framework or a device is missing. Never a pass."""


class CheckFailed(Exception):
    """A check ran and its answer is no: outputs differ, or a file was altered."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


def show(value: object) -> str:
    """`repr` of something a user gave, shortened: a fault must fit on a line whatever the file held."""
    return _SHORT.repr(value)


def propose(given: str, known: Iterable[str]) -> str:
    """The nearest of the known names, as the end of a sentence on one that is not; nothing where none is near."""
    close = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def collect_faults(faults: list[str], read: Callable[[], T]) -> T | None:
    """Run one reader of a file; on InputError, note its faults under the file's name and go on."""
    try:
        return read()
    except InputError as error:
        faults += [f"{Path(error.subject).name}: {fault}" for fault in error.faults]
        return None


def collect_own_faults(faults: list[str], read: Callable[[], T]) -> T | None:
    """As `collect_faults`, for a reader whose faults name their files themselves."""
    try:
        return read()
    except InputError as error:
        faults += error.faults
        return None


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong = 30


def printable(text: str) -> str:
    """Text that is safe to print: names come from files.

    A terminal must not obey them, nor an encoder stumble over a lone surrogate.
    """
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)

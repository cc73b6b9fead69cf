"""Yizhi's errors. The command line turns InputError into exit code 2, and CheckFailed and Altered into 1."""

import difflib
import reprlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """An input cannot be used. Lists every fault found, not just the first.

    The text names a parameter as `name`. The command line puts its flag there.
    """

    def __init__(self, subject: object, faults: Sequence[str] | str) -> None:
        self.subject = printable(str(subject))
        self.faults = [printable(fault) for fault in ([faults] if isinstance(faults, str) else faults)]
        super().__init__("\n".join([f"{self.subject}:", *(f"  - {fault}" for fault in self.faults)]))

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, list[str]]]:
        # An exception is pickled by its message alone, unless it says what it was made of.
        return type(self), (self.subject, self.faults)


class Altered(InputError):
    """A file differs from what was written. Exit code 1, because a check ran and failed."""


class NotRun(InputError):
    """This machine cannot run the request: a framework or a device is missing. Never counts as a pass."""


class CheckFailed(Exception):
    """A check ran and failed: outputs differ, or a file was altered."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


def show(value: object) -> str:
    """`repr` of a user's value, shortened, so that a fault fits on a line."""
    return _SHORT.repr(value)


def propose(given: str, known: Iterable[str]) -> str:
    """The nearest known name, as ` (did you mean NAME?)`. Empty if no name is near."""
    close = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def collect_faults(faults: list[str], read: Callable[[], T]) -> T | None:
    """Run one reader of a file. On InputError, add its faults under the file's name, and return None."""
    try:
        return read()
    except InputError as error:
        faults += [f"{Path(error.subject).name}: {fault}" for fault in error.faults]
        return None


def collect_own_faults(faults: list[str], read: Callable[[], T]) -> T | None:
    """Like `collect_faults`, for a reader whose faults name their files."""
    try:
        return read()
    except InputError as error:
        faults += error.faults
        return None


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong = 30


def printable(text: str) -> str:
    """Text that is safe to print. Names come from files.

    Control characters would steer a terminal, and a lone surrogate cannot be encoded.
    """
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)

"""Faults of data files, each with its file and line, collected and reported together."""

from pathlib import Path

from yizhi.errors import InputError

# A file of another layout has a fault in every line; nobody reads them all.
_TOLD = 20


class Faults:
    """Collects faults; `check` raises one InputError for all of them, those of whole files first."""

    def __init__(self) -> None:
        self._told: list[tuple[str, bool]] = []

    def add(self, path: Path, line: int | None, fault: str) -> None:
        """Add one fault. line: counted from 1; None for a fault of the whole file."""
        self._told.append((f"{path}{f', line {line}' if line else ''}: {fault}", line is not None))

    def __len__(self) -> int:
        return len(self._told)

    def check(self) -> None:
        """Raise InputError if there are faults."""
        if self._told:
            whole_first = sorted(self._told, key=lambda told: told[1])
            raise InputError("data", _shorten([fault for fault, _ in whole_first]))

    def take_rows(self) -> list[str]:
        """Remove and return the faults of single rows, which are then left out."""
        taken = [fault for fault, of_row in self._told if of_row]
        self._told = [(fault, of_row) for fault, of_row in self._told if not of_row]
        return taken


def _shorten(faults: list[str]) -> list[str]:
    more = [f"and {len(faults) - _TOLD} more"] if len(faults) > _TOLD else []
    return faults[:_TOLD] + more

"""The two ways Yizhi says no. The command line turns them into exit codes 2 and 1."""

from collections.abc import Sequence


class InputError(ValueError):
    """Something the user gave cannot be used. Lists every fault found, not just the first."""

    def __init__(self, subject: object, faults: Sequence[str] | str):
        self.subject = str(subject)
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join([f"{self.subject}:", *(f"  - {fault}" for fault in self.faults)]))


class CheckFailed(Exception):
    """A check ran and its answer is no: outputs differ, or a file was altered."""

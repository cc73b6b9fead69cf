"""The progress of a run of cases."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from yizhi.parity.cases import Case


@dataclass(frozen=True)
class Pace:
    """How many runs of cases are done, of how many, and the share of their tokens, which the time follows."""

    done: int
    total: int
    share: float


Tell: TypeAlias = Callable[[Pace], None]


def tell_nobody(pace: Pace) -> None:
    """Ignores the progress."""


class Counter:
    """Counts runs of cases. cases: one for each run; none is done yet."""

    def __init__(self, tell: Tell, cases: Iterable[Case]) -> None:
        sizes = [case.inputs.input_ids.size for case in cases]
        self._tell, self._total, self._tokens = tell, len(sizes), sum(sizes)
        self._done = self._done_tokens = 0
        tell(Pace(0, self._total, 0.0))

    def count(self, case: Case) -> None:
        """Count one finished run of this case."""
        self._done += 1
        self._done_tokens += case.inputs.input_ids.size
        self._tell(Pace(self._done, self._total, self._done_tokens / self._tokens))

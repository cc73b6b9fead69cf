"""How far a run of cases is: for the person who waits."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from yizhi.parity.cases import Case


@dataclass(frozen=True)
class Pace:
    """How many runs of cases are done, of how many, and the share of their tokens: time goes with tokens."""

    done: int
    total: int
    share: float


Tell: TypeAlias = Callable[[Pace], None]


def tell_nobody(pace: Pace) -> None:
    """For those who do not wait."""


class Counter:
    """Counts runs of cases. cases: one for each run to come; nothing is done yet."""

    def __init__(self, tell: Tell, cases: Iterable[Case]) -> None:
        sizes = [case.inputs.input_ids.size for case in cases]
        self._tell, self._total, self._tokens = tell, len(sizes), sum(sizes)
        self._done = self._done_tokens = 0
        tell(Pace(0, self._total, 0.0))

    def count(self, case: Case) -> None:
        """One run of this case is done."""
        self._done += 1
        self._done_tokens += case.inputs.input_ids.size
        self._tell(Pace(self._done, self._total, self._done_tokens / self._tokens))

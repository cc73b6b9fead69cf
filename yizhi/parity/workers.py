"""Runs several cases at once, each on one thread: float sums keep their order, and every bit equals a single run's."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def compute_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int = 1
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in the order of the items. At most `workers` + `ahead` items are computed ahead.

    An exception of the function is raised at the item's turn.
    """
    if workers == 1:
        yield from ((item, function(item)) for item in items)
        return
    waiting = iter(items)
    running: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in islice(waiting, workers + ahead):
                running.append((item, pool.submit(function, item)))
            while running:
                item, future = running.popleft()
                result = future.result()
                for following in islice(waiting, 1):
                    running.append((following, pool.submit(function, following)))
                yield item, result
        finally:
            for _, future in running:
                future.cancel()

"""Runs many texts through a model with little padding and bounded memory. Answers keep the order of the texts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from yizhi.runtimes.tokenization import Row, Text

Result = TypeVar("Result", covariant=True)

# Texts that are sorted together: enough that the rows of a batch are of nearly one length.
WINDOW = 1024
# Tokens in a batch, padding included. On a CPU, matrix products gain nothing from more, and rows of more lengths
# meet in a batch: see docs/performance.md. A GPU wants more.
TOKENS = 512
# `positions` of a request that wants every token.
EVERY = np.empty(0, np.int64)


@dataclass(frozen=True)
class Request:
    """One row for the model. Its operator decides which `positions` it wants, and what to keep of them."""

    row: Row
    positions: NDArray[np.int64]
    reduce: Callable[[NDArray], Any]


@dataclass(frozen=True)
class Task(Generic[Result]):
    """The rows of one text, and how to make the text's result from theirs."""

    requests: Sequence[Request]
    conclude: Callable[[list[Any]], Result]


class Computer(Protocol):
    """Rows in, results out."""

    def compute(self, requests: Sequence[Request]) -> list[Any]:
        """One batch: each request's result, in their order."""


class Operator(Computer, Protocol[Result]):
    """Text in, result out, in two steps, so that the rows of many texts share batches."""

    def plan(self, text: Text) -> Task[Result]:
        """Raises InputError for a text that cannot be used."""


def run_tasks(
    operator: Computer, tasks: Iterable[Task[Result]], *, window: int = WINDOW, tokens: int = TOKENS
) -> Iterator[Result]:
    """Each task's result, in the order of the tasks, reading at most `window` of them ahead."""
    waiting = iter(tasks)
    while group := list(islice(waiting, window)):
        requests = [request for task in group for request in task.requests]
        results: list[Any] = [None] * len(requests)
        for batch in make_batches([len(request.row.ids) for request in requests], tokens):
            found = operator.compute([requests[index] for index in batch])
            for index, result in zip(batch, found, strict=True):
                results[index] = result
        left = iter(results)
        for task in group:
            yield task.conclude(list(islice(left, len(task.requests))))


def make_batches(lengths: Sequence[int], tokens: int = TOKENS) -> list[list[int]]:
    """Indices of rows, longest first, in batches. A batch has at most `tokens` tokens, with its padding.

    A longer row is a batch of its own. The longest rows come first, so that memory peaks at once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches

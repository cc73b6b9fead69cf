"""Batches the rows of many callers as soon as a worker is free. Knows nothing of HTTP or of texts."""

import threading
import time
from bisect import insort
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from yizhi.runtimes.batching import TOKENS, Computer, Request

# What a batch costs before its first token, in tokens: a row joins where the padding it adds costs less than a batch
# of its own. BERT-base, int8, 2 threads of a busy 2-core machine: 31 ms for a row of 8 tokens, 1.8 for each one more.
OVERHEAD = 16
# Waiting rows that are looked at for one batch.
_LOOK_AHEAD = 1024


@dataclass(frozen=True)
class BatchReport:
    """One batch in figures. waited: seconds that each row spent in the queue; computed: seconds in the model."""

    rows: int
    tokens: int
    padding: int
    waited: Sequence[float]
    computed: float


@dataclass
class _Call:
    """One caller's requests. Their results are returned together."""

    computer: Computer
    results: list[Any]
    left: int
    ended: bool = False
    future: Future[list[Any]] = field(default_factory=Future)

    def end(self, failed: bool) -> bool:
        """Whether this batch ends the call: the last batch, or the first that failed."""
        ends = not self.ended and (failed or not self.left)
        self.ended = self.ended or ends
        return ends


@dataclass(frozen=True)
class _Waiting:
    """One row in the queue. turn: when it is due, in tokens of fair service."""

    call: _Call
    index: int
    request: Request
    turn: float
    since: float

    @property
    def length(self) -> int:
        return len(self.request.row.ids)


class Batcher:
    """Computes requests in threads, in batches of at most `tokens` tokens, including padding. Thread-safe.

    A free worker takes the row that is due. It adds rows of the same computer that cost less in this batch than in
    their own. Nothing waits for a batch to fill. Callers take turns, in proportion to tokens (self-clocked fair
    queueing, Golestani 1994): one text does not wait for another caller's thousand texts, and nobody waits for ever.

    Workers share the computers: ONNX Runtime, PyTorch, TensorFlow and JAX compute from several threads at once, without
    the interpreter lock.
    """

    def __init__(
        self, *, tokens: int = TOKENS, workers: int = 1, observe: Callable[[BatchReport], None] | None = None
    ) -> None:
        """observe: called with each batch's report, in a worker's thread."""
        self.tokens = tokens
        self._observe = observe
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []  # by turn
        self._clock = 0.0
        self._closing = False
        self._workers = [threading.Thread(target=self._work, name=f"batch-{n}", daemon=True) for n in range(workers)]
        for worker in self._workers:
            worker.start()

    def submit(self, computer: Computer, requests: Sequence[Request]) -> Future[list[Any]]:
        """The results of `computer.compute`, in the order of the requests. Equal computers share batches.

        Cancelling the future drops requests that are not computed yet. The future raises the computer's errors.
        """
        call = _Call(computer, [None] * len(requests), len(requests))
        if not requests:
            call.future.set_result([])
            return call.future
        now = time.perf_counter()
        with self._changed:
            if self._closing:
                raise RuntimeError("the batcher is closed")
            turn = self._clock
            for index, request in enumerate(requests):
                turn += len(request.row.ids)
                insort(self._waiting, _Waiting(call, index, request, turn, now), key=lambda row: row.turn)
            self._changed.notify_all()
        return call.future

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return len(self._waiting)

    def close(self) -> None:
        """Compute the submitted requests, then end the workers."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _work(self) -> None:
        while batch := self._next():
            try:
                results = self._compute(batch)
            except BaseException as error:  # noqa: BLE001  the callers', who wait for it; this thread serves others too
                self._hand_over(batch, error=error)
            else:
                self._hand_over(batch, results)

    def _next(self) -> list[_Waiting]:
        """The next batch, once there is one. None after `close`."""
        with self._changed:
            while not (batch := self._take()) and not self._closing:
                self._changed.wait()
            return batch

    def _take(self) -> list[_Waiting]:
        """The row that is due, and the rows that join it."""
        self._waiting = [row for row in self._waiting if not (row.call.ended or row.call.future.done())]
        if not self._waiting:
            return []
        first = self._waiting[0]
        batch, width = [first], first.length
        for row in self._waiting[1:_LOOK_AHEAD]:
            wider = max(width, row.length)
            cost = (len(batch) + 1) * wider
            if (
                cost <= self.tokens
                and cost <= len(batch) * width + row.length + OVERHEAD
                and row.call.computer == first.call.computer
            ):
                batch.append(row)
                width = wider
        self._clock = max(self._clock, first.turn)
        taken = {id(row) for row in batch}
        self._waiting = [row for row in self._waiting if id(row) not in taken]
        return batch

    def _compute(self, batch: list[_Waiting]) -> list[Any]:
        begin = time.perf_counter()
        results = batch[0].call.computer.compute([row.request for row in batch])
        if self._observe:
            lengths = [row.length for row in batch]
            padding = len(batch) * max(lengths) - sum(lengths)
            waited = [begin - row.since for row in batch]
            self._observe(BatchReport(len(batch), sum(lengths), padding, waited, time.perf_counter() - begin))
        return results

    def _hand_over(
        self, batch: list[_Waiting], results: Sequence[Any] = (), error: BaseException | None = None
    ) -> None:
        """Complete the futures of calls that are finished or failed."""
        with self._changed:
            calls = {id(row.call): row.call for row in batch}.values()
            if error is None:
                for row, result in zip(batch, results, strict=True):
                    row.call.results[row.index] = result
                    row.call.left -= 1
            over = [call for call in calls if call.end(failed=error is not None)]
        for call in over:
            # False where the caller has gone meanwhile.
            if call.future.set_running_or_notify_cancel():
                if error is None:
                    call.future.set_result(call.results)
                else:
                    call.future.set_exception(error)

"""Rows of many callers in batches: which share one, whose turn it is, and what happens to those who leave."""

import threading
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest

from yizhi.runtimes.batching import EVERY, Request
from yizhi.runtimes.tokenization import Row
from yizhi.serving.batcher import OVERHEAD, Batcher


class Recorder:
    """Answers a request with its length, notes the lengths of each batch, and waits where it is told to."""

    def __init__(self):
        self.batches = []
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()

    def compute(self, requests):
        self.began.set()
        assert self.go.wait(10)
        self.batches.append([len(request.row.ids) for request in requests])
        return self.batches[-1]


def make_requests(*lengths):
    return [
        Request(Row(*[np.zeros(n, np.int64)] * 2, np.zeros((n, 2), np.int64), np.arange(n)), EVERY, None)
        for n in lengths
    ]


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def batcher():
    batcher = Batcher(tokens=100)
    yield batcher
    batcher.close()


def keep_busy(batcher, recorder):
    """The one worker in a batch that lasts until `recorder.go`."""
    recorder.go.clear()
    busy = batcher.submit(recorder, make_requests(1))
    assert recorder.began.wait(10)
    return busy


def test_results_come_in_the_order_of_the_requests(batcher, recorder):
    assert batcher.submit(recorder, make_requests(9, 60, 3, 80)).result(10) == [9, 60, 3, 80]
    assert batcher.submit(recorder, []).result(10) == []


def test_an_idle_worker_begins_at_once_and_with_what_is_there(batcher, recorder):
    keep_busy(batcher, recorder)
    calls = [batcher.submit(recorder, make_requests(10)) for _ in range(4)]
    recorder.go.set()
    wait(calls)
    assert recorder.batches == [[1], [10, 10, 10, 10]]


def test_a_batch_has_at_most_so_many_tokens_and_little_padding(batcher, recorder):
    keep_busy(batcher, recorder)
    calls = [batcher.submit(recorder, make_requests(length)) for length in (90, 30, 31, 29, 32, 5)]
    recorder.go.set()
    wait(calls)
    for batch in recorder.batches:
        assert len(batch) * max(batch) <= 100 or len(batch) == 1
        assert len(batch) * max(batch) - sum(batch) <= OVERHEAD
    assert sorted(length for batch in recorder.batches for length in batch) == [1, 5, 29, 30, 31, 32, 90]


def test_what_is_longer_than_a_batch_is_one(batcher, recorder):
    assert batcher.submit(recorder, make_requests(300)).result(10) == [300]


def test_one_row_does_not_wait_for_another_callers_thousand(batcher, recorder):
    keep_busy(batcher, recorder)
    many = batcher.submit(recorder, make_requests(*[50] * 100))
    one = batcher.submit(recorder, make_requests(20))
    recorder.go.set()
    one.result(10)
    many.result(10)
    assert next(index for index, batch in enumerate(recorder.batches) if 20 in batch) <= 2


def test_a_thousand_rows_do_not_wait_for_ever(batcher, recorder):
    """Short calls that keep coming do not always go first."""
    keep_busy(batcher, recorder)
    many = batcher.submit(recorder, make_requests(99, 99))

    def come_again(_):
        if len(recorder.batches) < 20:
            batcher.submit(recorder, make_requests(60)).add_done_callback(come_again)

    come_again(None)
    come_again(None)
    recorder.go.set()
    assert many.result(10) == [99, 99]
    turns = [index for index, batch in enumerate(recorder.batches) if batch == [99]]
    assert 1 < turns[0] < turns[1] < 12


def test_other_computers_have_batches_of_their_own(batcher, recorder):
    other = Recorder()
    keep_busy(batcher, recorder)
    calls = [batcher.submit(computer, make_requests(10)) for computer in (recorder, other, recorder, other)]
    recorder.go.set()
    wait(calls)
    assert (recorder.batches, other.batches) == ([[1], [10, 10]], [[10, 10]])


def test_who_leaves_costs_nothing(batcher, recorder):
    busy = keep_busy(batcher, recorder)
    left = batcher.submit(recorder, make_requests(10, 11))
    stays = batcher.submit(recorder, make_requests(12))
    assert left.cancel()
    recorder.go.set()
    assert stays.result(10) == [12]
    assert busy.result(10) == [1]
    assert recorder.batches == [[1], [12]]
    with pytest.raises(CancelledError):
        left.result()


def test_who_leaves_while_computed_is_not_missed(batcher, recorder):
    busy = keep_busy(batcher, recorder)
    assert busy.cancel()
    recorder.go.set()
    assert batcher.submit(recorder, make_requests(5)).result(10) == [5]


class Failing(Recorder):
    def compute(self, requests):
        super().compute(requests)
        if any(len(request.row.ids) == 13 for request in requests):
            raise ValueError("thirteen")
        return [len(request.row.ids) for request in requests]


def test_an_error_is_that_callers_and_the_worker_goes_on(batcher):
    failing = Failing()
    unlucky = batcher.submit(failing, make_requests(13, 100, 100))
    with pytest.raises(ValueError, match="thirteen"):
        unlucky.result(10)
    assert batcher.submit(failing, make_requests(5)).result(10) == [5]
    assert len(failing.batches) <= 3  # what was left of the failed call is dropped


def test_closing_computes_what_was_submitted(recorder):
    batcher = Batcher(tokens=10)
    recorder.go.clear()
    calls = [batcher.submit(recorder, make_requests(10)) for _ in range(5)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    recorder.go.set()
    assert [call.result(10) for call in calls] == [[10]] * 5
    closing.join(10)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(recorder, make_requests(1))


def test_several_workers_compute_at_once():
    batcher, both = Batcher(tokens=10, workers=2), threading.Barrier(2)

    class Meeting:
        def compute(self, requests):
            both.wait(10)
            return [0] * len(requests)

    meeting = Meeting()
    assert batcher.submit(meeting, make_requests(10, 10)).result(10) == [0, 0]
    batcher.close()


def test_each_batch_is_reported(recorder):
    reports = []
    batcher = Batcher(tokens=100, observe=reports.append)
    batcher.submit(recorder, make_requests(10, 8)).result(10)
    batcher.close()
    (report,) = reports
    assert (report.rows, report.tokens, report.padding) == (2, 18, 2)
    assert len(report.waited) == 2
    assert report.computed >= 0

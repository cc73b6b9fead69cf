"""Batches keep to their token budget and lose nothing; windows of long texts cover them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhi.errors import InputError
from yizhi.runtimes.batching import Request, Task, make_batches, run_tasks
from yizhi.runtimes.tokenization import Row, Tokenizer, pad


def make_row(length, number=0):
    return Row(np.full(length, number), np.zeros(length, int), np.zeros((length, 2), int), np.arange(length))


@given(st.lists(st.integers(1, 512)), st.integers(1, 4096))
def test_batches_keep_to_their_budget(lengths, tokens):
    batches = make_batches(lengths, tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= tokens
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


class Echo:
    """Answers each request with its row's id, and counts how many texts were read before the first answer."""

    def __init__(self):
        self.read = 0

    def plan(self, lengths):
        self.read += 1
        rows = [make_row(length, self.read * 100 + index) for index, length in enumerate(lengths)]
        return Task([Request(row, np.arange(1), int) for row in rows], lambda results: (len(lengths), results))

    def compute(self, requests):
        return [request.row.ids[0] for request in requests]


@given(st.lists(st.lists(st.integers(1, 64), max_size=3)), st.integers(1, 9), st.integers(1, 128))
def test_results_come_in_order(texts, window, tokens):
    echo = Echo()
    results = list(run_tasks(echo, map(echo.plan, texts), window=window, tokens=tokens))
    assert results == [
        (len(lengths), [number * 100 + index for index in range(len(lengths))])
        for number, lengths in enumerate(texts, start=1)
    ]


def test_no_more_is_read_than_a_window():
    echo = Echo()
    next(run_tasks(echo, map(echo.plan, [[1]] * 100), window=8))
    assert echo.read == 8


def test_padding():
    inputs = pad([make_row(3, 7), make_row(5, 8)], pad_id=9, multiple=4)
    assert inputs.input_ids.tolist() == [[7, 7, 7, 9, 9, 9, 9, 9], [8, 8, 8, 8, 8, 9, 9, 9]]
    assert inputs.attention_mask.sum(1).tolist() == [3, 5]


@pytest.fixture
def tokenizer(make_checkpoint):
    return Tokenizer.open(make_checkpoint())


def test_windows_cover_a_text_and_share_what_was_asked(tokenizer):
    (row,) = tokenizer.tokenize(["一是不在有" * 30])
    for stride in (0, 1, 30, 61):
        windows = tokenizer.fit(row, stride)
        assert all(len(window.ids) <= 64 for window in windows)
        assert all(window.ids[[0, -1]].tolist() == row.ids[[0, -1]].tolist() for window in windows)
        for window in windows:
            np.testing.assert_array_equal(window.ids, row.ids[window.places])
        bodies = [window.places[1:-1] for window in windows]
        assert set(np.concatenate(bodies)) == set(range(1, 151))
        shared = [len(np.intersect1d(*pair)) for pair in pairwise(bodies)]
        assert set(shared) == {stride}
    for stride in (62, -1):
        with pytest.raises(InputError, match=f"expected 0 … 61; found {stride}"):
            tokenizer.fit(row, stride)


def test_the_longer_of_a_pair_is_cut(tokenizer):
    (row,) = tokenizer.tokenize([("一" * 10, "是" * 100)])
    (cut,) = tokenizer.fit(row, "truncate")
    assert len(cut.ids) == 64
    assert (np.count_nonzero(cut.types == 0), np.count_nonzero(cut.types)) == (12, 52)
    windows = tokenizer.fit(row, 11)
    assert all(np.count_nonzero(window.types == 0) == 12 for window in windows)
    assert len(windows) == 3
    (both,) = tokenizer.tokenize([("一" * 100, "是" * 100)])
    (cut,) = tokenizer.fit(both, "truncate")
    assert np.count_nonzero(cut.ids == cut.ids[1]) in (30, 31)
    assert len(cut.ids) == 64
    with pytest.raises(InputError, match="both texts of the pair are too long"):
        tokenizer.fit(both, 3)
    assert tokenizer.fit(tokenizer.tokenize(["的"])[0], 3)[0].ids.shape == (3,)

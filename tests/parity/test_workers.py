"""Cases computed several at once: the same bits as one after another, in the same order."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from tests.artifacts import EVERY_TARGET, export_artifact
from tests.checkpoints import write_variant
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.parity.workers import compute_in_order
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers):
    assert list(compute_in_order(lambda item: item * item, range(9), workers)) == [(n, n * n) for n in range(9)]


def test_two_workers_work_at_the_same_time():
    both = threading.Barrier(2, timeout=10)
    assert [item for item, _ in compute_in_order(lambda _: both.wait(), range(4), 2)] == [0, 1, 2, 3]


def test_items_are_taken_no_sooner_than_there_is_room():
    taken = []
    pairs = compute_in_order(str, (taken.append(number) or number for number in range(50)), 2)
    next(pairs)
    assert len(taken) <= 4


def test_several_can_be_taken_ahead_of_one_that_takes_long():
    later = threading.Event()

    def wait_for_the_last(number):
        return later.wait(10) if number == 0 else number == 8 and later.set()

    found = dict(compute_in_order(wait_for_the_last, range(9), 2, ahead=7))
    assert found[0] is True


def test_what_the_function_raises_is_raised_in_its_turn():
    pairs = compute_in_order(lambda item: 1 // item, [2, 1, 0, 3], 2)
    assert next(pairs) == (2, 0)
    assert next(pairs) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(pairs)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    with Checkpoint.open(write_variant(tmp_path_factory.mktemp("bert"), "bert")) as opened:
        yield opened


@pytest.fixture(scope="module")
def golden(checkpoint):
    return Golden.make(checkpoint)


def test_the_oracle_gives_the_same_bits(checkpoint, golden):
    again = Golden.make(checkpoint, workers=3)
    assert (again.weights, again.text) == (golden.weights, golden.text)
    assert list(again.reference) == list(golden.reference)
    for name, outputs in golden.reference.items():
        for output, array in outputs.items():
            np.testing.assert_array_equal(again.reference[name][output], array)


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_verification_finds_the_same(checkpoint, golden, target, tmp_path):
    folder = export_artifact(checkpoint, target, tmp_path / target)
    with open_runtime(folder) as runtime:  # TensorFlow's threads are the process's
        alone, together = (verify(runtime, golden, runtime.artifact.description["precision"], None, n) for n in (1, 3))
    assert together == alone
    assert alone.passed, alone.faults


def test_long_cases_are_not_run_where_short_ones_fail(checkpoint, golden, tmp_path, monkeypatch):
    monkeypatch.setattr("yizhi.parity.cases.SHORT_TOKENS", 24)
    folder = export_artifact(checkpoint, "onnx", tmp_path / "onnx")
    wrong = {name: dict(outputs) for name, outputs in golden.reference.items()}
    wrong["length-17"] = {output: array + 1 for output, array in wrong["length-17"].items()}
    other = replace(golden, reference=wrong)
    with open_runtime(folder) as runtime:
        first, *later = runtime.signatures
        verdict = verify(runtime, other, "fp32")
    assert first == "features"  # which this case is not run through
    left_out = {case.name for case in golden.cases if not case.is_short and set(later) & set(case.signatures)}
    assert "longest" in left_out
    prefix, _, names = verdict.faults[-1].partition(": ")
    assert prefix == "not run, since shorter cases failed"
    assert set(names.split(", ")) == left_out
    run = {difference.case for difference in verdict.differences if difference.signature in later}
    assert not run & left_out
    assert run >= {case.name for case in golden.cases if case.is_short}

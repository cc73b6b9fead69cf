"""Passed, failed, bad input, and not run or not judged: four exit codes that no mixture confuses."""

import pytest

from tests.records import make_record
from yizhi.commands.options import finish
from yizhi.pipeline.jobs import Result
from yizhi.pipeline.results import Row

PASSED = Row("pytorch", verdict=make_record([0.5]))
FAILED = Row("onnx", verdict=make_record([0.5, 2.0]))
BAD_INPUT = Row("flax", verification=Result("flax", faults=["config.json: is damaged"], bad_input=True))
NOT_RUN = Row("tensorflow", verification=Result("tensorflow", faults=["no GPU"], bad_input=True, not_run=True))
NOT_JUDGED = Row("flax", verdict=make_record([0.5], passed=False, not_judged=True, faults=["not run: no tolerance"]))


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([PASSED], 0),
        ([PASSED, FAILED], 1),
        ([PASSED, BAD_INPUT], 2),
        ([FAILED, BAD_INPUT], 1),
        ([PASSED, NOT_RUN], 3),
        ([NOT_RUN], 3),
        ([PASSED, NOT_JUDGED], 3),
        ([NOT_RUN, NOT_JUDGED], 3),
        ([NOT_RUN, BAD_INPUT], 2),
        ([NOT_RUN, FAILED], 1),
        ([NOT_JUDGED, FAILED, PASSED], 1),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_exit_codes(tmp_path, rows, code, as_json):
    assert finish(rows, tmp_path, as_json) == code

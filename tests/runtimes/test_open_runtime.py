"""What the ONNX runtime keeps in memory, what opening a release says, and arrays that are odd in memory."""

import numpy as np
import pytest

from tests.artifacts import export_artifact
from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime

pytest.importorskip("onnxruntime")


def test_a_forgotten_signature_is_closed_and_comes_back(make_checkpoint, tmp_path):
    artifact = export_artifact(Checkpoint.open(make_checkpoint()), "onnx", tmp_path / "onnx")
    inputs = {"input_ids": [[2, 7, 3]]}
    with open_runtime(artifact) as runtime:
        before = runtime.run(inputs, ["logits"])["logits"]
        assert list(runtime._sessions) == ["serving_default"]
        runtime.forget("serving_default")
        assert not runtime._sessions
        np.testing.assert_array_equal(runtime.run(inputs, ["logits"])["logits"], before)


def test_a_release_is_no_artifact(make_checkpoint, tmp_path):
    export_artifact(Checkpoint.open(make_checkpoint()), "onnx", tmp_path / "release" / "onnx")
    with pytest.raises(InputError, match="open one of its artifacts: onnx"):
        open_runtime(tmp_path / "release")


def test_a_row_of_a_reversed_array_runs(make_checkpoint, tmp_path):
    artifact = export_artifact(Checkpoint.open(make_checkpoint()), "pytorch", tmp_path / "pytorch")
    ids = np.array([[2, 7, 3]])
    with open_runtime(artifact) as runtime:
        found = [runtime.run({"input_ids": array}, ["logits"])["logits"] for array in (ids, ids[::-1])]
    np.testing.assert_array_equal(*found)

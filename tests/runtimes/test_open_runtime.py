"""What the ONNX runtime keeps in memory, what opening a release says, and arrays that are odd in memory."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
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
    with pytest.raises(InputError, match="not a finished release; artifacts in it: onnx"):
        open_runtime(tmp_path / "release")


@pytest.mark.parametrize("version", ["1.16.3", "1.9.0"])
def test_an_onnx_runtime_that_cannot_load_the_files_is_named(make_checkpoint, tmp_path, monkeypatch, version):
    artifact = export_artifact(Checkpoint.open(make_checkpoint()), "onnx", tmp_path / "onnx")
    monkeypatch.setattr("onnxruntime.__version__", version)
    with pytest.raises(InputError, match=rf"(?s)onnxruntime.*expected version 1.17 or newer; found {version}"):
        open_runtime(artifact)
    monkeypatch.setattr("onnxruntime.__version__", "1.17.0")
    open_runtime(artifact).close()


def test_a_row_of_a_reversed_array_runs(make_checkpoint, tmp_path):
    artifact = export_artifact(Checkpoint.open(make_checkpoint()), "pytorch", tmp_path / "pytorch")
    ids = np.array([[2, 7, 3]])
    with open_runtime(artifact) as runtime:
        found = [runtime.run({"input_ids": array}, ["logits"])["logits"] for array in (ids, ids[::-1])]
    np.testing.assert_array_equal(*found)


# Opens a signature of an int8 artifact as a processor without VNNI does, and prints by how much the process grew.
OPENING = """
import sys
from yizhi.runtimes import onnx_runtime, open_runtime

def used():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

onnx_runtime.adds_signed_exactly = lambda: False
if sys.argv[2] == "keep":
    onnx_runtime.return_freed = lambda: None
runtime = open_runtime(sys.argv[1], threads=1)
before = used()
runtime._session("features")
print(used() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_copies_that_opening_makes_are_given_back(tmp_path):
    wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2}
    checkpoint = Checkpoint.open(write_variant(tmp_path / "checkpoint", "bert", config=wide))
    artifact = export_artifact(checkpoint, "onnx-int8", tmp_path / "int8")
    kernels = (artifact / "model.onnx.data").stat().st_size

    def grow(what):
        command = [sys.executable, "-c", OPENING, str(artifact), what]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    # What is kept differs from time to time, by as much as the kernels take; what is left once it is returned does not.
    left, kept = grow("return"), max(grow("keep") for _ in range(3))
    assert left < 1.5 * kernels
    assert left < kept - kernels / 2


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_onnx_runtime_reports_nothing_unless_a_user_wants_it(before, after):
    surroundings = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    surroundings |= {"ORT_DISABLE_TELEMETRY": before} if before else {}
    script = "import os, yizhi; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", script], env=surroundings, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == after

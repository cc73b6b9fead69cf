"""benchmarks/gpu.py, as far as a machine without a GPU can tell."""

import json

import pytest

from benchmarks.gpu import main, render
from tests.checkpoints import write_variant
from yizhi.pipeline.environment import Environment

ENVIRONMENT = Environment("a processor", "exact", 2, 8, "a system", "3.12", "0", {"torch": "2.11"})
ROW = {
    "target": "pytorch",
    "math": "tf32",
    "errors": "hidden 1.0e-03",
    "verdict": "not run",
    "faults": ["not run: why"],
}


def test_table_says_what_was_measured_and_what_could_not_be():
    rows = [
        {**ROW, "needs": 1.5e-3, "settings": {"cuda.matmul.allow_tf32": "True"}},
        {**ROW, "target": "onnx", "errors": "-", "needs": None, "settings": {}},
    ]
    lines = render(rows, "cuda", ENVIRONMENT).splitlines()
    assert lines[0] == "On cuda; a processor; Python 3.12; torch 2.11."
    assert lines[4] == "| pytorch | tf32 | hidden 1.0e-03 | 1.5e-03 | not run | cuda.matmul.allow_tf32 True |"
    assert lines[5] == "| onnx | tf32 | - |  | not run | not run: why |"


def test_without_a_gpu_nothing_is_run_and_the_exit_code_says_so(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    checkpoint = write_variant(tmp_path / "checkpoint", "bert")
    arguments = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--target", "pytorch"]
    assert main([*arguments, "--math", "strict"]) == 2
    assert "| pytorch | strict | - |  | not run | this PyTorch sees no CUDA device |" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "out" / "gpu.json").read_text())["rows"]
    assert row["verdict"] == "not run"

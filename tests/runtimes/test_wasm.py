"""ONNX artifacts in WebAssembly: the answers of the native runtime, and the same bits in every batch for int8."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
from tests.web import require_wasm
from yizhi.choices import WASM
from yizhi.cli import main
from yizhi.errors import InputError, NotRun
from yizhi.parity.integers import check_integers
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime
from yizhi.runtimes.base import Inputs

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

LENGTHS = (1, 2, 3, 4, 5, 7, 8, 13)


@pytest.fixture(scope="module")
def open_both(open_variant):
    """The native runtime of a variant, and the one in WebAssembly."""
    require_wasm()
    opened = {}

    def open_(variant, target):
        native = open_variant(variant, target)
        folder = native.artifact.folder
        opened.setdefault(folder, open_runtime(folder, device=WASM))
        return native, opened[folder]

    yield open_
    for runtime in opened.values():
        runtime.close()


def make_batch(runtime):
    """Rows of LENGTHS tokens, padded on the right."""
    random = np.random.default_rng(0)
    mask = np.array([[place < length for place in range(max(LENGTHS))] for length in LENGTHS], np.int64)
    ids = random.integers(5, runtime.config.vocab_size, mask.shape) * mask
    return Inputs.of(ids, mask)


@pytest.mark.parametrize("variant", ["bert", "albert", "electra-generator", "bert-classifier", "bert-reader"])
def test_fp32_answers_are_the_native_runtimes(open_both, variant):
    native, wasm = open_both(variant, "onnx")
    inputs = make_batch(native)
    for signature, names in native.signatures.items():
        expected, found = native.run(inputs, names), wasm.run(inputs, names)
        for name in names:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=f"{signature} {name}")
    if variant == "bert":
        places = [[3, 1], [0, 0], [7, 12]]
        np.testing.assert_allclose(wasm.logits_at(inputs, places), native.logits_at(inputs, places), atol=1e-5)


@pytest.mark.parametrize("target", ["onnx", "onnx-int8"])
def test_steps_with_a_cache_are_the_native_runtimes(open_both, target):
    """Also the first, whose cache is empty."""
    native, wasm = open_both("qwen3", target)
    ids = make_batch(native).input_ids
    pasts = {native: None, wasm: None}
    for columns in (slice(4), slice(4, 5), slice(5, None)):
        found = {}
        for runtime, past in pasts.items():
            found[runtime], pasts[runtime] = runtime.step({"input_ids": ids[:, columns]}, past)
        np.testing.assert_allclose(
            found[wasm]["logits"], found[native]["logits"], atol=1e-4 if target == "onnx" else 0.2
        )
    assert [array.shape for array in pasts[wasm].arrays] == [array.shape for array in pasts[native].arrays]


@pytest.mark.parametrize("variant", ["bert", "albert"])
def test_int8_gives_a_row_the_same_bits_alone_and_in_every_batch(open_both, variant):
    _, wasm = open_both(variant, "onnx-int8")
    batch = make_batch(wasm)
    names = wasm.signatures["hidden_states"]
    together = wasm.run(batch, names)
    for row, length in enumerate(LENGTHS):
        alone = wasm.run(Inputs.of(batch.input_ids[row : row + 1, :length]), names)
        for name in names:
            if alone[name].ndim == 3:
                np.testing.assert_array_equal(alone[name][0], together[name][row, :length], err_msg=f"{name} {length}")


def test_int8_sums_the_same_integers(open_both):
    native, wasm = open_both("bert", "onnx-int8")
    (expected, _), (found, faults) = check_integers(native), check_integers(wasm)
    assert not faults
    assert found.digest == expected.digest
    assert (found.compared, found.instructions) == (["u8u8"], "wasm simd128")


def test_what_webassembly_refuses_is_told(tmp_path):
    require_wasm()
    checkpoint = Checkpoint.open(write_variant(tmp_path / "checkpoint", "bert"))
    folder = export_artifact(checkpoint, "onnx", tmp_path / "onnx")
    with open_runtime(folder, device=WASM) as runtime:
        (folder / "model.onnx.data").write_bytes(b"short")
        with pytest.raises(InputError, match="cannot be run in WebAssembly: "):
            runtime.run({"input_ids": [[1, 2]]})
        runtime._child.kill()
        with pytest.raises(InputError, match="ended"):
            runtime.run({"input_ids": [[1, 2]]})


OPEN = """
import sys, time
from yizhi.runtimes import open_runtime
runtime = open_runtime(sys.argv[1], device="wasm")
runtime.run({"input_ids": [[1, 2]]})
print(runtime._folder, flush=True)
time.sleep(600)
"""


def test_a_kill_leaves_neither_node_nor_files(open_variant):
    require_wasm()
    command = [sys.executable, "-c", OPEN, str(open_variant("bert", "onnx").artifact.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        folder = Path(process.stdout.readline().strip())
        assert (folder / "model.onnx").is_file()
        process.kill()
    for _ in range(100):
        if not folder.exists():
            return
        time.sleep(0.1)
    pytest.fail(f"{folder} is still there")


@pytest.mark.parametrize(
    ("script", "told"), [(None, "found no node"), ("echo v18.20.1", "found v18.20.1"), ("exit 1", "without a version")]
)
def test_a_machine_without_node_says_so(open_variant, tmp_path, monkeypatch, script, told):
    folder = open_variant("bert", "onnx").artifact.folder
    if script:
        (tmp_path / "node").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "node").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    with pytest.raises(NotRun, match=f"needs Node 20 or newer; .*{told}"):
        open_runtime(folder, device=WASM)


def test_other_targets_are_not_run_by_a_browser(open_variant):
    with pytest.raises(NotRun, match="a browser cannot run pytorch"):
        open_runtime(open_variant("bert").artifact.folder, device=WASM)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    checkpoint = write_variant(folder / "checkpoint", "bert")
    targets = ["--target", "pytorch", "--target", "onnx", "--target", "onnx-int8"]
    assert main(["export", str(checkpoint), "--out", str(folder / "bert"), *targets]) == 0
    return folder / "bert"


def test_a_release_is_verified_as_a_browser_computes_it(release, tmp_path, capsys):
    require_wasm()
    assert main(["verify", str(release), "--runtime", "wasm", "--report", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "2 of 2 passed" in told
    assert "onnx: fp32 on wasm: onnxruntime-web 1.30.0, node v" in told
    assert "here on wasm simd128: the same integers" in told
    report = json.loads((tmp_path / "parity.json").read_text())["targets"]
    assert {target: row["parity"]["device"] for target, row in report.items()} == {"onnx": "wasm", "onnx-int8": "wasm"}
    assert report["onnx-int8"]["int8_kernels"] == "wasm simd128"
    assert 'name="onnx on wasm"' in (tmp_path / "parity.xml").read_text()
    assert "int8 on wasm: onnxruntime-web 1.30.0" in (tmp_path / "parity.html").read_text()


def test_what_a_browser_cannot_run_is_told(release, capsys):
    assert main(["verify", str(release), "--runtime", "wasm", "--target", "pytorch"]) == 3
    assert "pytorch: a browser cannot run pytorch" in capsys.readouterr().out
    assert main(["verify", str(release), "--runtime", "wasm", "--device", "cuda"]) == 2
    assert "--runtime wasm computes on the CPU; found --device cuda" in capsys.readouterr().err


def test_a_release_without_onnx_is_told(tmp_path, capsys):
    checkpoint = write_variant(tmp_path / "checkpoint", "bert")
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "bert"), "--target", "pytorch"]) == 0
    assert main(["verify", str(tmp_path / "bert"), "--runtime", "wasm"]) == 2
    assert "has no onnx and no onnx-int8, which a browser can run; it has pytorch" in capsys.readouterr().err

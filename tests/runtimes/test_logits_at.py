"""Logits at chosen positions are those of a whole pass, and verification notices where they are not."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.agreement import padded_batch
from tests.artifacts import EVERY_TARGET
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.release.artifact import DESCRIPTION
from yizhi.runtimes import open_runtime

POSITIONS = np.array([[3, 20], [0, 0], [1, 2], [0, 7], [0, 0]])


@pytest.mark.parametrize("target", EVERY_TARGET)
@pytest.mark.parametrize(
    "variant", ["bert", "bert-untied", "albert-groups", "megatron-bert", "bert-both_parallel", "modernbert"]
)
def test_they_are_those_of_the_whole_pass(open_artifact, target, variant):
    checkpoint, runtime = open_artifact(variant, target)
    inputs = padded_batch(checkpoint.config)
    whole = runtime.run(inputs, ["logits"])["logits"][tuple(POSITIONS.T)]
    found = runtime.logits_at(inputs, POSITIONS)
    assert found.dtype == np.float32
    one = runtime.logits_at(inputs, POSITIONS[2:3][::-1])
    if TARGETS[target].precision == "int8":
        np.testing.assert_array_equal(found, whole)
        np.testing.assert_array_equal(one, whole[2:3])
    else:
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(one, whole[2:3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["bert", "albert-groups", "megatron-bert", "roformer", "modernbert"])
def test_nothing_after_the_last_attention_is_computed_elsewhere(open_artifact, tmp_path, variant):
    checkpoint, runtime = open_artifact(variant, "onnx")
    folder = shutil.copytree(runtime.artifact.folder, tmp_path / "onnx")
    model = onnx.load(folder / "logits_at.onnx", load_external_data=False)
    activations = [node.output[0] for node in model.graph.node if node.op_type in ("Gelu", "Relu")]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in activations)
    (folder / "exposed.onnx").write_bytes(model.SerializeToString())
    inputs = padded_batch(checkpoint.config)
    session = onnxruntime.InferenceSession(folder / "exposed.onnx")
    rows = [len(array) for array in session.run(activations, {**inputs.as_dict(), "positions": POSITIONS})]
    # The last two are the last layer's feed-forward and the head.
    assert rows == [inputs.input_ids.size] * (len(checkpoint.spec.layers) - 1) + [len(POSITIONS)] * 2


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_verification_holds_them_to_the_oracle(open_artifact, monkeypatch, target):
    checkpoint, runtime = open_artifact("bert", target)
    logits_at = runtime.logits_at
    monkeypatch.setattr(runtime, "logits_at", lambda inputs, positions: logits_at(inputs, positions[::-1]))
    verdict = verify(runtime, Golden.make(checkpoint), TARGETS[target].precision)
    assert any("logits" in fault or "agreement" in fault for fault in verdict.faults)


@pytest.mark.parametrize(
    ("positions", "fault"),
    [
        ([[0, 24]], r"rows 0 … 4 and positions 0 … 20; found \[0, 24\]"),
        ([[5, 0], [0, -1], [1, 1]], r"found \[5, 0\], and 1 more"),
        ([3, 4], r"one or more \[row, position\]; found \[3, 4\]"),
        ([], "found "),
        ([[0.0, 1.0]], "expected integers"),
    ],
)
def test_positions_outside_the_inputs_are_refused(open_artifact, positions, fault):
    checkpoint, runtime = open_artifact("bert", "onnx")
    with pytest.raises(InputError, match=fault):
        runtime.logits_at(padded_batch(checkpoint.config), positions)


def test_artifacts_without_it_say_why(open_artifact):
    _, runtime = open_artifact("electra-discriminator", "onnx")
    with pytest.raises(InputError, match="has no masked-language-model head"):
        runtime.logits_at({"input_ids": [[1, 2]]}, [[0, 0]])


def test_an_artifact_of_older_code_is_to_be_exported_again(open_artifact, tmp_path):
    _, runtime = open_artifact("bert", "onnx")
    path = Path(shutil.copytree(runtime.artifact.folder, tmp_path / "onnx")) / DESCRIPTION
    description = json.loads(path.read_text(encoding="utf-8"))
    del description["logits_at"]
    path.write_text(json.dumps(description), encoding="utf-8")
    with open_runtime(path.parent) as older, pytest.raises(InputError, match="export it again"):
        older.logits_at({"input_ids": [[1, 2]]}, [[0, 0]])

"""The audit of an int8 artifact's numbers: what is sound passes, and what no gate on outputs could see is found."""

import numpy as np
import pytest

from tests.artifacts import export_artifact
from yizhi.parity.int8_faults import scale_one_kernel
from yizhi.parity.numbers import audit, summarize
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import Artifact

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def export(make_checkpoint, tmp_path):
    def make(variant, **options):
        checkpoint = Checkpoint.open(make_checkpoint(variant))
        return checkpoint, Artifact.read(export_artifact(checkpoint, "onnx-int8", tmp_path / "int8", **options))

    return make


@pytest.mark.parametrize(
    "variant",
    ["bert", "bert-untied", "bert-fp16", "albert-groups", "electra-discriminator", "megatron-bert", "bert-regression"],
)
def test_sound_numbers_pass(export, variant):
    checkpoint, artifact = export(variant)
    expected = summarize(checkpoint)
    assert expected.keys() == {parameter.name for parameter in checkpoint.parameters()}
    assert audit(artifact, expected) == []


def test_what_is_kept_in_float32_must_be_equal(export):
    checkpoint, artifact = export("bert", keep_fp32=["bert", "cls"])
    expected = summarize(checkpoint)
    assert audit(artifact, expected) == []
    name = checkpoint.spec.layers[1].value.weight
    expected[name] = expected[name] * np.float32(1.0001)
    assert audit(artifact, expected) == [f"{name}: differs from the checkpoint's, which int8 keeps in float32"]


def test_a_scale_off_by_three_percent_is_found(export):
    checkpoint, artifact = export("bert")
    layer = checkpoint.spec.layers[1]
    scale_one_kernel(artifact.folder, layer)
    (fault,) = audit(artifact, summarize(checkpoint))
    assert fault.startswith(f"{layer.output.weight}: its values are 1.0")


def test_every_tensor_is_looked_at(export):
    """Of each parameter, some values negated: its own fault, and no other."""
    checkpoint, artifact = export("bert")
    sound = summarize(checkpoint)
    for name, numbers in sound.items():
        changed = numbers.copy()
        changed[::3] *= -1
        faults = audit(artifact, {**sound, name: changed})
        assert [fault.partition(":")[0] for fault in faults] == [name]
    assert audit(artifact, {**sound, "bert.another.weight": numbers}) == ["bert.another.weight: not stored"]

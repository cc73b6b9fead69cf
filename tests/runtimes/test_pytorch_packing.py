"""Kernels packed for oneDNN: the same outputs, and nothing packed that is also read in another way."""

import numpy as np
import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
from yizhi.converters.forwards.pytorch import can_pack
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime

pytestmark = pytest.mark.skipif(not can_pack("cpu"), reason="this PyTorch has no oneDNN")
INPUTS = {"input_ids": [[2, 7, 9, 3, 0], [2, 5, 8, 6, 3]], "attention_mask": [[1, 1, 1, 1, 0], [1] * 5]}


@pytest.mark.parametrize("variant", ["bert", "albert"])
def test_packing_changes_rounding_alone(tmp_path, monkeypatch, variant):
    with Checkpoint.open(write_variant(tmp_path / "checkpoint", variant)) as checkpoint:
        folder = export_artifact(checkpoint, "pytorch", tmp_path / "artifact")
    with open_runtime(folder) as packed:
        found = packed.run(INPUTS, packed.outputs)
    monkeypatch.setattr("yizhi.runtimes.pytorch_runtime.can_pack", lambda device: False)
    with open_runtime(folder) as plain:
        expected = plain.run(INPUTS, plain.outputs)
    assert not any(parameter.is_mkldnn for parameter in plain._module.parameters())
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_every_kernel_is_packed_but_the_decoder(tmp_path):
    with Checkpoint.open(write_variant(tmp_path / "checkpoint", "bert")) as checkpoint:
        folder = export_artifact(checkpoint, "pytorch", tmp_path / "artifact")
        decoder = checkpoint.spec.head.decoder
    with open_runtime(folder) as runtime:
        packed = {name for name, parameter in runtime._module.named_parameters() if parameter.is_mkldnn}
        matrices = {name for name, p in runtime._module.named_parameters() if not p.is_mkldnn and p.dim() == 2}
    assert "bert.encoder.layer.0.intermediate.dense.weight" in packed
    assert decoder not in packed
    assert all("embeddings" in name or name == decoder for name in matrices)

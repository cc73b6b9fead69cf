"""A checkpoint beside another's configuration: one clear error, and what a discriminator cannot do."""

import json

import pytest

from tests.artifacts import export_artifact
from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.model.architectures import FAMILIES
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime
from yizhi.runtimes.fill_mask import FillMask
from yizhi.runtimes.tokenization import Tokenizer


@pytest.mark.parametrize("tensors_of", FAMILIES)
@pytest.mark.parametrize("config_of", FAMILIES)
def test_another_family_s_config(make_checkpoint, tensors_of, config_of):
    checkpoint = make_checkpoint(name="one", model_type=tensors_of)
    other = make_checkpoint(name="other", model_type=config_of)
    (checkpoint / "config.json").write_bytes((other / "config.json").read_bytes())
    if tensors_of == config_of:
        Checkpoint.open(checkpoint).close()
        return
    with pytest.raises(InputError) as error:
        Checkpoint.open(checkpoint)
    assert error.value.faults == [
        f"config.json says model_type {config_of!r}, but the tensors are named as {tensors_of!r}'s"
    ]


def test_discriminator_said_to_fill_masks(make_checkpoint, tmp_path, capsys):
    checkpoint = make_checkpoint("electra-discriminator")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "architectures": ["ElectraForMaskedLM"]}))
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "release")]) == 2
    printed = capsys.readouterr().err
    assert "a discriminator's" in printed
    assert printed.count("\n  - ") == 1
    assert not (tmp_path / "release").exists()


def test_discriminator_asked_to_fill_masks(make_checkpoint, tmp_path):
    with Checkpoint.open(make_checkpoint("electra-discriminator")) as checkpoint:
        artifact = export_artifact(checkpoint, "onnx", tmp_path / "onnx")
    with open_runtime(artifact) as runtime, pytest.raises(InputError, match="discriminator") as error:
        FillMask(runtime, Tokenizer.open(artifact))
    assert len(error.value.faults) == 1


def test_uer_config_beside_a_hugging_face_checkpoint(make_checkpoint, tmp_path, capsys):
    checkpoint = make_checkpoint("albert")
    uer = {"emb_size": 16, "hidden_size": 32, "heads_num": 4, "layers_num": 3, "feedforward_size": 56}
    (checkpoint / "config.json").write_text(json.dumps(uer))
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "release")]) == 2
    printed = capsys.readouterr().err
    assert "This is a UER-py config: use `yizhi import`" in printed
    assert printed.count("\n  - ") == 1
    assert not (tmp_path / "release").exists()

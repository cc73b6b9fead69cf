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

# transformers has a class of its own for each, and one table of names.
NAMED_ALIKE = (("roberta", "xlm-roberta"),)


@pytest.mark.parametrize("tensors_of", FAMILIES)
@pytest.mark.parametrize("config_of", FAMILIES)
def test_another_family_s_config(make_checkpoint, tensors_of, config_of):
    checkpoint = make_checkpoint(name="one", model_type=tensors_of)
    other = make_checkpoint(name="other", model_type=config_of)
    for name in ("config.json", "vocab.txt"):
        (checkpoint / name).write_bytes((other / name).read_bytes())
    named_alike = next((group for group in NAMED_ALIKE if tensors_of in group), (tensors_of,))
    if config_of in named_alike:
        Checkpoint.open(checkpoint).close()
        return
    with pytest.raises(InputError) as error:
        Checkpoint.open(checkpoint)
    if (tensors_of, config_of) == ("qwen2", "qwen3"):  # which has all of its names, and no biases
        assert any("self_attn.q_norm.weight: missing" in fault for fault in error.value.faults)
        return
    (fault,) = error.value.faults
    # Qwen3 has all of Qwen2's names.
    names = " or ".join(map(repr, ("qwen2", "qwen3") if tensors_of == "qwen2" else named_alike))
    assert fault.startswith(f"config.json says model_type {config_of!r}, but the tensors are named as {names}'s")
    is_wwm = tensors_of == "bert" and "roberta" in config_of
    assert ("RoBERTa-wwm-ext and its relatives are BERT models" in fault) == is_wwm


def test_a_wwm_checkpoint_as_roberta_is_explained_first(make_checkpoint):
    """RoBERTa's default for padding, where the file is silent, is not the vocabulary's: a fault that follows."""
    checkpoint = make_checkpoint("bert")
    config = json.loads((checkpoint / "config.json").read_text())
    del config["pad_token_id"]
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "roberta"}))
    with pytest.raises(InputError) as error:
        Checkpoint.open(checkpoint)
    explained, padding = error.value.faults
    assert "RoBERTa-wwm-ext and its relatives are BERT models" in explained
    assert padding.startswith("pad_token: ")


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

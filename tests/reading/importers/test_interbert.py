"""InterBERT as its authors save it: names of DataParallel, a config without model_type, heads of other tasks."""

import json

import numpy as np
import pytest

from tests.checkpoints import expected_tensors, small_config, vocab_of, write_variant
from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.model.config import EncoderConfig
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.importers.importer import import_checkpoint

torch = pytest.importorskip("torch")


@pytest.fixture
def published(tmp_path):
    """The config by hand, as the authors' code reads it; a .bin of a fine-tuned model."""
    folder = tmp_path / "published"
    folder.mkdir()
    config = small_config("interbert", pooling_method="mul", conv_layer="normal_conv", max_region_length=36)
    vocab = vocab_of(EncoderConfig.from_dict(config))
    for key in ("model_type", "layer_norm_eps", "pad_token_id"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    tensors = {f"module.{name}": torch.tensor(array) for name, array in expected_tensors("interbert").items()}
    tensors["module.cls.predictions.decoder.weight"] = tensors["module.bert.embeddings.word_embeddings.weight"]
    tensors |= {"module.vil_logit.weight": torch.ones(1, 20), "module.linguisic_logit.bias": torch.ones(1)}
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def test_the_published_names_are_imported(published, tmp_path):
    report = import_checkpoint(published, tmp_path / "imported")
    assert (report.model_type, report.task) == ("interbert", "fill-mask")
    reason = "a head of InterBertForVLTasks; no output uses it"
    assert {name: why for name, why in report.ignored.items() if "logit" in name} == {
        "vil_logit.weight": reason,
        "linguisic_logit.bias": reason,
    }
    expected = expected_tensors("interbert")
    with Checkpoint.open(tmp_path / "imported") as checkpoint:
        assert {parameter.name for parameter in checkpoint.parameters()} == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(checkpoint.array(name), array)
        assert (checkpoint.spec.image.shared, len(checkpoint.spec.blocks)) == (2, 4)
        assert checkpoint.spec.image.config.layer_norm_eps == 1e-12


def test_an_export_of_the_published_config_says_to_import_it(published, tmp_path, capsys):
    assert main(["export", str(published), "--out", str(tmp_path / "release")]) == 2
    assert "This is an InterBERT config: use `yizhi import`" in capsys.readouterr().err


def test_every_fault_of_the_config_is_listed_at_once():
    config = small_config(
        "interbert", v_hidden_size=40, fusion_method="concat", v_hidden_act="swoosh", v_num_attention_heads=3
    )
    del config["v_feature_size"], config["t_num_hidden_layers"]
    with pytest.raises(InputError) as caught:
        EncoderConfig.from_dict({**config, "v_target_size": 0})
    assert caught.value.faults == [
        "v_feature_size: missing",
        "v_target_size: expected an integer from 1 to 1048576; found 0",
        "t_num_hidden_layers: missing",
        "v_hidden_size: expected hidden_size (32), because tokens and regions share layers; found 40",
        "v_hidden_size: expected a multiple of v_num_attention_heads (3); found 40",
        "v_hidden_act: expected one of gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, silu; found 'swoosh'",
        "fusion_method: expected one of mul, sum; found 'concat'",
    ]


def test_the_pooled_width_is_the_code_s_default():
    config = small_config("interbert")
    del config["bi_hidden_size"]
    image = EncoderConfig.from_dict(config).image
    assert (image.pooled, image.fusion) == (1024, "mul")


def test_wrong_shapes_and_missing_tensors_are_listed_at_once(tmp_path):
    def alter(tensors):
        tensors["bert.v_embeddings.image_embeddings.weight"] = np.ones((32, 7), np.float32)
        del tensors["bert.t_pooler.dense.bias"], tensors["cls.bi_seq_relationship.weight"]
        tensors["bert.encoder.v_layer.1.output.dense.bias"] = np.ones(32, np.float32)

    with pytest.raises(InputError) as caught:
        Checkpoint.open(write_variant(tmp_path, "interbert", alter=alter))
    assert caught.value.faults == [
        "bert.encoder.v_layer.1.output.dense.bias: not a tensor of this interbert configuration",
        "bert.t_pooler.dense.bias: missing; expected [20]",
        "bert.v_embeddings.image_embeddings.weight: expected [32, 24]; found [32, 7]",
        "cls.bi_seq_relationship.weight: missing; expected [2, 20]",
    ]

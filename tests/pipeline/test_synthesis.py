"""What makes random weights behave like trained ones at every width."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.checkpoints import small_config, write_json
from yizhi.cli import main
from yizhi.pipeline.synthesis import SHARED_OUTLIERS, SPREAD, make_vocab, synthesize
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.tokenizer_files import SPECIAL_TOKENS

KERNEL = "encoder.layer.0.attention.self.query.weight"


def weights(folder, **config):
    synthesize(folder, small_config(**config))
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("hidden_size", [192, 768])
def test_kernels_grow_as_layers_narrow(tmp_path, hidden_size):
    kernel = weights(tmp_path / "c", hidden_size=hidden_size)[f"bert.{KERNEL}"]
    assert kernel.std() == pytest.approx(SPREAD["kernel"] * (768 / hidden_size) ** 0.5, rel=0.02)


def test_a_shared_layer_s_outliers_are_half(tmp_path):
    alone = weights(tmp_path / "bert")["bert.encoder.layer.0.output.LayerNorm.bias"]
    shared = weights(tmp_path / "albert", model_type="albert", num_hidden_groups=1)
    shared = shared["albert.encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm.bias"]
    assert np.sort(shared)[-3:].mean() == pytest.approx(SHARED_OUTLIERS * np.sort(alone)[-3:].mean(), rel=0.1)


def test_layers_of_their_own_keep_theirs(tmp_path):
    own = weights(tmp_path / "albert", model_type="albert", num_hidden_groups=3)
    own = own["albert.encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm.bias"]
    assert np.sort(own)[-3:].mean() > 3.5


def test_a_vocabulary_of_your_own(tmp_path, capsys):
    vocab = [*SPECIAL_TOKENS, *"一二三"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    write_json(tmp_path / "config.json", small_config(vocab_size=8))
    command = ["synthesize", "--config", str(tmp_path / "config.json"), "--vocab", str(tmp_path / "vocab.txt")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.vocab == vocab
    write_json(tmp_path / "config.json", small_config(vocab_size=9))
    assert main([*command, "--out", str(tmp_path / "other")]) == 2
    assert "vocab_size: expected 8, the vocabulary's; found 9" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_what_training_starts_from(tmp_path):
    """BERT's initialisation: normal with 0.02, biases 0, LayerNorm 1 and 0."""
    synthesize(tmp_path / "start", small_config(), untrained=True)
    with Checkpoint.open(tmp_path / "start") as checkpoint:
        layer = checkpoint.spec.layers[0]
        kernel = checkpoint.array(layer.intermediate.weight)
        assert abs(kernel.std() - 0.02) < 0.001
        assert abs(kernel.mean()) < 0.001
        assert not checkpoint.array(layer.intermediate.bias).any()
        assert (checkpoint.array(layer.output_norm.weight) == 1).all()
        assert not checkpoint.array(layer.output_norm.bias).any()


def test_a_vocabulary_as_large_as_xlm_r_s_has_no_entry_twice():
    vocab = make_vocab(250_002)
    assert len(set(vocab)) == 250_002
    assert vocab[:21128] == make_vocab(21128)

import json
from pathlib import Path

import numpy as np
import pytest

from tests.reading.importers.foreign_files import copy_beside, read_tensors, save_bin
from tests.reading.importers.uer_reference import tencent_state, uer_config, uer_forward, uer_state
from yizhi.errors import InputError
from yizhi.parity import oracle
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.importers import import_checkpoint
from yizhi.runtimes.base import Inputs

IDS = np.random.default_rng(5).integers(5, 60, (3, 17))
SEGMENTS = np.ones_like(IDS)
SEGMENTS[:, 9:] = 2
SEGMENTS[1, 12:] = 0  # UER-py's padding
REAL = SEGMENTS > 0

FAMILIES = [("bert", "gelu"), ("albert", "relu"), ("albert", "gelu")]


def run(folder: Path) -> dict[str, np.ndarray]:
    inputs = Inputs(IDS, REAL.astype(np.int64), np.maximum(SEGMENTS - 1, 0))
    with Checkpoint.open(folder) as checkpoint:
        return oracle.run(checkpoint, inputs, {"last_hidden_state", "pooler_output", "logits"})


@pytest.fixture
def write_uer(make_checkpoint, tmp_path: Path):
    """Write a UER-py release from a small checkpoint; return its folder, state and configuration."""

    def write(family: str = "bert", act: str = "gelu", untied: bool = False, tencent: bool = False, **changes: object):
        source = make_checkpoint(family, config={"hidden_act": act})
        tensors, config = read_tensors(source)
        state, settings = uer_state(tensors, config, untied), {**uer_config(config), **changes}
        folder = copy_beside(source, tmp_path / "uer", settings, "large_config.json")
        (folder / "vocab.txt").rename(folder / "google_zh_vocab.txt")
        save_bin(folder / "mixed_corpus_model.bin-250000", tencent_state(state) if tencent else state)
        return folder, state, settings

    return write


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize(("family", "act"), FAMILIES)
def test_outputs_are_uer_pys(write_uer, tmp_path: Path, family: str, act: str, untied: bool):
    """What is left of the LayerNorm's difference is far below what a plain rename leaves."""
    folder, state, settings = write_uer(family, act, untied)
    report = import_checkpoint(folder, tmp_path / "out")
    found, expected = run(tmp_path / "out"), uer_forward(state, settings, IDS, SEGMENTS)
    assert np.abs(found["last_hidden_state"] - expected["hidden"])[REAL].max() < 2e-5
    assert np.abs(found["pooler_output"] - expected["pooled"]).max() < 2e-5
    assert np.abs(found["logits"] - expected["logits"])[REAL].max() < 1e-4
    assert report.format == f"UER-py .bin ({family.upper()})"
    assert any(note.startswith("LayerNorm: ") for note in report.notes)
    assert any(note.startswith("tie_word_embeddings: false") for note in report.notes) == untied
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.spec.tied != untied


def test_a_plain_rename_would_be_hundreds_of_times_worse(write_uer, tmp_path: Path):
    folder, state, settings = write_uer("bert")
    import_checkpoint(folder, tmp_path / "out")
    expected = uer_forward(state, settings, IDS, SEGMENTS)["hidden"]
    folded = np.abs(run(tmp_path / "out")["last_hidden_state"] - expected)[REAL].max()
    gammas = {name: array for name, array in state.items() if name.endswith(".gamma")}
    unfolded = {name: array / np.float32(np.sqrt((array.size - 1) / array.size)) for name, array in gammas.items()}
    save_bin(folder / "mixed_corpus_model.bin-250000", {**state, **unfolded})
    import_checkpoint(folder, tmp_path / "renamed")
    renamed = np.abs(run(tmp_path / "renamed")["last_hidden_state"] - expected)[REAL].max()
    assert renamed > 300 * folded


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_all_but_layer_norms_scale_is_exact(make_checkpoint, write_uer, tmp_path: Path, family: str):
    folder, state, _ = write_uer(family)
    report = import_checkpoint(folder, tmp_path / "out")
    found, _ = read_tensors(tmp_path / "out")
    expected, _ = read_tensors(make_checkpoint(family, config={"hidden_act": "gelu"}))
    scaled = {tensor.name for tensor in report.tensors if "scaled" in tensor.changes}
    assert scaled == {
        name for name in expected if ("LayerNorm" in name or "layer_norm" in name) and name.endswith("weight")
    }
    for name, array in expected.items():
        factor = np.sqrt((array.size - 1) / array.size) if name in scaled else 1.0
        assert np.array_equal(found[name], (array.astype(np.float64) * factor).astype(np.float32)), name
    assert len(report.tensors) + len(report.ignored) == len(state)


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_tencentpretrains_names(write_uer, tmp_path: Path, family: str):
    one = import_checkpoint(write_uer(family)[0], tmp_path / "one")
    two = import_checkpoint(write_uer(family, tencent=True)[0], tmp_path / "two")
    assert one.sha256 == two.sha256
    assert any(tensor.source_name.startswith("target.mlm.linear_1") for tensor in two.tensors)


def test_config_follows_the_tensors(write_uer, tmp_path: Path):
    """What UER-py's config does not say is in the shapes: the vocabulary's size, and for old ones the positions."""
    folder, _, settings = write_uer("albert", "relu")
    del settings["max_seq_length"]
    (folder / "large_config.json").write_text(json.dumps(settings))
    import_checkpoint(folder, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {
        "architectures": ["AlbertForMaskedLM"],
        "model_type": "albert",
        "dtype": "float32",
        "vocab_size": 116,
        "embedding_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 56,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "hidden_act": "relu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }


def test_uers_published_config_is_understood(shared_data: Path, write_uer, tmp_path: Path):
    """The settings of ALBERT-large, at a small size."""
    published = json.loads((shared_data / "configs" / "uer_albert_large_native" / "config.json").read_text())
    folder, _, settings = write_uer("albert", "relu")
    sizes = ("emb_size", "hidden_size", "feedforward_size", "heads_num", "layers_num", "max_seq_length")
    (folder / "large_config.json").write_text(json.dumps({**published, **{key: settings[key] for key in sizes}}))
    assert import_checkpoint(folder, tmp_path / "out").model_type == "albert"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"layernorm_positioning": "pre"}, "layernorm_positioning: expected 'post'; found 'pre'"),
        ({"feed_forward": "gated", "mask": "causal"}, "mask: expected 'fully_visible'; found 'causal'"),
        ({"embedding": ["word", "sinusoidalpos"]}, "embedding: expected 'word_pos_seg' or"),
        ({"parameter_sharing": True}, "expected both"),
        (
            {"parameter_sharing": True, "factorized_embedding_parameterization": True},
            "but the tensors are one set per layer",
        ),
        ({"layers_num": 4}, "bert.encoder.layer.3.attention.output.LayerNorm.bias: missing"),
        ({"hidden_act": "linear"}, "hidden_act: expected one of"),
        ({"heads_num": None}, "num_attention_heads: missing"),
    ],
)
def test_other_models_are_refused(write_uer, tmp_path: Path, changes: dict, fault: str):
    folder, _, _ = write_uer("bert", **changes)
    with pytest.raises(InputError) as caught:
        import_checkpoint(folder, tmp_path / "out")
    assert fault in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unknown_names_are_all_listed(write_uer, tmp_path: Path):
    folder, state, _ = write_uer("bert")
    extra = {
        "target.lm.output_layer.weight": np.ones((2, 2)),
        "encoder.transformer.0.self_attn.linear_layers.3.bias": np.ones(2),
    }
    save_bin(folder / "mixed_corpus_model.bin-250000", {**state, **extra})
    with pytest.raises(InputError) as caught:
        import_checkpoint(folder, tmp_path / "out")
    assert caught.value.faults == [f"{name} {list(array.shape)}: not a known name" for name, array in extra.items()]


def test_layers_are_shared_or_numbered(write_uer, tmp_path: Path):
    folder, state, _ = write_uer("albert", "relu")
    extra = {f"encoder.transformer.{n}.layer_norm_1.beta": np.ones(32, np.float32) for n in range(2)}
    save_bin(folder / "mixed_corpus_model.bin-250000", {**state, **extra})
    with pytest.raises(InputError) as caught:
        import_checkpoint(folder, tmp_path / "out")
    assert caught.value.faults == [f"{name} [32]: not a known name" for name in extra]


def test_hidden_act_is_not_guessed(write_uer, tmp_path: Path):
    folder, _, settings = write_uer("bert")
    del settings["hidden_act"]
    (folder / "large_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="hidden_act: missing"):
        import_checkpoint(folder, tmp_path / "out")

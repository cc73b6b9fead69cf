"""One model as every project publishes it: each import gives the same canonical tensors, bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.artifacts import export_artifact, slow
from tests.checkpoints import write_tensors, write_variant
from tests.reading.importers.foreign_files import (
    assert_same_checkpoint,
    copy_beside,
    google_config,
    google_tensors,
    make_zip,
    read_tensors,
    save_bin,
    save_h5,
    save_tf1,
)
from yizhi.errors import InputError
from yizhi.parity import oracle
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.importers import import_checkpoint
from yizhi.reading.importers.foreign import REPEATED
from yizhi.runtimes.base import Inputs

KERAS_LAYERS = {
    "bert": {"bert": "bert", "cls": "mlm___cls"},
    "albert-groups": {"albert": "albert", "predictions": "predictions"},
    "electra-generator": {
        "electra": "electra",
        "generator_predictions": "generator_predictions",
        "generator_lm_head": "generator_lm_head",
    },
}


TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


@pytest.mark.parametrize("legacy", [False, True])
def test_hfl_zip(make_checkpoint, tmp_path: Path, legacy: bool):
    """A release as HFL makes it: one folder in a zip, Google's config, LayerNorm's old names, a next-sentence head."""
    expected = make_checkpoint("bert")
    tensors, config = read_tensors(expected)
    folder = copy_beside(expected, tmp_path / "release", google_config(config), "bert_config.json")
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in tensors.items()
    }
    state["cls.seq_relationship.weight"] = np.ones((2, 32), np.float32)
    state["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    save_bin(folder / "pytorch_model.bin", state, _use_new_zipfile_serialization=not legacy)
    (folder / "README.md").write_text("how to use it")
    report = import_checkpoint(make_zip(tmp_path / "release.zip", folder, "chinese_wwm_ext_pytorch"), tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)
    assert report.counts() | {"renamed": 0} == {
        "read": len(tensors) + 2,
        "written": len(tensors),
        "ignored": 2,
        "split from fused tensors": 0,
        "renamed": 0,
        "transposed": 0,
        "scaled": 0,
        "first rows dropped": 0,
        "widened to float32": 0,
    }
    assert report.counts()["renamed"] == 16  # two for each of 8 LayerNorms
    assert report.ignored["cls.predictions.decoder.weight"] == REPEATED
    assert "next-sentence" in report.ignored["cls.seq_relationship.weight"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-bert", "out", "release", "release.zip"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        *TOKENIZER,
    ]


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("variant", ["bert", "albert-groups"])
def test_tf1_checkpoint(make_checkpoint, tmp_path: Path, variant: str, shards: int):
    expected = make_checkpoint(variant)
    tensors, config = read_tensors(expected)
    folder = copy_beside(
        expected,
        tmp_path / "tf1",
        google_config(config),
        "albert_config.json" if "albert" in variant else "bert_config.json",
    )
    save_tf1(folder / "bert_model.ckpt", google_tensors(tensors), shards)
    assert len(list(folder.glob("*.data-*"))) == shards
    report = import_checkpoint(folder / "bert_model.ckpt" if shards == 1 else folder, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)
    counts = report.counts()
    stored = len(tensors) + 2
    assert (counts["read"], counts["renamed"], counts["ignored"]) == (3 * stored + 1, len(tensors), 2 * stored + 1 + 2)
    assert counts["transposed"] == sum(
        "LayerNorm" not in n and "norm" not in n and "embeddings." not in n and n.endswith(".weight") for n in tensors
    )
    assert set(report.ignored.values()) >= {"an optimizer's slot", "training state"}
    assert any(note.startswith("hidden_act") for note in report.notes) == (config["hidden_act"] == "gelu")


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_tf1_names_are_those_transformers_reads(make_checkpoint, tmp_path: Path, family: str):
    """transformers' own TF1 loader puts the same numbers into the same places."""
    transformers = pytest.importorskip("transformers")
    expected = make_checkpoint(family)
    tensors, config = read_tensors(expected)
    save_tf1(tmp_path / "bert_model.ckpt", google_tensors(tensors), slots=False)
    module = getattr(transformers.models, family)
    loader = getattr(getattr(module, f"modeling_{family}"), f"load_tf_weights_in_{family}")
    model_class = {"bert": transformers.BertForPreTraining, "albert": transformers.AlbertForPreTraining}[family]
    model = model_class(transformers.AutoConfig.for_model(**config))
    loader(model, model.config, str(tmp_path / "bert_model.ckpt"))
    state = model.state_dict()
    different = [name for name, array in tensors.items() if not np.array_equal(state[name].numpy(), array)]
    assert not different


@pytest.mark.parametrize("variant", KERAS_LAYERS)
def test_keras_h5(make_checkpoint, tmp_path: Path, variant: str):
    expected = make_checkpoint(variant)
    tensors, _ = read_tensors(expected)
    folder = copy_beside(expected, tmp_path / "h5")
    if "predictions.bias" in tensors:
        tensors["predictions.decoder.bias"] = tensors["predictions.bias"]  # ALBERT's, which has both
    save_h5(folder / "tf_model.h5", tensors, "tf_some_model_1", KERAS_LAYERS[variant])
    import_checkpoint(folder, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)


def test_keras_h5_by_transformers(make_checkpoint, tmp_path: Path):
    """The real thing: transformers loads the PyTorch weights into its TensorFlow class, and saves that."""
    pytest.importorskip("tf_keras", reason="transformers' TensorFlow classes need tf_keras")
    transformers = pytest.importorskip("transformers")
    expected = make_checkpoint("bert", config={"num_hidden_layers": 1})
    tensors, _ = read_tensors(expected)
    torch_folder = copy_beside(expected, tmp_path / "torch")
    save_bin(torch_folder / "pytorch_model.bin", tensors)
    model = transformers.TFBertForPreTraining.from_pretrained(torch_folder, from_pt=True)
    folder = copy_beside(expected, tmp_path / "h5")
    model.save_pretrained(folder, safe_serialization=False)
    report = import_checkpoint(folder, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)
    assert sorted(set(report.ignored.values())) == sorted({REPEATED, "the next-sentence head; no output uses it"})


@pytest.mark.parametrize("safe", [False, True], ids=["h5", "safetensors"])
def test_albert_by_transformers_with_two_biases(make_checkpoint, tmp_path: Path, safe: bool):
    """Training moves the bias that TensorFlow's graph adds, and leaves the other as it was."""
    pytest.importorskip("tf_keras", reason="transformers' TensorFlow classes need tf_keras")
    transformers = pytest.importorskip("transformers")
    expected = make_checkpoint("albert", config={"num_hidden_layers": 1})
    tensors, _ = read_tensors(expected)
    torch_folder = copy_beside(expected, tmp_path / "torch")
    save_bin(torch_folder / "pytorch_model.bin", tensors)
    model = transformers.TFAlbertForMaskedLM.from_pretrained(torch_folder, from_pt=True)
    bias = tensors["predictions.bias"] + 1
    model.predictions.decoder_bias.assign(bias)
    folder = copy_beside(expected, tmp_path / "tf")
    model.save_pretrained(folder, safe_serialization=safe)
    report = import_checkpoint(folder, tmp_path / "out")
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        np.testing.assert_array_equal(checkpoint.array("predictions.bias"), bias)
        inputs = {"input_ids": np.array([[2, 7, 3]]), "attention_mask": np.ones((1, 3), int)}
        found = oracle.run(checkpoint, Inputs.of(**inputs), {"logits"})["logits"]
    np.testing.assert_allclose(found, model(inputs).logits.numpy(), atol=1e-4)
    assert "TensorFlow's ALBERT adds predictions.decoder.bias in its place" in report.ignored.values()


def test_flax_msgpack_by_flax(make_checkpoint, tmp_path: Path):
    """A tree that flax itself serialised, in the layout of FlaxBertForMaskedLM."""
    serialization = pytest.importorskip("flax.serialization")
    expected = make_checkpoint("bert")
    tensors, _ = read_tensors(expected)
    tree: dict = {}
    for name, array in tensors.items():
        *modules, leaf = name.split(".")
        branch = tree
        for part in modules:
            branch = branch.setdefault(part, {})
        table, norm = modules[-1].endswith("_embeddings"), modules[-1] == "LayerNorm"
        flax_leaf = {"bias": "bias", "weight": "embedding" if table else "scale" if norm else "kernel"}[leaf]
        branch[flax_leaf] = array.T if flax_leaf == "kernel" else array
    folder = copy_beside(expected, tmp_path / "flax")
    (folder / "flax_model.msgpack").write_bytes(serialization.to_bytes(tree))
    report = import_checkpoint(folder, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)
    assert report.counts()["transposed"] == 20


@pytest.mark.parametrize(
    "variant",
    ["bert-gamma-beta", "bert-no-prefix", "bert-sharded", "bert-decoder-copies", "bert-position-ids", "bert-untied"],
)
def test_safetensors_of_other_shapes(make_checkpoint, tmp_path: Path, variant: str):
    source = make_checkpoint(variant)
    import_checkpoint(source, tmp_path / "out")
    plain = make_checkpoint("bert-untied" if variant == "bert-untied" else "bert", name="expected")
    assert_same_checkpoint(tmp_path / "out", plain)


@pytest.mark.parametrize("variant", ["bert-fp16", "bert-bf16"])
def test_half_precision_is_widened_exactly(make_checkpoint, tmp_path: Path, variant: str):
    source = make_checkpoint(variant)
    report = import_checkpoint(source, tmp_path / "out")
    with Checkpoint.open(tmp_path / "out") as result, Checkpoint.open(source) as half:
        assert result.dtypes == {"F32": len(result.parameters())}
        assert all(np.array_equal(result.array(p.name), half.array(p.name)) for p in half.parameters())
    assert report.counts()["widened to float32"] == len(report.tensors)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_bin(make_checkpoint, tmp_path: Path, dtype: str):
    import torch

    expected = make_checkpoint("bert-bf16")
    tensors, _ = read_tensors(expected)  # values that bfloat16 holds; float16 holds these too, but for the smallest
    folder = copy_beside(expected, tmp_path / "half")
    state = {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in tensors.items()}
    torch.save(state, folder / "pytorch_model.bin")
    import_checkpoint(folder, tmp_path / "out")
    found, _ = read_tensors(tmp_path / "out")
    assert all(np.array_equal(found[name], state[name].to(torch.float32).numpy()) for name in state)


def test_sharded_bin(make_checkpoint, tmp_path: Path):
    expected = make_checkpoint("bert")
    tensors, _ = read_tensors(expected)
    folder = copy_beside(expected, tmp_path / "shards")
    weight_map = {name: f"pytorch_model-0000{1 + number % 2}-of-00002.bin" for number, name in enumerate(tensors)}
    for shard in set(weight_map.values()):
        save_bin(folder / shard, {name: tensors[name] for name in tensors if weight_map[name] == shard})
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    import_checkpoint(folder, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)


ARTIFACTS = [
    *(
        (target, variant)
        for target in ("pytorch", "flax")
        for variant in (
            "bert",
            "bert-untied",
            "bert-no-head",
            "albert-groups",
            "electra-discriminator",
            "megatron-bert",
        )
    ),
    # Tracing takes more than a second each.
    *(slow("tensorflow", variant) for variant in ("bert-untied", "albert-groups")),
]


@pytest.mark.parametrize(("target", "variant"), ARTIFACTS)
def test_artifacts_come_back(make_checkpoint, tmp_path: Path, target: str, variant: str):
    expected = make_checkpoint(variant, tokenizer_config={"do_lower_case": False})
    with Checkpoint.open(expected) as checkpoint:
        artifact = export_artifact(checkpoint, target, tmp_path / target)
    import_checkpoint(artifact, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings.items() >= {"do_lower_case": False, "strip_accents": None}.items()


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_bare_encoders_of_like_names(make_checkpoint, tmp_path: Path, family: str):
    """Without prefix and head, BERT and ELECTRA of one width have the same names: the configuration decides."""
    variant = "electra-generator-same-width" if family == "electra" else "bert"
    source = make_checkpoint(variant, task="features", prefix=False, pooler=False)
    assert import_checkpoint(source, tmp_path / "out").model_type == family
    raw = json.loads((source / "config.json").read_text())
    del raw["model_type"]
    (source / "config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match="do not say which family"):
        import_checkpoint(source, tmp_path / "out-2")


def test_config_is_canonical(make_checkpoint, tmp_path: Path):
    source = make_checkpoint("albert")
    raw = json.loads((source / "config.json").read_text())
    for key in ("hidden_act", "layer_norm_eps", "pad_token_id", "model_type", "architectures"):
        del raw[key]
    raw["embedding_size"], raw["torch_dtype"], raw["_name_or_path"] = 16, "float16", "/home/somebody"
    (source / "config.json").write_text(json.dumps(raw))
    import_checkpoint(source, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    for key in ("torch_dtype", "_name_or_path"):
        del raw[key]
    written_out = {"model_type": "albert", "hidden_act": "gelu_new", "layer_norm_eps": 1e-12, "pad_token_id": 0}
    assert config == {**raw, **written_out, "architectures": ["AlbertForMaskedLM"], "dtype": "float32"}


def test_the_best_of_several_files_is_read(make_checkpoint, tmp_path: Path):
    source = make_checkpoint("bert")
    (source / "tf_model.h5").write_bytes(b"not read")
    (source / "generation_config.json").write_text("{}")
    report = import_checkpoint(source, tmp_path / "out")
    assert report.unread == {"tf_model.h5": "model.safetensors was read instead"}


def test_a_file_is_read_with_what_lies_beside_it_or_is_given(make_checkpoint, tmp_path: Path):
    expected = make_checkpoint("bert")
    tensors, _ = read_tensors(expected)
    (tmp_path / "alone").mkdir()
    write_tensors(tmp_path / "alone" / "weights.safetensors", tensors)
    import_checkpoint(
        tmp_path / "alone" / "weights.safetensors",
        tmp_path / "out",
        config=expected / "config.json",
        vocab=expected / "vocab.txt",
    )
    assert_same_checkpoint(tmp_path / "out", expected)
    write_variant(tmp_path / "alone", "bert")
    import_checkpoint(tmp_path / "alone" / "weights.safetensors", tmp_path / "out-2")
    assert_same_checkpoint(tmp_path / "out-2", expected)


def test_imports_are_equal_byte_for_byte(make_checkpoint, tmp_path: Path):
    source = make_checkpoint("bert-gamma-beta")
    one, two = (import_checkpoint(source, tmp_path / name) for name in ("one", "two"))
    assert one.sha256 == two.sha256
    assert one.sha256.keys() == {"config.json", "model.safetensors", *TOKENIZER}

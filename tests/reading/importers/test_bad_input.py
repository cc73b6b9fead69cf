"""What cannot be imported is refused with one clear error, and nothing is written."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.reading.importers.foreign_files import (
    copy_beside,
    google_config,
    google_tensors,
    make_zip,
    read_tensors,
    save_bin,
    save_h5,
    save_tf1,
)
from tests.reading.importers.uer_reference import uer_config, uer_state
from yizhi.errors import InputError
from yizhi.reading.importers import import_checkpoint


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[[Path], list[str]]:
    """The faults of an import that must fail and leave nothing."""

    def check(source: Path, **options: object) -> list[str]:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError) as caught:
            import_checkpoint(source, tmp_path / "out", **options)
        assert sorted(tmp_path.rglob("*")) == before
        assert ".partial" not in str(caught.value)
        return caught.value.faults

    return check


def test_brightmarts_albert(make_checkpoint, tmp_path: Path, refuse):
    folder = copy_beside(make_checkpoint("albert"), tmp_path / "brightmart", name="albert_config_large.json")
    tensors = {
        "bert/embeddings/word_embeddings": np.ones((116, 16), np.float32),
        "bert/embeddings/word_embeddings_2": np.ones((16, 32), np.float32),
        "bert/encoder/layer_shared/attention/self/query/kernel": np.ones((32, 32), np.float32),
    }
    save_tf1(folder / "albert_model.ckpt", tensors)
    (fault,) = refuse(folder)
    assert "brightmart's ALBERT" in fault
    assert "positions at the hidden width" in fault


@pytest.mark.parametrize("save", [save_bin, lambda path, tensors: save_h5(path, tensors, "m", {"bert": "bert"})])
def test_brightmarts_names_in_other_formats(make_checkpoint, tmp_path: Path, refuse, save):
    folder = copy_beside(make_checkpoint("albert"), tmp_path / "brightmart")
    tensors = {"bert.encoder.layer_shared.attention.self.query.weight": np.ones((2, 2), np.float32)}
    save(folder / ("pytorch_model.bin" if save is save_bin else "tf_model.h5"), tensors)
    assert "brightmart's ALBERT" in refuse(folder)[0]


def test_uers_config_with_transformers_tensors(make_checkpoint, tmp_path: Path, refuse):
    source = make_checkpoint("bert")
    tensors, config = read_tensors(source)
    folder = copy_beside(source, tmp_path / "mixed", uer_config(config))
    save_bin(folder / "pytorch_model.bin", tensors)
    (fault,) = refuse(folder)
    assert fault.startswith("is a UER-py config (layers_num, heads_num), but the tensors are not UER-py's")


def test_transformers_config_with_uers_tensors(make_checkpoint, tmp_path: Path, refuse):
    source = make_checkpoint("bert")
    tensors, config = read_tensors(source)
    folder = copy_beside(source, tmp_path / "mixed")
    save_bin(folder / "model.bin", uer_state(tensors, config))
    (fault,) = refuse(folder)
    assert fault.startswith("the tensors are UER-py's: expected UER-py's own config")


@pytest.mark.parametrize(
    "tensors_of", ["bert", "albert", "electra-generator", "electra-discriminator", "megatron-bert"]
)
@pytest.mark.parametrize("config_of", ["bert", "albert", "electra-generator", "megatron-bert"])
def test_a_config_of_another_family(make_checkpoint, tmp_path: Path, refuse, config_of: str, tensors_of: str):
    source = make_checkpoint(tensors_of)
    (source / "config.json").write_bytes((make_checkpoint(config_of, name="other") / "config.json").read_bytes())
    family = tensors_of.removesuffix("-generator").removesuffix("-discriminator")
    if config_of == tensors_of:
        import_checkpoint(source, tmp_path / "out")
        return
    (fault,) = refuse(source)
    if tensors_of == "electra-discriminator" and config_of == "electra-generator":
        assert fault.startswith("says ElectraForMaskedLM, but the tensors are a discriminator's")
    else:
        assert (
            fault
            == f"model_type: found {config_of.removesuffix('-generator')!r}, but the tensors are named as {family!r}'s"
        )


def test_googles_config_of_another_family(make_checkpoint, tmp_path: Path, refuse):
    """A Google config does not say its family; its sizes then do not fit."""
    source = make_checkpoint("albert")
    tensors, _ = read_tensors(source)
    _, config = read_tensors(make_checkpoint("bert"))
    folder = copy_beside(
        source, tmp_path / "mixed", {**google_config(config), "embedding_size": 24}, "bert_config.json"
    )
    save_tf1(folder / "model.ckpt", google_tensors(tensors), slots=False)
    table = "bert/embeddings/word_embeddings (here albert.embeddings.word_embeddings.weight)"
    assert f"{table}: expected [116, 24]; found [116, 16]" in refuse(folder)


def test_roberta_is_explained(make_checkpoint, refuse):
    source = make_checkpoint("bert")
    raw = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**raw, "model_type": "roberta"}))
    (fault,) = refuse(source)
    assert "RoBERTa-wwm-ext and its relatives are BERT models" in fault


def test_an_index_without_data(shared_data: Path, refuse):
    (fault,) = refuse(
        shared_data / "tf1" / "bert_model.ckpt.index",
        config=shared_data / "configs" / "bert-base-chinese" / "bert_config.json",
        vocab=shared_data / "vocab" / "vocab.txt",
    )
    assert (
        fault == "bert_model.ckpt.data-00000-of-00001: the data file is missing, and the index alone holds no weights"
    )


def test_data_without_an_index(make_checkpoint, tmp_path: Path, refuse):
    folder = copy_beside(make_checkpoint("bert"), tmp_path / "tf1")
    (folder / "bert_model.ckpt.data-00000-of-00001").write_bytes(b"")
    assert refuse(folder) == ["has a TensorFlow checkpoint's data file, but not its .index"]


def test_damaged_tf1_data(make_checkpoint, tmp_path: Path, refuse):
    source = make_checkpoint("bert")
    tensors, _ = read_tensors(source)
    folder = copy_beside(source, tmp_path / "tf1")
    save_tf1(folder / "model.ckpt", google_tensors(tensors), slots=False)
    path = folder / "model.ckpt.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 4
    path.write_bytes(data)
    (fault,) = refuse(make_zip(tmp_path / "tf1.zip", folder))
    assert "expected CRC32C" in fault


@pytest.mark.parametrize(
    "name",
    [
        "tf_model.h5",
        "flax_model.msgpack",
        "model.safetensors",
        "pytorch_model.bin",
        "model.ckpt.index",
        "saved_model.pb",
    ],
)
@pytest.mark.parametrize("content", [b"", b"\x93abc", bytes(3000), b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_files_that_are_something_else(make_checkpoint, tmp_path: Path, refuse, name: str, content: bytes):
    folder = copy_beside(make_checkpoint("bert"), tmp_path / "broken")
    (folder / name).write_bytes(content)
    assert len(refuse(folder)) == 1


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack"])
def test_cut_files(make_checkpoint, tmp_path: Path, refuse, name: str):
    source = make_checkpoint("bert")
    tensors, _ = read_tensors(source)
    folder = copy_beside(source, tmp_path / "cut")
    if name == "tf_model.h5":
        save_h5(folder / name, tensors, "model", {"bert": "bert", "cls": "mlm___cls"})
    else:
        from tests.artifacts import export_artifact
        from yizhi.reading.checkpoint import Checkpoint

        with Checkpoint.open(source) as checkpoint:
            (folder / name).write_bytes((export_artifact(checkpoint, "flax", tmp_path / "flax") / name).read_bytes())
    data = (folder / name).read_bytes()
    for size in (len(data) // 3, len(data) - 1):
        (folder / name).write_bytes(data[:size])
        assert len(refuse(folder)) == 1


def test_copies_of_a_tensor_that_differ(make_checkpoint, tmp_path: Path, refuse):
    """An .h5 repeats the embeddings beside the head; which of two different ones is meant, nobody knows."""
    import h5py

    source = make_checkpoint("bert")
    tensors, _ = read_tensors(source)
    folder = copy_beside(source, tmp_path / "h5")
    save_h5(folder / "tf_model.h5", tensors, "model", {"bert": "bert", "cls": "mlm___cls"})
    words = "model/bert/embeddings/word_embeddings/weight:0"
    with h5py.File(folder / "tf_model.h5", "a") as file:
        file[f"mlm___cls/{words}"] = tensors["bert.embeddings.word_embeddings.weight"] + 1
    (fault,) = refuse(folder)
    assert fault == f"mlm___cls/{words}: differs from bert/{words}, which is bert.embeddings.word_embeddings.weight too"


def test_links_in_an_h5_file(make_checkpoint, tmp_path: Path, refuse):
    import h5py

    folder = copy_beside(make_checkpoint("bert"), tmp_path / "h5")
    with h5py.File(folder / "tf_model.h5", "w") as file:
        file["a"] = h5py.ExternalLink("/etc/hostname", "x")
        file["b"] = h5py.SoftLink("/")
        file.create_dataset("c", (4,), "f4", external=[(str(folder / "vocab.txt"), 0, 16)])
    assert refuse(folder) == ["a: is a link", "b: is a link", "c: its values are not in this file"]


def test_what_is_missing_is_said_together(tmp_path: Path, refuse):
    folder = tmp_path / "empty"
    folder.mkdir()
    faults = refuse(folder)
    assert len(faults) == 3
    assert faults[0].startswith("holds no weights: expected one of model.safetensors, pytorch_model.bin, tf_model.h5")
    assert faults[1:] == ["has no config.json: give it with `config`", "has no vocab.txt: give it with `vocab`"]


def test_several_weights_are_not_guessed(make_checkpoint, tmp_path: Path, refuse):
    folder = copy_beside(make_checkpoint("bert"), tmp_path / "two")
    for name in ("one.bin", "two.bin"):
        save_bin(folder / name, {"a": np.ones(2)})
    assert refuse(folder) == ["holds 2 files of weights (one.bin, two.bin): name one of them"]


@pytest.mark.parametrize("name", ["tf_model-{}.h5", "flax_model-{}.msgpack"])
def test_shards_that_are_not_put_together(make_checkpoint, tmp_path: Path, refuse, name: str):
    """`name one of them` was the advice, and one shard is no checkpoint."""
    folder = copy_beside(make_checkpoint("bert"), tmp_path / "shards")
    for number in (1, 2):
        (folder / name.format(f"{number:05d}-of-00002")).write_bytes(b"")
    assert "2 shards, which cannot be joined here: save it as one file" in refuse(folder)[0]


def test_onnx_is_not_imported(make_checkpoint, tmp_path: Path, refuse):
    folder = copy_beside(make_checkpoint("bert"), tmp_path / "onnx")
    (folder / "model.onnx").write_bytes(b"")
    assert "is an ONNX model, which is not imported" in refuse(folder)[0]


def test_a_vocabulary_of_another_size(make_checkpoint, refuse):
    source = make_checkpoint("bert")
    (source / "vocab.txt").write_text((source / "vocab.txt").read_text() + "more\n")
    assert refuse(source) == ["vocabulary: expected 116 tokens (config.json vocab_size); found 117"]


def test_no_such_source(tmp_path: Path, refuse):
    assert refuse(tmp_path / "nowhere") == ["no such file or folder"]


def test_an_existing_folder_is_left_alone(make_checkpoint, tmp_path: Path):
    source = make_checkpoint("bert")
    for out in (source, tmp_path):
        with pytest.raises(InputError, match="exists already"):
            import_checkpoint(source, out)
    assert sorted(path.name for path in source.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("pytorch_model.bin", "torch"),
        ("tf_model.h5", "h5py"),
        ("flax_model.msgpack", "msgpack"),
        ("m.index", "google_crc32c"),
    ],
)
def test_what_to_install_is_said(make_checkpoint, tmp_path: Path, refuse, monkeypatch, name: str, module: str):
    folder = copy_beside(make_checkpoint("bert"), tmp_path / "release")
    save_tf1(folder / "m", {"a": np.ones(2, np.float32)}, slots=False) if name == "m.index" else (folder / name).touch()
    monkeypatch.setitem(sys.modules, module, None)
    (fault,) = refuse(folder)
    assert "pip install 'yizhi[import]'" in fault

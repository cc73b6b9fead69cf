"""The files of a checkpoint, its index, and its vocabulary: read exactly, or refused with every fault."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import (
    VARIANTS,
    VOCAB,
    expected_tensors,
    small_config,
    write_json,
    write_tensors,
)
from tests.open_files import faults_of
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.tokenizer_sources import read_vocab

WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
DECODER = "cls.predictions.decoder.weight"
SHARD = "model-00002-of-00003.safetensors"
NO_WEIGHTS = (
    "has neither model.safetensors nor model.safetensors.index.json; `yizhi import` converts other projects' files"
)
FP32_VARIANTS = [name for name, arguments in VARIANTS.items() if "dtype" not in arguments]


# --- files ---------------------------------------------------------------------------------------


def test_a_single_file_beside_its_config(make_checkpoint):
    folder = make_checkpoint()
    (folder / "model.safetensors").rename(folder / "epoch-3.safetensors")
    with Checkpoint.open(folder / "epoch-3.safetensors") as checkpoint:
        assert len(checkpoint.parameters()) == 60
    assert faults_of(folder) == [NO_WEIGHTS]
    assert faults_of(folder / "no.safetensors") == ["no.safetensors: the file is missing"]


def test_faults_of_all_files_come_together(make_checkpoint):
    folder = make_checkpoint()
    write_json(folder / "config.json", small_config(hidden_act="swish"))
    (folder / "vocab.txt").write_bytes(b"\xff")
    os.truncate(folder / "model.safetensors", 1000)
    assert [fault.split(":")[0] for fault in faults_of(folder)] == ["config.json", "vocab.txt", "model.safetensors"]


def test_an_empty_folder_and_no_folder(tmp_path):
    assert [fault.split(":")[0] for fault in faults_of(tmp_path)] == [
        "config.json",
        "vocab.txt",
        NO_WEIGHTS,
    ]
    assert faults_of(tmp_path / "nowhere") == ["no such checkpoint folder"]


def test_a_pickle_is_not_read(make_checkpoint):
    folder = make_checkpoint()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (fault,) = faults_of(folder)
    assert "yizhi import" in fault


def edit_index(folder: Path, edit: Callable[[dict], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index["weight_map"])
    write_json(path, index)


def test_a_missing_shard(make_checkpoint):
    folder = make_checkpoint("bert-sharded")
    (folder / SHARD).unlink()
    assert faults_of(folder) == [f"model.safetensors.index.json: {SHARD}: the shard is missing"]


def test_every_broken_shard_is_named(make_checkpoint):
    folder = make_checkpoint("bert-sharded")
    for name in (SHARD, SHARD.replace("2", "3", 1)):
        os.truncate(folder / name, 4000)
    assert {fault.split(":")[0] for fault in faults_of(folder)} == {SHARD, SHARD.replace("2", "3", 1)}


def test_an_index_that_lies(make_checkpoint):
    folder = make_checkpoint("bert-sharded")

    def edit(weight_map):
        weight_map["ghost"] = SHARD  # a buffer or a tied tensor, which is not stored: no lie
        weight_map[WORD_EMBEDDINGS] = SHARD
        del weight_map[QUERY]

    there = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    edit_index(folder, edit)
    prefix = "model.safetensors.index.json: "
    assert faults_of(folder) == [
        f"{prefix}{WORD_EMBEDDINGS}: the index says {SHARD}; found in {there[WORD_EMBEDDINGS]}",
        f"{prefix}{QUERY}: the index says nothing; found in {there[QUERY]}",
    ]


def test_one_tensor_in_two_shards(make_checkpoint):
    folder = make_checkpoint("bert-sharded")
    where = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    extra = {WORD_EMBEDDINGS: expected_tensors("bert")[WORD_EMBEDDINGS]}
    own = {name: array for name, array in expected_tensors("bert").items() if where[name] == SHARD}
    write_tensors(folder / SHARD, own | extra)
    (fault, *_) = faults_of(folder)
    assert f"found in {where[WORD_EMBEDDINGS]} and {SHARD}" in fault


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/x.safetensors", "x.bin", "", 7, ["a.safetensors"]])
def test_an_index_names_files_of_its_own_folder_only(make_checkpoint, name):
    folder = make_checkpoint("bert-sharded")
    edit_index(folder, lambda weight_map: weight_map.update({QUERY: name}))
    (fault,) = faults_of(folder)
    assert fault.startswith("model.safetensors.index.json: weight_map: ")


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": []}, []])
def test_an_index_without_a_map(make_checkpoint, index):
    folder = make_checkpoint("bert-sharded")
    write_json(folder / "model.safetensors.index.json", index)
    (fault,) = faults_of(folder)
    assert fault.startswith("model.safetensors.index.json: ")


def test_digest_covers_every_file_that_was_read(make_checkpoint):
    folder = make_checkpoint("bert-sharded", tokenizer_config={"do_lower_case": False})
    with Checkpoint.open(folder) as checkpoint:
        before = checkpoint.digest()
    names = {path.name for path in folder.iterdir()} - {"model.safetensors.index.json"}
    assert before.keys() == names
    with open(folder / SHARD, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with Checkpoint.open(folder) as checkpoint:
        assert [name for name, digest in checkpoint.digest().items() if digest != before[name]] == [SHARD]


def test_published_config_carries_no_path_and_no_code(make_checkpoint):
    config = small_config(
        _name_or_path="/home/somebody/model", auto_map={"AutoModel": "evil.Model"}, torch_dtype="float16", kept=1
    )
    folder = make_checkpoint()
    write_json(folder / "config.json", config)
    with Checkpoint.open(folder) as checkpoint:
        published = checkpoint.published_config()
    assert published == {**small_config(), "kept": 1, "architectures": ["BertForMaskedLM"], "dtype": "float32"}


# --- vocabulary ----------------------------------------------------------------------------------


def test_a_vocabulary_of_another_size(make_checkpoint):
    assert faults_of(make_checkpoint(vocab=VOCAB[:-1])) == [
        "vocabulary: expected 116 tokens (config.json vocab_size); found 115"
    ]


def test_entries_that_hold_line_separators(make_checkpoint):
    vocab = [*VOCAB[:-4], "\u2028", "##\u2028", "\x85", "\x0c"]
    with Checkpoint.open(make_checkpoint(vocab=vocab)) as checkpoint:
        assert checkpoint.vocab == vocab


def test_the_published_vocabulary(shared_data):
    vocab = read_vocab(shared_data / "vocab" / "vocab.txt")
    assert len(vocab) == 21128
    assert ("\u2028" in vocab[343], "\u2028" in vocab[13502]) == (True, True)
    assert (vocab[101], vocab[103], vocab[21127]) == ("[CLS]", "[MASK]", "##😎")

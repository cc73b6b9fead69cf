"""Folders and files that are ordinary where people train: wrappers' prefixes, other frameworks' safetensors, zips."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.checkpoints import small_config, write_json
from tests.reading.importers.foreign_files import assert_same_checkpoint, copy_beside, read_tensors
from yizhi.errors import InputError
from yizhi.model.config import EncoderConfig
from yizhi.model.label_heads import LABEL_HEADS, SEQUENCE, label_head
from yizhi.reading.checkpoint import INDEX, Checkpoint
from yizhi.reading.importers import import_checkpoint


def faults_of(folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        Checkpoint.open(folder)
    return caught.value.faults


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "model.module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_prefixes_of_wrapping_modules(make_checkpoint, tmp_path, prefix, wrapped):
    torch = pytest.importorskip("torch")
    expected = make_checkpoint("bert")
    folder = copy_beside(expected, tmp_path / "source")
    state = {prefix + name: torch.from_numpy(array) for name, array in read_tensors(expected)[0].items()}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, folder / "pytorch_model.bin")
    import_checkpoint(folder, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_tied_decoder_keeps_its_head(make_checkpoint, tmp_path, prefix):
    """All of its names begin with `model.`, and no tensor is its head's."""
    torch = pytest.importorskip("torch")
    expected = make_checkpoint("qwen3", config={"tie_word_embeddings": True})
    folder = copy_beside(expected, tmp_path / "source")
    state = {prefix + name: torch.from_numpy(array) for name, array in read_tensors(expected)[0].items()}
    torch.save(state, folder / "pytorch_model.bin")
    assert import_checkpoint(folder, tmp_path / "out").task == "text-generation"
    assert_same_checkpoint(tmp_path / "out", expected)


def averaged(state):
    return {name: value + 1 for name, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "named"),
    [
        (lambda state: {"state_dict": state, "state_dict_ema": averaged(state)}, "state_dict_ema"),
        (lambda state: {"model": state, "ema": averaged(state), "epoch": 3, "optimizer": {"state": {}}}, "ema"),
        (lambda state: {**state, **{f"ema.{name}": value for name, value in averaged(state).items()}}, "ema"),
        (
            lambda state: {
                "state_dict": {
                    **{f"model.{name}": value for name, value in state.items()},
                    **{f"model_ema.{name.replace('.', '')}": value for name, value in averaged(state).items()},
                }
            },
            "model_ema",
        ),
        (lambda state: {"model_state_dict": state}, None),
    ],
)
def test_moving_averages_are_left_out_and_named(make_checkpoint, tmp_path, wrap, named):
    torch = pytest.importorskip("torch")
    expected = make_checkpoint("bert")
    folder = copy_beside(expected, tmp_path / "source")
    state = {name: torch.from_numpy(array) for name, array in read_tensors(expected)[0].items()}
    torch.save(wrap(state), folder / "pytorch_model.bin")
    report = import_checkpoint(folder, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)
    said = [note for note in report.notes if "moving average" in note]
    assert said == ([f"{named}: a moving average of the weights, which is not read"] if named else [])


def test_other_tensors_beside_the_weights_are_refused(make_checkpoint, tmp_path):
    torch = pytest.importorskip("torch")
    folder = copy_beside(make_checkpoint("bert"), tmp_path / "source")
    state = {name: torch.from_numpy(array) for name, array in read_tensors(make_checkpoint("bert"))[0].items()}
    torch.save({"model": state, "head": {"weight": torch.ones(2)}}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="'head': tensors beside 'model'"):
        import_checkpoint(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "beside",
    [
        {"teacher": {"module": {"weight": 1}, "decay": 0.9}},
        {"shadow": [1]},
        {"model": {"step": 3, "weight": 1}},
    ],
)
def test_tensors_anywhere_beside_the_weights_are_refused(make_checkpoint, tmp_path, beside):
    torch = pytest.importorskip("torch")
    folder = copy_beside(make_checkpoint("bert"), tmp_path / "source")
    state = {name: torch.from_numpy(array) for name, array in read_tensors(make_checkpoint("bert"))[0].items()}

    def fill(value):
        if isinstance(value, dict):
            return {name: fill(inner) if name not in ("step", "decay") else inner for name, inner in value.items()}
        return [torch.ones(2)] if isinstance(value, list) else torch.ones(2)

    torch.save({"state_dict": state, **fill(beside)}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=f"'{next(iter(beside))}': tensors beside 'state_dict'"):
        import_checkpoint(folder, tmp_path / "out")


def test_a_training_loop_s_state_is_passed_over(make_checkpoint, tmp_path):
    torch = pytest.importorskip("torch")
    expected = make_checkpoint("bert")
    folder = copy_beside(expected, tmp_path / "source")
    state = {f"_orig_mod.{name}": torch.from_numpy(array) for name, array in read_tensors(expected)[0].items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(9)}}, "param_groups": [{"lr": 0.1}]}
    torch.save(
        {"model": state, "optimizer": optimizer, "rng_state": torch.ones(9), "epoch": 2}, folder / "pytorch_model.bin"
    )
    import_checkpoint(folder, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)


def test_odd_tensors_of_a_bin(make_checkpoint, tmp_path):
    torch = pytest.importorskip("torch")
    expected = make_checkpoint("bert", dtype="BF16")
    folder = copy_beside(expected, tmp_path / "source")
    tensors = {name: torch.from_numpy(array) for name, array in read_tensors(expected)[0].items()}
    name, bias = "bert.pooler.dense.weight", "bert.pooler.dense.bias"
    state = {**tensors, name: torch.nn.Parameter(tensors[name].bfloat16()), bias: torch._neg_view(-tensors[bias])}
    torch.save(state, folder / "pytorch_model.bin")
    import_checkpoint(folder, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)
    torch.save({**state, name: torch.empty(2, device="meta")}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=rf"'{name}': expected a tensor; found one without values \(meta\)"):
        import_checkpoint(folder, tmp_path / "meta")


def tensorflow_name(name: str, shape: tuple[int, ...]) -> str:
    parts = name.replace("layer.", "layer_-_").split(".")
    leaf = parts.pop()
    if parts[-1] == "LayerNorm":
        leaf = {"weight": "gamma", "bias": "beta"}[leaf]
    elif leaf == "weight":
        leaf = "weight" if parts[-1] == "word_embeddings" else "embeddings" if "embeddings" in parts[-1] else "kernel"
    path = "/".join(parts).replace("cls/", "mlm___cls/").replace("_-_", "_._")
    return f"{path}/{leaf}:0"


def flax_name(name: str, shape: tuple[int, ...]) -> str:
    *modules, leaf = name.split(".")
    if leaf == "weight":
        kind = modules[-1]
        leaf = "scale" if kind == "LayerNorm" else "embedding" if "embeddings" in kind else "kernel"
    return ".".join([*modules, leaf])


@pytest.mark.parametrize(("kind", "rename"), [("tf", tensorflow_name), ("flax", flax_name)])
def test_safetensors_of_other_frameworks(make_checkpoint, tmp_path, kind, rename):
    expected = make_checkpoint("bert")
    folder = copy_beside(expected, tmp_path / kind)
    stored = {}
    for name, array in read_tensors(expected)[0].items():
        renamed = rename(name, array.shape)
        stored[renamed] = (
            np.ascontiguousarray(array.T) if "kernel" in renamed.rpartition("/")[2] + renamed[-6:] else array
        )
    save_file(stored, folder / "model.safetensors", metadata={"format": kind})
    assert faults_of(folder) == [
        f"the tensors have the names and orientation of format {kind!r}: `yizhi import` reads them"
    ]
    report = import_checkpoint(folder, tmp_path / "out")
    assert report.format == f"safetensors ({kind})"
    assert_same_checkpoint(tmp_path / "out", expected)


def test_a_release_zip_as_people_make_them(make_checkpoint, tmp_path):
    expected = make_checkpoint("bert")
    path = tmp_path / "release.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in expected.iterdir():
            archive.write(file, f"chinese_bert/{file.name}")
        for junk in ("chinese_bert/.DS_Store", ".DS_Store", "__MACOSX/._chinese_bert", "README.md"):
            archive.writestr(junk, "junk")
    import_checkpoint(path, tmp_path / "out")
    assert_same_checkpoint(tmp_path / "out", expected)


def test_a_git_lfs_pointer_is_called_one(make_checkpoint):
    folder = make_checkpoint()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:45bb\nsize 411577974\n"
    (folder / "model.safetensors").write_text(pointer)
    (fault,) = faults_of(folder)
    assert fault.startswith("model.safetensors: is a Git LFS pointer, not the weights: `git lfs pull`")


def test_an_index_may_list_what_is_tied_and_not_stored(make_checkpoint):
    folder = make_checkpoint("bert-sharded")
    index = json.loads((folder / INDEX).read_text())
    shard = next(iter(index["weight_map"].values()))
    index["weight_map"] |= {"cls.predictions.decoder.weight": shard, "bert.embeddings.position_ids": shard}
    write_json(folder / INDEX, index)
    Checkpoint.open(folder).close()
    needed = "bert.embeddings.LayerNorm.bias"
    assert needed in index["weight_map"]


@pytest.mark.parametrize("command", ["open", "import"])
def test_a_lora_folder_is_called_an_adapter(make_checkpoint, tmp_path, command):
    folder = tmp_path / "lora"
    folder.mkdir()
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "bert-base-chinese"})
    (folder / "adapter_model.safetensors").write_bytes((make_checkpoint() / "model.safetensors").read_bytes())
    with pytest.raises(InputError) as caught:
        Checkpoint.open(folder) if command == "open" else import_checkpoint(folder, tmp_path / "out")
    assert any(fault.startswith("adapter_config.json: is an adapter") for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({"label2id": {"差": 0, "中": 1, "好": 2}}, ("差", "中", "好")),
        ({"label2id": {"好": 2, "差": 0, "中": 1}}, ("差", "中", "好")),
        ({"id2label": {"2": "好", "0": "差", "1": "中"}}, ("差", "中", "好")),
        ({"id2label": {"0": 1, "1": 2}}, ("1", "2")),
        # transformers overlooks label2id where the two labels it expects may be these.
        ({"label2id": {"好": 1, "差": 0}}, ("LABEL_0", "LABEL_1")),
        ({"label2id": {"差": 0, "中": 1, "好": 2}, "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
    ],
)
def test_labels_as_transformers_takes_them(config, labels):
    parsed = EncoderConfig.from_dict(small_config(**config))
    assert label_head(LABEL_HEADS[SEQUENCE], SEQUENCE, parsed).labels == labels


def test_embeddings_padded_beyond_the_vocabulary(make_checkpoint, tmp_path):
    """Rows are kept, and ids without a token are refused."""
    from tests.artifacts import export_artifact
    from yizhi.runtimes import FillMask, open_runtime

    folder = make_checkpoint(config={"vocab_size": 128})
    with Checkpoint.open(folder) as checkpoint:
        artifact = export_artifact(checkpoint, "pytorch", tmp_path / "artifact")
    with open_runtime(artifact) as runtime:
        assert runtime.run({"input_ids": [[2, 115, 3]]})["logits"].shape == (1, 3, 128)
        with pytest.raises(InputError, match=r"expected 0 … 115; found 116"):
            runtime.run({"input_ids": [[2, 116, 3]]})
        assert len(FillMask(runtime)("[MASK]", top_k=116)[0]) == 116

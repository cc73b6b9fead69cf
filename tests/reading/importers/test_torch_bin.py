import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.reading.importers.foreign_files import copy_beside, make_zip, read_tensors, save_bin
from yizhi.errors import InputError
from yizhi.reading.importers import import_checkpoint

torch = pytest.importorskip("torch")


class Payload:
    """Unpickled in the usual way, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def folder(make_checkpoint, tmp_path: Path) -> Path:
    return copy_beside(make_checkpoint("bert"), tmp_path / "release")


def refuse(folder: Path, out: Path) -> str:
    with pytest.raises(InputError) as caught:
        import_checkpoint(folder, out)
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle", "in a released zip"])
def test_a_payload_is_refused_and_does_not_run(folder: Path, tmp_path: Path, form: str):
    touched = tmp_path / "touched"
    state = {"bert.embeddings.word_embeddings.weight": torch.zeros(2), "x": Payload(touched)}
    if form == "plain pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(state))
    else:
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=form != "legacy")
    source = make_zip(tmp_path / "release.zip", folder) if form == "in a released zip" else folder
    message = refuse(source, tmp_path / "out")
    assert "holds more than tensors" in message
    assert "nothing in it was run" in message
    assert str(source / "pytorch_model.bin") in message
    assert not touched.exists()
    with open(folder / "pytorch_model.bin", "rb") as file:  # the payload is a real one
        torch.load(file, weights_only=False) if form != "plain pickle" else pickle.load(file)
    assert touched.exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04.", b"PK\x03\x04broken"])
def test_what_is_no_torch_file(folder: Path, tmp_path: Path, content: bytes):
    (folder / "pytorch_model.bin").write_bytes(content)
    assert "damaged" in refuse(folder, tmp_path / "out")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_cut_file(folder: Path, tmp_path: Path, make_checkpoint, legacy: bool):
    path = folder / "pytorch_model.bin"
    save_bin(path, read_tensors(make_checkpoint("bert"))[0], _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    for size in (100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        assert "damaged" in refuse(folder, tmp_path / "out")


def test_what_is_no_state_dictionary(folder: Path, tmp_path: Path):
    torch.save([torch.zeros(2)], folder / "pytorch_model.bin")
    assert "expected a dictionary of tensors; found list" in refuse(folder, tmp_path / "out")
    torch.save({"epoch": 3, "weights": {"a": torch.zeros(2)}}, folder / "pytorch_model.bin")
    message = refuse(folder, tmp_path / "out")
    assert "'epoch': expected a tensor; found int" in message
    assert "'weights': expected a tensor; found dict" in message


def test_unusual_tensors_are_read_as_they_are(folder: Path, tmp_path: Path, make_checkpoint):
    """Parameters, tensors that share storage, and those that are not contiguous."""
    tensors, _ = read_tensors(make_checkpoint("bert"))
    state = {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in tensors.items()}
    query = "bert.encoder.layer.0.attention.self.query.weight"
    state[query] = torch.from_numpy(np.ascontiguousarray(tensors[query].T)).T
    both = torch.from_numpy(
        np.concatenate([tensors[name] for name in ("bert.pooler.dense.bias", "bert.embeddings.LayerNorm.bias")])
    )
    state["bert.pooler.dense.bias"], state["bert.embeddings.LayerNorm.bias"] = both[:32], both[32:]
    torch.save(state, folder / "pytorch_model.bin")
    import_checkpoint(folder, tmp_path / "out")
    found, _ = read_tensors(tmp_path / "out")
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (torch.zeros(116, 32, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(116, 32).to_sparse(), "expected a tensor"),
    ],
)
def test_tensors_that_are_no_weights(folder: Path, tmp_path: Path, make_checkpoint, value: object, fault: str):
    tensors, _ = read_tensors(make_checkpoint("bert"))
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    torch.save({**state, "bert.embeddings.word_embeddings.weight": value}, folder / "pytorch_model.bin")
    assert fault in refuse(folder, tmp_path / "out")


def test_nan_is_refused(folder: Path, tmp_path: Path, make_checkpoint):
    tensors, _ = read_tensors(make_checkpoint("bert"))
    tensors["bert.pooler.dense.bias"][3] = np.nan
    save_bin(folder / "pytorch_model.bin", tensors)
    assert "bert.pooler.dense.bias: 1 of 32 values are NaN" in refuse(folder, tmp_path / "out")


def test_a_missing_shard_is_named(folder: Path, tmp_path: Path):
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "one.bin", "b": "../two.bin"}}')
    assert "the name of a file in this folder" in refuse(folder, tmp_path / "out")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "one.bin"}}')
    assert "one.bin: the shard is missing" in refuse(folder, tmp_path / "out")
    (folder / "pytorch_model.bin.index.json").write_text(f'{{"weight_map": {{"a": "{"b" * 5000}"}}}}')
    assert "the shard is missing" in refuse(folder, tmp_path / "out")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": ["one.bin"]}}')
    assert "the name of a file in this folder" in refuse(folder, tmp_path / "out")

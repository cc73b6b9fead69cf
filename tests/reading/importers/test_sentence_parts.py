"""What retrieval's folders keep in pickles: BGE-M3's heads, and Dense modules."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.checkpoints import write_weights
from yizhi.errors import InputError
from yizhi.model.architectures import MULTI_VECTOR, SPARSE
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.importers.importer import import_checkpoint
from yizhi.reading.safetensors_file import SafetensorsFile

torch = pytest.importorskip("torch")


def tensors_of(path):
    file = SafetensorsFile(path)
    return {name: file.array(name).copy() for name in file.entries}


def save(arrays, path):
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


@pytest.fixture
def m3(make_checkpoint):
    """A folder as BGE-M3 is published: heads beside the weights, each in a pickle of its own."""

    def make(variant):
        folder = make_checkpoint(variant)
        tensors = tensors_of(folder / "model.safetensors")
        for module in (SPARSE, MULTI_VECTOR):
            mine = {name: tensors.pop(f"{module}.{name}") for name in ("weight", "bias")}
            save(mine, folder / f"{module}.pt")
        write_weights(folder, tensors)
        config = json.loads((folder / "config.json").read_text())
        config.pop("colbert_dim", None)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.mark.parametrize("variant", ["bert-m3", "albert-m3"])
def test_heads_of_their_own_files_come_into_the_checkpoint(m3, make_checkpoint, tmp_path, variant):
    folder = m3(variant)
    report = import_checkpoint(folder, tmp_path / "out")
    with (
        Checkpoint.open(make_checkpoint(variant, name="whole")) as expected,
        Checkpoint.open(tmp_path / "out") as found,
    ):
        assert replace(found.spec, config=expected.config) == expected.spec  # `raw` has what a published one says
        for parameter in expected.parameters():
            np.testing.assert_array_equal(found.array(parameter.name), expected.array(parameter.name))
    assert {tensor.name for tensor in report.tensors} >= {f"{SPARSE}.weight", f"{MULTI_VECTOR}.bias"}


def test_an_export_of_the_folder_itself_says_what_it_leaves_out(m3):
    with Checkpoint.open(m3("bert-m3")) as checkpoint:
        assert checkpoint.spec.token_weights is None
        assert len([note for note in checkpoint.notes() if "`yizhi import` puts into the checkpoint" in note]) == 2


def test_a_head_that_is_no_head_is_refused(m3, tmp_path):
    folder = m3("bert-m3")
    save({"weight": np.ones((2, 32), np.float32), "bias": np.ones(1, np.float32)}, folder / f"{SPARSE}.pt")
    with pytest.raises(InputError, match=re.escape("expected [1, 32]; found [2, 32]")):
        import_checkpoint(folder, tmp_path / "out")
    save({"weight": np.ones((1, 32), np.float32), "gate": np.ones(1, np.float32)}, folder / f"{SPARSE}.pt")
    with pytest.raises(InputError, match="gate"):
        import_checkpoint(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pickle_that_would_run_something_is_not_run(m3, tmp_path):
    folder = m3("bert-m3")
    torch.save({"weight": print}, folder / f"{MULTI_VECTOR}.pt")
    with pytest.raises(InputError, match="nothing in it was run"):
        import_checkpoint(folder, tmp_path / "out")


def test_dense_modules_as_pickles(make_checkpoint, tmp_path):
    folder = make_checkpoint("bert-dense")
    with Checkpoint.open(folder) as checkpoint:
        expected = checkpoint.spec, {p.name: checkpoint.array(p.name).copy() for p in checkpoint.parameters()}
    for path in folder.glob("*_Dense/model.safetensors"):
        save(tensors_of(path), path.with_name("pytorch_model.bin"))
        path.unlink()
    with pytest.raises(InputError, match=r"`yizhi import` reads a pytorch_model\.bin"):
        Checkpoint.open(folder)
    modules = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(modules.replace('_Dense"', '_Dense/"'))
    import_checkpoint(folder, tmp_path / "out")
    with Checkpoint.open(tmp_path / "out") as found:
        assert found.spec.pooling == expected[0].pooling
        for name, array in expected[1].items():
            np.testing.assert_array_equal(found.array(name), array)

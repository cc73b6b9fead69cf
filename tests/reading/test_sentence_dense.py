"""Dense modules of a sentence-transformers folder: read, or refused by name."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.sentence_folders import write_modules
from yizhi.errors import InputError
from yizhi.model.spec import Pooling
from yizhi.reading.checkpoint import Checkpoint


def change(path, **keys):
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.fixture
def folder(make_checkpoint):
    return write_modules(make_checkpoint("bert-no-head"), "mean", dense=((24, "ReLU", True),), normalize=True)


def faults_of(folder):
    with pytest.raises(InputError) as caught:
        Checkpoint.open(folder)
    return caught.value.faults


def test_its_parameters_have_names_of_their_own(folder):
    with Checkpoint.open(folder) as checkpoint:
        names = [parameter.name for parameter in checkpoint.parameters()]
        assert names[-2:] == ["sentence.dense.0.linear.weight", "sentence.dense.0.linear.bias"]
        assert str(checkpoint.spec.pooling) == "mean, dense, normalized"
        assert checkpoint.array(names[-2]).shape == (24, 32)
        assert {"2_Dense/config.json", "2_Dense/model.safetensors"} <= checkpoint.digest().keys()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"activation_function": "torch.nn.modules.activation.Hardswish"}, "activation_function: expected torch.nn's"),
        ({"activation_function": "my.own.Tanh"}, "activation_function: expected torch.nn's"),
        ({"activation_function": None}, "activation_function: expected torch.nn's"),
        ({"in_features": "32"}, "in_features: expected an integer"),
        ({"bias": "yes"}, "bias: expected true or false"),
        ({"module_input_name": "token_embeddings"}, "module_input_name: expected 'sentence_embedding'"),
        ({"residual": True}, "residual: not computed here"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(folder, keys, says):
    change(folder / "2_Dense" / "config.json", **keys)
    (fault,) = faults_of(folder)
    assert fault.startswith(f"2_Dense/config.json: {says}")


def test_sizes_that_do_not_fit_are_all_told(folder):
    change(folder / "2_Dense" / "config.json", in_features=31, out_features=20)
    assert "sentence.dense.0.linear: expected 32 inputs; found 31" in faults_of(folder)
    change(folder / "2_Dense" / "config.json", in_features=32)
    assert faults_of(folder) == [
        "2_Dense/model.safetensors: linear.bias: expected [20]; found [24]",
        "2_Dense/model.safetensors: linear.weight: expected [20, 32]; found [24, 32]",
    ]


def test_weights_that_are_missing_or_more_are_told(folder):
    path = folder / "2_Dense" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "gate": np.ones(1, np.float32)}, path)
    assert faults_of(folder) == ["2_Dense/model.safetensors: gate: not a tensor of this bert configuration"]
    save_file({"linear.weight": tensors["linear.weight"]}, path)
    assert faults_of(folder) == ["sentence.dense.0.linear.bias: missing; expected [24]"]
    path.write_bytes(b"no safetensors")
    assert faults_of(folder)
    path.unlink()
    assert "1 Dense modules, 0 of them with model.safetensors" in faults_of(folder)[0]


@pytest.mark.parametrize("mode", [["mean", "cls"], [["mean"]], {"mean": True}, 3])
def test_a_mode_that_is_none_is_refused(folder, mode):
    change(folder / "1_Pooling" / "config.json", pooling_mode=mode)
    expected = "1_Pooling/config.json: pooling: expected one of cls, mean, max, lasttoken (`pooling` last); found "
    assert faults_of(folder)[0].startswith(expected)


@pytest.mark.parametrize(
    ("modules", "asked", "drops"),
    [
        ({"dimensions": 12, "normalize": True}, Pooling("mean"), "dimensions 12 and normalization"),
        ({"dimensions": 12}, Pooling("mean"), "dimensions 12"),
        ({"dense": ((24, "ReLU", True),), "normalize": True}, Pooling("cls", True), "1 Dense"),
        ({"dimensions": 12, "normalize": True}, Pooling("mean", True, 8), None),
    ],
)
def test_what_a_pooling_that_is_asked_for_drops_is_told(make_checkpoint, modules, asked, drops):
    folder = write_modules(make_checkpoint("bert-no-head"), "mean", **modules)
    with Checkpoint.open(folder, asked) as checkpoint:
        notes = [note for note in checkpoint.notes() if note.startswith("modules.json")]
    assert bool(notes) == (drops is not None)
    told = f"artifacts give {asked}, as asked. This drops {drops}, which modules.json has"
    assert all(note.endswith(told) for note in notes)


def test_rows_of_the_identity_are_dimensions(make_checkpoint):
    folder = write_modules(make_checkpoint("bert-no-head"), "cls", dimensions=8)
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.spec.pooling == Pooling("cls", dimensions=8)
    path = folder / "2_Dense" / "model.safetensors"
    weight = load_file(path)["linear.weight"]
    weight[3, 3] = 2
    save_file({"linear.weight": weight}, path)
    with Checkpoint.open(folder) as checkpoint:
        assert str(checkpoint.spec.pooling) == "cls, dense"


def test_truncate_dim_without_a_norm(make_checkpoint):
    folder = write_modules(make_checkpoint("bert-no-head"), "cls")
    (folder / "config_sentence_transformers.json").write_text('{"truncate_dim": 8}')
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.spec.pooling == Pooling("cls", dimensions=8)
    with Checkpoint.open(folder, dimensions=4) as checkpoint:
        assert checkpoint.spec.pooling == Pooling("cls", dimensions=4)
    with Checkpoint.open(make_checkpoint("bert-no-head"), Pooling("cls", dimensions=32)) as checkpoint:
        assert checkpoint.spec.pooling == Pooling("cls")  # all of them is no cut
    with pytest.raises(InputError, match="dimensions: expected 1 … 32; found 0"):
        Checkpoint.open(folder, dimensions=0)
    (folder / "config_sentence_transformers.json").write_text('{"truncate_dim": 40}')
    assert faults_of(folder) == ["dimensions: expected 1 … 32; found 40"]


def test_a_dense_is_computed_though_its_files_are_passed_over(folder):
    """As bisecting opens a checkpoint: whatever lies there, for what an artifact says of itself."""
    with Checkpoint.open(folder) as checkpoint:
        pooling = checkpoint.spec.pooling
    with Checkpoint.open(folder, pooling, ("*",)) as checkpoint:
        assert checkpoint.array("sentence.dense.0.linear.weight").shape == (24, 32)
    with Checkpoint.open(folder, Pooling("max")) as checkpoint:
        assert checkpoint.spec.pooling == Pooling("max")
        assert "modules.json: sentence-transformers gives mean, dense, normalized" in checkpoint.notes()[-1]

import math
import os
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest

from tests.agreement import ARCHITECTURES, assert_agree, padded_batch, run_everything
from tests.artifacts import export_artifact
from yizhi.converters import to_flax
from yizhi.errors import InputError
from yizhi.model.layout import FLAX_CHUNKED, FLAX_WEIGHTS, flax_path, transposes
from yizhi.model.spec import Layer, without_names
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter
from yizhi.runtimes import open_runtime

jax = pytest.importorskip("jax")
serialization = pytest.importorskip("flax.serialization")

from yizhi.converters.forwards.flax import Pass, embeddings  # noqa: E402
from yizhi.runtimes.flax_runtime import bucket, read_tree  # noqa: E402

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def expected_tree(checkpoint: Checkpoint) -> dict:
    """The tree, made the slow and obvious way."""
    tree: dict = {}
    for parameter in checkpoint.parameters():
        *path, leaf = flax_path(parameter)
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        array = checkpoint.array(parameter.name)
        branch[leaf] = np.ascontiguousarray(array.T) if transposes(parameter) else array
    return tree


def assert_same_tree(found: dict, expected: dict) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("variant", [*ARCHITECTURES, "bert-bf16"])
def test_bytes_are_what_flax_itself_writes(make_checkpoint, tmp_path, variant):
    checkpoint = Checkpoint.open(make_checkpoint(variant))
    to_flax.convert(checkpoint, ArtifactWriter(tmp_path))
    written = (tmp_path / FLAX_WEIGHTS).read_bytes()
    assert written == serialization.to_bytes(expected_tree(checkpoint))
    assert_same_tree(serialization.msgpack_restore(written), expected_tree(checkpoint))


def test_arrays_over_the_limit_are_chunked_as_flax_does(make_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(to_flax, "MAX_CHUNK_BYTES", 1000)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 1000)
    checkpoint = Checkpoint.open(make_checkpoint("bert-untied"))
    to_flax.convert(checkpoint, ArtifactWriter(tmp_path))
    written = (tmp_path / FLAX_WEIGHTS).read_bytes()
    assert FLAX_CHUNKED.encode() in written
    assert written == serialization.to_bytes(expected_tree(checkpoint))
    assert_same_tree(read_tree(tmp_path / FLAX_WEIGHTS, jax.devices("cpu")[0]), expected_tree(checkpoint))


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_agrees_with_pytorch(make_checkpoint, tmp_path, variant):
    pytest.importorskip("torch")
    checkpoint = Checkpoint.open(make_checkpoint(variant))
    assert_agrees_with_pytorch(checkpoint, tmp_path)


def test_epsilon_and_activation_come_from_the_config(make_checkpoint, tmp_path):
    pytest.importorskip("torch")
    config = {"layer_norm_eps": 3e-2, "hidden_act": "gelu_new"}
    assert_agrees_with_pytorch(Checkpoint.open(make_checkpoint(config=config)), tmp_path)


def assert_agrees_with_pytorch(checkpoint: Checkpoint, tmp_path: Path) -> None:
    inputs = padded_batch(checkpoint.config)
    with open_runtime(export_artifact(checkpoint, "pytorch", tmp_path / "pytorch")) as reference:
        expected = run_everything(reference, inputs)
    with open_runtime(export_artifact(checkpoint, "flax", tmp_path / "flax")) as runtime:
        assert_agree(run_everything(runtime, inputs), expected, inputs)


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("Bert", "bert"),
        ("Bert", "bert-untied"),
        ("Albert", "albert"),
        ("Electra", "electra-generator"),
    ],
)
def test_transformers_loads_it(make_checkpoint, tmp_path, family, variant):
    transformers = pytest.importorskip("transformers")
    model_class = getattr(transformers, f"Flax{family}ForMaskedLM", None)
    if model_class is None:
        pytest.skip(f"transformers {transformers.__version__} has no Flax classes; 4.57 has")
    checkpoint = Checkpoint.open(make_checkpoint(variant))
    folder = export_artifact(checkpoint, "flax", tmp_path / "flax")
    inputs = padded_batch(checkpoint.config)
    expected = model_class.from_pretrained(folder)(**inputs.as_dict()).logits
    with open_runtime(folder) as runtime:
        assert_agree(runtime.run(inputs, ["logits"]), {"logits": np.asarray(expected)}, inputs)


def test_converting_needs_neither_jax_nor_flax(make_checkpoint, tmp_path):
    code = (
        "import sys; from pathlib import Path; from yizhi.release.artifact import ArtifactWriter; "
        "from yizhi.reading.checkpoint import Checkpoint; from yizhi.converters.to_flax import convert; "
        "convert(Checkpoint.open(sys.argv[1]), ArtifactWriter(Path(sys.argv[2]))); "
        "sys.exit(bool({'jax', 'flax'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, make_checkpoint(), tmp_path], cwd=ROOT, check=True)


def test_converting_holds_one_tensor_at_a_time(make_checkpoint, tmp_path):
    checkpoint = Checkpoint.open(make_checkpoint(config={"intermediate_size": 40_000}))
    sizes = [4 * math.prod(parameter.shape) for parameter in checkpoint.parameters()]
    tracemalloc.start()
    to_flax.convert(checkpoint, ArtifactWriter(tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * max(sizes) < sum(sizes) / 2


@pytest.fixture
def runtime(make_checkpoint, tmp_path):
    with open_runtime(export_artifact(Checkpoint.open(make_checkpoint()), "flax", tmp_path / "flax")) as runtime:
        yield runtime


def test_padding_and_buckets_change_nothing(runtime):
    inputs = padded_batch(runtime.config)
    batched = runtime.run(inputs, ["logits", "pooler_output"])
    row = {name: array[1:2, :10] for name, array in inputs.as_dict().items()}
    alone = runtime.run(row, ["logits", "pooler_output"])
    np.testing.assert_allclose(batched["logits"][1:2, :10], alone["logits"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(batched["pooler_output"][1:2], alone["pooler_output"], rtol=1e-5, atol=1e-5)


def test_compiles_once_per_bucket(runtime):
    for batch, length in ((3, 13), (3, 15), (3, 16), (3, 14)):
        assert runtime.run({"input_ids": np.ones((batch, length), int)}, ["logits"])["logits"].shape[:2] == (
            batch,
            length,
        )
    assert runtime._step._cache_size() == 1


@dataclass(frozen=True)
class LayerOfTomorrow(Layer):
    """A layer with a field that nobody thought of when the runtime was written."""

    thickness: int = 0


def test_layers_that_differ_in_anything_but_names_are_compiled_apart(runtime):
    inputs = {"input_ids": np.ones((1, 3), int)}
    runtime.run(inputs, ["last_hidden_state"])
    assert runtime._step._cache_size() == 1
    for number, layer in enumerate(runtime._spec.layers):
        values = {field.name: getattr(layer, field.name) for field in fields(layer)}
        runtime._nameless[layer] = without_names(LayerOfTomorrow(**values, thickness=number // 2))
    runtime.run(inputs, ["last_hidden_state"])
    assert runtime._step._cache_size() == 1 + len({number // 2 for number in range(len(runtime._spec.layers))})


def test_a_layer_without_names_keeps_which_parameters_are_one(make_checkpoint):
    first, second = Checkpoint.open(make_checkpoint()).spec.layers[:2]
    assert first != second
    assert without_names(first) == without_names(second)
    assert without_names(replace(first, key=first.query)) != without_names(first)
    assert without_names(replace(first, norm_first=True)) != without_names(first)


def test_longest_input_is_not_padded_past_the_positions(make_checkpoint, tmp_path):
    checkpoint = Checkpoint.open(make_checkpoint(config={"max_position_embeddings": 21}))
    with open_runtime(export_artifact(checkpoint, "flax", tmp_path / "flax")) as runtime:
        output = runtime.run({"input_ids": np.ones((1, 21), int)}, ["last_hidden_state"])["last_hidden_state"]
    assert output.shape[1] == 21
    assert np.isfinite(output).all()


def test_buckets():
    assert [bucket(size) for size in (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 17, 24, 25, 385, 512)] == [
        1, 2, 3, 4, 6, 6, 8, 12, 12, 16, 24, 24, 32, 512, 512,
    ]  # fmt: skip


def test_an_id_beyond_the_table_gives_nan_not_another_row(runtime):
    ids = np.array([[5, runtime.config.vocab_size]], np.int32)
    found = embeddings(Pass(runtime._parameters, runtime._spec), ids, np.zeros_like(ids))
    assert np.isnan(found[0, 1]).all()


def test_leaves_jax_as_it_was(runtime):
    runtime.run({"input_ids": [[1, 2]]})
    assert jax.config.jax_default_matmul_precision is None
    assert jax.config.jax_default_device is None


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in Linux's /proc")
def test_threads(runtime):
    code = (
        "import os, sys; from yizhi.runtimes import open_runtime; "
        "open_runtime(sys.argv[1], threads=3).run({'input_ids': [[1, 2]]}); "
        "names = [open(f'/proc/self/task/{task}/comm').read() for task in os.listdir('/proc/self/task')]; "
        "print(sum('XLAEigen' in name for name in names))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PJRT_NPROC"}
    command = [sys.executable, "-c", code, runtime.artifact.folder]
    found = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["3"]


@pytest.mark.parametrize("data", [b"", b"\x05", b"\x81\xa1a\xc7\x01\x02x", b"\x82\xa1a\x01"])
def test_a_file_that_is_no_tree_is_refused(tmp_path, data):
    path = tmp_path / FLAX_WEIGHTS
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"tree|extension"):
        read_tree(path, jax.devices("cpu")[0])

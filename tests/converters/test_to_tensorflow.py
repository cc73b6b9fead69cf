import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.agreement import ARCHITECTURES, assert_agree, padded_batch, run_everything
from yizhi.errors import InputError
from yizhi.model.spec import KERNEL
from yizhi.release.artifact import Artifact
from yizhi.runtimes import open_runtime

tf = pytest.importorskip("tensorflow")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXPORT = (
    "import sys; from pathlib import Path; from yizhi.reading.checkpoint import Checkpoint; "
    "from tests.artifacts import export_artifact; "
    "export_artifact(Checkpoint.open(sys.argv[1]), 'tensorflow', Path(sys.argv[2]))"
)
# Runs where nothing of this project can be imported.
LOAD = """
import sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
ids = tf.constant([[1, 2, 3]])
found = model.signatures["hidden_states"](
    input_ids=ids, attention_mask=tf.ones_like(ids), token_type_ids=tf.zeros_like(ids)
)
assert not {"converters", "runtimes"} & set(sys.modules)
print(*sorted(found))
"""


@pytest.fixture
def export(open_artifact):
    def export(variant="bert", target="tensorflow", **changes):
        checkpoint, runtime = open_artifact(variant, target, **changes)
        return checkpoint, runtime.artifact.folder

    return export


def signature_inputs(ids):
    ids = tf.constant(ids, tf.int32)
    return {"input_ids": ids, "attention_mask": tf.ones_like(ids), "token_type_ids": tf.zeros_like(ids)}


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_agrees_with_pytorch(export, variant):
    assert_agrees_with_pytorch(export, variant)


def test_epsilon_and_activation_come_from_the_config(export):
    assert_agrees_with_pytorch(export, "bert", config={"layer_norm_eps": 3e-2, "hidden_act": "gelu_new"})


def assert_agrees_with_pytorch(export, variant, **changes):
    pytest.importorskip("torch")
    checkpoint, reference_folder = export(variant, "pytorch", **changes)
    inputs = padded_batch(checkpoint.config)
    with open_runtime(reference_folder) as reference:
        expected = run_everything(reference, inputs)
    with open_runtime(export(variant, **changes)[1]) as runtime:
        assert_agree(run_everything(runtime, inputs), expected, inputs)


def test_padding_changes_nothing(export):
    checkpoint, folder = export()
    inputs = padded_batch(checkpoint.config)
    with open_runtime(folder) as runtime:
        batched = runtime.run(inputs, ["logits"])["logits"]
        alone = runtime.run({name: array[1:2, :10] for name, array in inputs.as_dict().items()}, ["logits"])["logits"]
    np.testing.assert_allclose(batched[1:2, :10], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["bert", "electra-discriminator"])
def test_signatures_are_those_of_the_spec(export, variant):
    checkpoint, folder = export(variant)
    loaded = tf.saved_model.load(str(folder))
    signatures = dict(loaded.signatures.items())
    logits_at = signatures.pop("logits_at", None)
    assert (logits_at is not None) == (checkpoint.spec.task == "fill-mask")
    if logits_at:
        positions = logits_at.structured_input_signature[1]["positions"]
        assert (positions.dtype, positions.shape.as_list()) == (tf.int32, [None, 2])
    assert {name: set(function.structured_outputs) for name, function in signatures.items()} == {
        name: set(outputs) for name, outputs in checkpoint.spec.signatures().items()
    }
    for function in signatures.values():
        _, inputs = function.structured_input_signature
        assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in inputs.items()} == {
            name: (tf.int32, [None, None]) for name in ("input_ids", "attention_mask", "token_type_ids")
        }


def count_matrix_products(folder, signature_name):
    """In the graph that a session, as in TensorFlow Serving, runs for this signature."""
    v1 = tf.compat.v1
    options, metadata = v1.RunOptions(output_partition_graphs=True), v1.RunMetadata()
    with v1.Session(graph=tf.Graph()) as session:
        signature = v1.saved_model.load(session, ["serve"], str(folder)).signature_def[signature_name]
        outputs = {name: tensor.name for name, tensor in signature.outputs.items()}
        feed = {tensor.name: np.zeros((1, 2)) for tensor in signature.inputs.values()}
        session.run(outputs, feed, options=options, run_metadata=metadata)
    return sum("MatMul" in node.op for graph in metadata.partition_graphs for node in graph.node)


def test_a_signature_computes_no_more_than_it_names(export):
    """All share one function of the layers; the heads must run only for those who ask."""
    checkpoint, folder = export()
    encoder = 8 * len(checkpoint.spec.layers)  # four projections, two products of attention, two of feed-forward
    assert count_matrix_products(folder, "features") == encoder + 1  # the pooler
    assert count_matrix_products(folder, "serving_default") == encoder + 3  # and the head's transform and decoder
    assert count_matrix_products(folder, "hidden_states") == encoder + 3
    assert count_matrix_products(folder, "logits_at") == encoder + 2


@pytest.mark.parametrize("variant", ["bert", "bert-untied", "albert-groups"])
def test_variables_are_the_checkpoint_under_its_names(export, variant):
    checkpoint, folder = export(variant)
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    stored = {name.removesuffix(suffix): name for name in reader.get_variable_to_shape_map() if name.endswith(suffix)}
    assert len(stored) == len(checkpoint.parameters())
    for parameter in checkpoint.parameters():
        array = checkpoint.array(parameter.name)
        if parameter.kind == KERNEL:
            found = reader.get_tensor(stored[parameter.name.removesuffix("weight").replace(".", "/") + "kernel"]).T
        else:
            found = reader.get_tensor(stored[parameter.name.replace(".", "/")])
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("ids", [[[10_000]], [[-1]], [[1] * 65]])
def test_ids_and_positions_out_of_range_raise(export, ids):
    _, folder = export()
    loaded = tf.saved_model.load(str(folder))
    with tf.device("/CPU:0"), pytest.raises(tf.errors.InvalidArgumentError, match="is not in"):
        loaded.signatures["features"](**signature_inputs(ids))


def test_exports_are_byte_identical_and_load_with_tensorflow_alone(make_checkpoint, tmp_path):
    source = make_checkpoint()
    folders = [tmp_path / "one", tmp_path / "deeper" / "another-name"]
    for folder in folders:
        subprocess.run([sys.executable, "-c", EXPORT, source, folder], cwd=ROOT, check=True, capture_output=True)
    one, other = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    )
    assert one == other
    assert not [path for path in folders[0].rglob("*") if path.is_dir() and not any(path.iterdir())]
    for name, data in one.items():
        leaks = re.findall(rb"[^\0]*(?:%b|%b|\.py\b)[^\0]*" % (bytes(ROOT), bytes(tmp_path)), data)
        assert not leaks, (name, leaks[:3])
    command = [sys.executable, "-I", "-c", LOAD, folders[0]]
    loaded = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == sorted(Artifact.read(folders[0]).signatures["hidden_states"])


def test_another_number_of_threads_is_refused_once_tensorflow_runs(export):
    _, folder = export()
    tf.constant(1)  # TensorFlow has started by now
    with pytest.raises(InputError, match="before TensorFlow starts"):
        open_runtime(folder, threads=3)

"""A LiteRT model is, byte for byte, the one that is written again of its spec and its numbers; nothing else is read."""

import shutil
import struct

import numpy as np
import pytest

from tests.artifacts import export_artifact
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError
from yizhi.model.layout import LITERT_MODEL
from yizhi.parity.numbers import summarize
from yizhi.parity.weights import audit, digest_tensors
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.litert_tensors import read_litert
from yizhi.release.artifact import Artifact

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

BOTH = ["litert", "litert-int8"]


@pytest.fixture
def artifact(open_artifact, tmp_path):
    """`artifact("bert", "litert")` is a copy that may be altered, its spec, and its model's bytes."""

    def make(variant="bert", target="litert"):
        checkpoint, runtime = open_artifact(variant, target)
        copy = Artifact.read(shutil.copytree(runtime.artifact.folder, tmp_path / target))
        return copy, checkpoint.spec, bytearray((copy.folder / LITERT_MODEL).read_bytes())

    return make


def compare(artifact, spec, data=None):
    if data is not None:
        (artifact.folder / LITERT_MODEL).write_bytes(data)
    return TARGETS[artifact.target].compare_graphs(artifact, spec)


def place_of(table, number):
    """Where a field of a table begins: fields are 4, 6, 8 … in a vtable."""
    return table._tab.Pos + table._tab.Offset(4 + 2 * number)


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize(("variant", "graphs"), [("bert", 3), ("albert-groups", 3), ("electra-reader", 1)])
def test_what_is_written_is_the_same(artifact, variant, graphs, target):
    found, spec, _ = artifact(variant, target)
    assert compare(found, spec) == (graphs, [])


def test_parts_kept_in_float32_and_outlier_channels(make_checkpoint, tmp_path):
    """A model with every kind of linear layer that int8 has: some in float32, some with outliers, some smoothed."""

    def make_outliers(tensors):
        for name, array in tensors.items():
            if name.endswith(("attention.output.LayerNorm.weight", "output.LayerNorm.weight")):
                array[[3, 9]] *= 30

    with Checkpoint.open(make_checkpoint("bert", alter=make_outliers)) as checkpoint:
        folder = export_artifact(checkpoint, "litert-int8", tmp_path / "int8", keep_fp32=["encoder.layer.1", "cls"])
        found = Artifact.read(folder)
        said, spec = found.description["quantization"], checkpoint.spec
        expected, sums = digest_tensors(checkpoint), summarize(checkpoint)
        weights, faults = audit(found, expected, sums, checkpoint)
    assert set(said["smoothed"]) < set(said["outliers"])
    assert not [name for name in said["stored"] if name.startswith("bert.encoder.layer.1.") and name.endswith(".scale")]
    assert (compare(found, spec), faults) == ((3, []), [])
    assert weights.requantized == 6 * (len(spec.layers) - 1) + 2  # and the embeddings and the pooler


def test_an_operators_options(artifact):
    found, spec, data = artifact()
    graph = schema.Model.GetRootAs(data).Subgraphs(1)
    for number in range(graph.OperatorsLength()):
        options = graph.Operators(number)
        if options.BuiltinOptionsType() == schema.BuiltinOptions.SoftmaxOptions:
            pytest.fail("no attention uses SOFTMAX")
        if options.BuiltinOptionsType() == schema.BuiltinOptions.FullyConnectedOptions:
            table = schema.FullyConnectedOptions()
            table.Init(options.BuiltinOptions().Bytes, options.BuiltinOptions().Pos)
            data[place_of(table, 2)] = 0  # keep_num_dims
            break
    _, faults = compare(found, spec, data)
    assert faults == [
        "model.tflite: is not the model that this version writes: an operator's options, or a tensor's type or shape"
    ]


def test_an_operator_that_takes_another_tensor(artifact):
    found, spec, data = artifact()
    operator = schema.Model.GetRootAs(data).Subgraphs(0).Operators(20)
    start = operator._tab.Vector(operator._tab.Offset(6))
    struct.pack_into("<i", data, start, operator.Inputs(0) - 1)
    _, faults = compare(found, spec, data)
    assert len(faults) == 1
    assert "is not the model that this version writes: expected 'serving_default: " in faults[0]


def test_a_constant_of_another_value(artifact):
    """It is no parameter, and no table: nothing else would see it."""
    found, spec, data = artifact()
    model = schema.Model.GetRootAs(data)
    graph = model.Subgraphs(0)
    tensors = [graph.Tensors(number) for number in range(graph.TensorsLength())]
    epsilon = next(tensor for tensor in tensors if tensor.Name() == b"constant/epsilon.1e-12")
    vector = model.Buffers(epsilon.Buffer())._tab
    struct.pack_into("<f", data, vector.Vector(vector.Offset(4)), 1e-13)
    _, faults = compare(found, spec, data)
    assert faults == [f"{LITERT_MODEL}: expected the constants that this version writes; found others"]


@pytest.mark.parametrize("target", BOTH)
def test_numbers_outside_of_the_checkpoint(artifact, target):
    """A bias of its own for the model: a tensor under a constant's name, which no digest knows."""
    found, _, data = artifact("bert", target)
    name = b"bert.encoder.layer.0.attention.output.dense.bias"
    place = data.index(name)
    data[place : place + len(name)] = b"constant/".ljust(len(name), b"x")
    (found.folder / LITERT_MODEL).write_bytes(data)
    with pytest.raises(InputError, match=r"constant/x+: holds 32 numbers of the graph's own"):
        read_litert(found.folder)


def test_scales_around_another_zero_point(artifact):
    found, _, data = artifact("bert", "litert-int8")
    graph = schema.Model.GetRootAs(data).Subgraphs(0)
    tensors = [graph.Tensors(number) for number in range(graph.TensorsLength())]
    kernel = next(tensor for tensor in tensors if tensor.Quantization() is not None)
    vector = kernel.Quantization()._tab
    struct.pack_into("<q", data, vector.Vector(vector.Offset(10)) + 8, 3)
    (found.folder / LITERT_MODEL).write_bytes(data)
    with pytest.raises(InputError, match=r"expected a scale for each of \[\d+\] rows, around 0; found others"):
        read_litert(found.folder)


@pytest.mark.parametrize("target", BOTH)
def test_random_bytes_are_clean_errors(artifact, target):
    found, spec, data = artifact("bert", target)
    rng = np.random.default_rng(0)
    table = min(place.spans[0][0] for place in read_litert(found.folder) if not place.name.endswith(".scale"))
    for _ in range(60):
        altered = bytearray(data)
        for place in rng.integers(0, table, 3):
            altered[place] = rng.integers(256)
        try:
            _, faults = compare(found, spec, altered)
        except InputError:
            continue
        assert faults or altered == data

"""Outlier channels: which are found, and what keeping them in float32 gains."""

import subprocess
import sys

import numpy as np
import pytest

from tests.artifacts import export_artifact
from yizhi.parity.compare import cosines
from yizhi.parity.numbers import summarize
from yizhi.parity.weights import audit, digest_tensors
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import Artifact
from yizhi.runtimes import open_runtime

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from yizhi.converters.int8_outliers import MOST, Magnitudes, can_smooth, choose_channels, gain_of
from yizhi.converters.onnx_graph import Graph
from yizhi.converters.onnx_int8_graph import Int8Graph

LOUD = [9, 20]
MILD = [9, 20, 33, 70]


def largest(x):
    channels = np.argsort(-np.abs(x), axis=1)[:, : MOST + 1]
    return Magnitudes(np.take_along_axis(np.abs(x), channels, 1).astype(np.float32), channels)


def test_channels_large_for_every_token_are_chosen():
    x = np.random.default_rng(0).normal(0, 1, (300, 200))
    assert choose_channels(largest(x)) == []
    x[:, [150, 7]] += [[-30, 12]]
    assert choose_channels(largest(x)) == [7, 150]


def test_a_few_large_tokens_make_no_outlier_channel():
    """Each has its own scale, whatever the others have; only a channel of many tokens is worth its time."""
    x = np.random.default_rng(0).normal(0, 1, (300, 200))
    x[::10] *= 50
    assert choose_channels(largest(x)) == []


def test_no_more_channels_than_allowed_and_never_all():
    x = np.random.default_rng(0).normal(0, 1, (50, 60))
    x[:, :10] += np.geomspace(1e3, 1e6, 10)
    assert choose_channels(largest(x)) == [6, 7, 8, 9]
    assert choose_channels(largest(x[:, :1])) == []


def test_zeros_have_none():
    assert choose_channels(largest(np.zeros((5, 8)))) == []


@pytest.mark.parametrize(("size", "smoothed"), [(3, True), (15, True), (30, False)])
def test_channels_are_smoothed_where_a_quarter_of_them_no_longer_sets_the_scale(size, smoothed):
    x = np.random.default_rng(0).normal(0, 1, (300, 200))
    x[:, 7] = size
    assert can_smooth(largest(x), [7]) == smoothed


def test_the_gain_is_a_share_of_the_largest_magnitudes_mean_square():
    assert gain_of(Magnitudes(np.array([[4, 2], [4, 2]], np.float32), np.array([[1, 0], [1, 0]])), [1]) == 0.75


@pytest.fixture
def loud(make_checkpoint):
    """A checkpoint whose LayerNorms leave two channels far larger than the rest, as trained encoders do."""

    def alter(tensors):
        for name, array in tensors.items():
            if name.endswith("LayerNorm.weight") and "cls" not in name:
                array[LOUD] *= 12
            if name.endswith(("query.weight", "key.weight", "value.weight", "intermediate.dense.weight")):
                array[:, LOUD] /= 12

    config = {"hidden_size": 128, "intermediate_size": 256}
    return Checkpoint.open(make_checkpoint("bert", config=config, alter=alter))


def test_they_are_found_and_said(loud, tmp_path):
    found = Artifact.read(export_artifact(loud, "onnx-int8", tmp_path / "int8")).description["quantization"]["outliers"]
    for layer in loud.spec.layers:
        for part in (layer.query, layer.key, layer.value, layer.intermediate):
            assert set(LOUD) <= set(found[part.weight])


@pytest.fixture
def mild(make_checkpoint):
    """A checkpoint whose feed-forwards read a few channels that are four times as large as the rest."""

    def alter(tensors):
        for name, array in tensors.items():
            if name.endswith("attention.output.LayerNorm.weight"):
                array[MILD] *= 4
            if name.endswith("intermediate.dense.weight"):
                array[:, MILD] /= 4

    config = {"hidden_size": 128, "intermediate_size": 256}
    return Checkpoint.open(make_checkpoint("bert", config=config, alter=alter))


@pytest.fixture
def faint(make_checkpoint):
    """A checkpoint whose attention reads a channel that is not much larger than the rest, for every token."""

    def alter(tensors):
        for name, array in tensors.items():
            if name.endswith(("embeddings.LayerNorm.weight", ".output.LayerNorm.weight")) and "attention" not in name:
                array[9], tensors[name.replace("weight", "bias")][9] = 0.1, 5

    config = {"hidden_size": 128, "intermediate_size": 256}
    return Checkpoint.open(make_checkpoint("bert", config=config, alter=alter))


@pytest.fixture
def make_inner(make_checkpoint):
    """Makes a checkpoint whose feed-forwards have two large channels inside, as trained encoders do."""

    def alter(tensors):
        for name, array in tensors.items():
            if name.endswith("intermediate.dense.bias"):
                array[LOUD] = 20
            if name.endswith(".output.dense.weight") and "attention" not in name:
                array[:, LOUD] /= 12

    def make(activation):
        config = {"hidden_size": 128, "intermediate_size": 256, "hidden_act": activation}
        return Checkpoint.open(make_checkpoint("bert", config=config, alter=alter))

    return make


@pytest.fixture
def inner(make_inner):
    return make_inner("gelu")


@pytest.fixture
def gated(make_checkpoint):
    """A ModernBERT, which has no biases, with two large channels wherever a linear layer of a layer reads."""

    def alter(tensors):
        for name, array in tensors.items():
            if name.endswith("_norm.weight"):
                array[LOUD] *= 12
            if name.endswith(("Wqkv.weight", "Wi.weight")):
                array[:, LOUD] /= 12
            if name.endswith("Wi.weight"):
                array[np.add(LOUD, 256)] *= 20  # of what the activation multiplies
            if name.endswith("mlp.Wo.weight"):
                array[:, LOUD] /= 20

    config = {"hidden_size": 128, "intermediate_size": 256}
    return Checkpoint.open(make_checkpoint("modernbert", config=config, alter=alter))


@pytest.mark.parametrize("target", ["onnx-int8", "openvino-int8", "litert-int8"])
def test_a_gate_s_outliers_and_a_fused_kernel_s_are_kept(gated, target, tmp_path):
    """Without a bias too; the feed-forward's own are taken out of the product that the gate gives."""
    fp32 = export_artifact(gated, "onnx", tmp_path / "onnx")
    found = export_artifact(gated, target, tmp_path / "with")
    without = export_artifact(gated, target, tmp_path / "without", outlier_channels=False)
    said = Artifact.read(found).description["quantization"]["outliers"]
    for layer in gated.spec.layers[1:]:
        assert all(set(LOUD) <= set(said[part.weight]) for part in (layer.query, layer.intermediate, layer.output))
    inputs = {"input_ids": np.random.default_rng(1).integers(5, 100, (4, 40))}
    states = []
    for folder in (fp32, found, without):
        with open_runtime(folder) as runtime:
            states.append(runtime.run(inputs, ["hidden_states.2"])["hidden_states.2"])
    reference, kept, lost = states
    assert 1 - cosines(kept, reference).min() < (1 - cosines(lost, reference).min()) / 2.5


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_the_feed_forward_leaves_its_outlier_channels_out(activation, make_inner, tmp_path):
    """The bits are those of a graph that takes them out of the activation's result."""
    inner = make_inner(activation)
    folder = export_artifact(inner, "onnx-int8", tmp_path / "int8")
    outliers = Artifact.read(folder).description["quantization"]["outliers"]
    assert all(set(LOUD) <= set(outliers[layer.output.weight]) for layer in inner.spec.layers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Int8Graph, "activated", Graph.activated)
        plain = export_artifact(inner, "onnx-int8", tmp_path / "plain")
    assert (folder / "model.onnx").read_bytes() != (plain / "model.onnx").read_bytes()
    for shape in ((1, 1), (3, 7), (8, 40)):
        ids = np.random.default_rng(1).integers(5, 100, shape)
        found = []
        for one in (folder, plain):
            with open_runtime(one) as runtime:
                found.append(runtime.run({"input_ids": ids}, ["hidden_states.3"])["hidden_states.3"])
        np.testing.assert_array_equal(*found)


def test_only_the_feed_forward_s_input_is_smoothed(mild, tmp_path):
    artifact = Artifact.read(export_artifact(mild, "onnx-int8", tmp_path / "int8"))
    said = artifact.description["quantization"]
    smoothed, last = [layer.intermediate.weight for layer in mild.spec.layers[:2]], mild.spec.layers[-1]
    assert said["smoothed"] == smoothed
    assert all(said["outliers"][name] == MILD for name in (*smoothed, last.intermediate.weight, last.query.weight))
    in_float32 = {name.removesuffix(".outliers") for name in said["stored"] if name.endswith(".outliers")}
    assert in_float32 == said["outliers"].keys() - set(smoothed)


def test_attention_s_input_is_smoothed_where_outliers_take_little(faint, tmp_path):
    """Least in the first layers: each takes 0.54, 0.62 and 0.72 of the mean square."""
    said = Artifact.read(export_artifact(faint, "onnx-int8", tmp_path / "int8")).description["quantization"]
    *little, much = [{part.weight for part in (layer.query, layer.key, layer.value)} for layer in faint.spec.layers]
    assert all(inputs <= said["outliers"].keys() for inputs in (*little, much))
    assert set.union(*little) <= set(said["smoothed"])
    assert not much & set(said["smoothed"])


def test_smoothed_kernels_are_audited(mild, tmp_path):
    artifact = Artifact.read(export_artifact(mild, "onnx-int8", tmp_path / "int8"))
    expected, sums = digest_tensors(mild), summarize(mild)
    assert audit(artifact, expected, sums, mild)[1] == []
    assert audit(artifact, expected, sums)[1] == []
    name = artifact.description["quantization"]["smoothed"].pop()
    artifact.description["quantization"]["outliers"].pop(name)
    for at_hand, says in (
        (mild, "differs from the checkpoint's numbers, quantized"),
        (None, "more than rounding explains"),
    ):
        (fault,) = audit(artifact, expected, sums, at_hand)[1]
        assert name in fault
        assert says in fault


@pytest.mark.parametrize("kind", ["loud", "mild", "inner"])
def test_keeping_them_lowers_the_error(kind, request, tmp_path):
    """Of the vectors of every layer but the first, whose input is the embeddings: at least 2.5-fold."""
    checkpoint = request.getfixturevalue(kind)
    folders = [export_artifact(checkpoint, target, tmp_path / target) for target in ("onnx", "onnx-int8")]
    folders.append(export_artifact(checkpoint, "onnx-int8", tmp_path / "without", outlier_channels=False))
    inputs = {"input_ids": np.random.default_rng(1).integers(5, 100, (4, 40))}
    states = []
    for folder in folders:
        with open_runtime(folder) as runtime:
            states.append(runtime.run(inputs, ["hidden_states.3"])["hidden_states.3"])
    reference, found, without = (np.delete(array, LOUD, axis=-1) for array in states)
    assert 1 - cosines(found, reference).min() < (1 - cosines(without, reference).min()) / 2.5


@pytest.mark.parametrize("kind", ["loud", "mild", "faint", "inner", "gated"])
def test_rows_stay_alone(kind, request, tmp_path):
    """The float32 part of a product is the same bits for one row as among many."""
    checkpoint = request.getfixturevalue(kind)
    ids = np.random.default_rng(1).integers(5, 100, (9, 33))
    for threads in (1, 2):
        folder = export_artifact(checkpoint, "onnx-int8", tmp_path / f"int8-{threads}")
        with open_runtime(folder, threads=threads) as runtime:
            together = runtime.run({"input_ids": ids}, ["hidden_states.3"])["hidden_states.3"]
            for row in range(len(ids)):
                alone = runtime.run({"input_ids": ids[row : row + 1]}, ["hidden_states.3"])["hidden_states.3"]
                np.testing.assert_array_equal(alone[0], together[row])
            one = runtime.run({"input_ids": ids[:1, :1]}, ["hidden_states.3"])["hidden_states.3"]
            mask = (np.arange(33) < 1).astype(int)[None].repeat(9, 0)
            padded = runtime.run({"input_ids": ids, "attention_mask": mask}, ["hidden_states.3"])["hidden_states.3"]
            np.testing.assert_array_equal(padded[0, 0], one[0, 0])


MEASURE = """
import sys, threading, time
import numpy as np
from yizhi.converters.int8_outliers import may_have_outliers, measure_magnitudes
from yizhi.reading.checkpoint import Checkpoint

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

def watch():
    while True:
        peaks.append(anonymous())
        time.sleep(0.002)

checkpoint = Checkpoint.open(sys.argv[1])
names = may_have_outliers(checkpoint.spec)
measure_magnitudes(checkpoint, list(names)[:1], [np.array([[2, 3]])])  # what the library itself takes
peaks = [anonymous()]
threading.Thread(target=watch, daemon=True).start()
measure_magnitudes(checkpoint, names, [np.array([[2, 7, 9, 3]])])
print(max(peaks) - peaks[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status tells of anonymous memory on Linux alone")
def test_a_weight_of_16_bits_is_widened_for_its_use_alone(make_checkpoint):
    """ONNX Runtime by itself casts every weight first, and holds them all: 48 MB here."""
    wide = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 4}
    folder = make_checkpoint("bert-bf16", config=wide)
    done = subprocess.run([sys.executable, "-c", MEASURE, folder], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16e6

"""The same integers on every processor: graphs of both products, and which of them is opened."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.agreement import padded_batch
from tests.artifacts import export_artifact
from tests.records import make_record
from yizhi.converters.onnx_files import U8S8, U8U8, WEIGHT_FILE, graph_file
from yizhi.converters.weight_file import StoredTensor
from yizhi.parity.golden import Golden
from yizhi.parity.integers import check_integers, make_rows, sum_exactly
from yizhi.parity.judge import verify
from yizhi.parity.record import Integers
from yizhi.pipeline.recheck import compare_integers
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import onnx_runtime, open_runtime
from yizhi.runtimes.onnx_products import PRODUCT, adds_signed_exactly

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from yizhi.converters.onnx_int8_graph import Int8Graph, build_integer_check  # noqa: E402

INT8 = onnx.TensorProto.INT8


@pytest.fixture
def artifact(make_checkpoint, tmp_path):
    return export_artifact(Checkpoint.open(make_checkpoint("bert")), "onnx-int8", tmp_path / "int8")


def test_the_model_that_is_asked_is_as_onnx_writes_it():
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("a", kinds.UINT8, ["m", "k"]),
            helper.make_tensor_value_info("b", kinds.INT8, ["k", "n"]),
        ],
        [helper.make_tensor_value_info("y", kinds.INT32, ["m", "n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    assert model.SerializeToString(deterministic=True) == PRODUCT


def saturated(rows, kernel):
    """uint8 × int8 as vpmaddubsw adds them: pairs in 16 bits, saturating; then exactly. [N, I] · [O, I] -> [N, O]."""
    products = rows.astype(np.int64)[:, None, :] * kernel.astype(np.int64)[None]
    pairs = products.reshape(*products.shape[:2], -1, 2).sum(axis=-1)
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=-1) - 128 * kernel.sum(axis=-1, dtype=np.int64)


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("width", [24, 312, 1200, 3072])
def test_integer_sums_are_numpys(tmp_path, width, count):
    """The graph under the plain name everywhere; the other one exactly where the question says so."""
    rows = make_rows(width)[:count]
    kernel = np.random.default_rng(0).integers(-127, 128, (40, width)).astype(np.int8)
    kernel[0], kernel[1] = 127, -127
    exact = sum_exactly(rows, kernel)
    np.testing.assert_array_equal(exact, (rows.astype(np.int64) - 128) @ kernel.T.astype(np.int64))
    assert np.abs(exact).max() < 2**24
    assert (saturated(rows, kernel) != exact).any()
    (tmp_path / WEIGHT_FILE).write_bytes(kernel.tobytes())
    found = {}
    for products in (U8U8, U8S8):
        graph = Int8Graph({"w": StoredTensor(INT8, kernel.shape, 0, kernel.nbytes)}, products)
        build_integer_check(graph, ["w"])
        (tmp_path / f"{products}.onnx").write_bytes(graph.model().SerializeToString())
        session = onnxruntime.InferenceSession(tmp_path / f"{products}.onnx", providers=["CPUExecutionProvider"])
        (found[products],) = session.run(None, {"rows": rows})
    np.testing.assert_array_equal(found[U8U8], exact)
    assert np.array_equal(found[U8S8], exact) == adds_signed_exactly()


@pytest.mark.parametrize("exactly", [True, False])
def test_the_graph_is_chosen_by_what_adds_exactly(artifact, monkeypatch, exactly):
    monkeypatch.setattr(onnx_runtime, "adds_signed_exactly", lambda: exactly)
    with open_runtime(artifact) as runtime:
        assert runtime.settings()["products"] == (U8S8 if exactly else U8U8)
    for name in (U8S8, U8U8):
        assert (artifact / graph_file("serving_default", name)).exists()


def test_both_graphs_give_the_same_bits_where_both_are_exact(artifact, monkeypatch):
    if not adds_signed_exactly():
        pytest.skip("this processor saturates u8s8: its graph is not run here")
    with open_runtime(artifact) as fast:
        inputs = padded_batch(fast.config)
        names = fast.signatures["hidden_states"]
        expected = fast.run(inputs, names)
        assert fast.find_disagreements(inputs) == []
    monkeypatch.setattr(onnx_runtime, "adds_signed_exactly", lambda: False)
    with open_runtime(artifact) as portable:
        found = portable.run(inputs, names)
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("signature", ["serving_default", "logits_at", "step"])
def test_a_wrong_graph_that_this_processor_does_not_run_is_a_fault(open_artifact, tmp_path, signature):
    """Other processors run the plain graph, of the step and of chosen logits too."""
    if not adds_signed_exactly():
        pytest.skip("this processor saturates u8s8: it runs the plain graph itself")
    checkpoint, right = open_artifact("qwen3", "onnx-int8")
    folder = Path(shutil.copytree(right.artifact.folder, tmp_path / "wrong"))
    name = graph_file(signature)
    model = onnx.load(folder / name, load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["half" if output == "logits" else output for output in node.output]
    model.graph.node.append(onnx.helper.make_node("Add", ["half", "half"], ["logits"]))
    (folder / name).write_bytes(model.SerializeToString())
    with open_runtime(folder) as runtime:
        inputs = padded_batch(checkpoint.config)
        assert right.find_disagreements(inputs) == []
        assert runtime.find_disagreements(inputs) == [
            f"{name}: logits differs from that of {graph_file(signature, U8S8)}"
        ]


def test_a_verdict_says_where_it_was_reached(make_checkpoint, artifact):
    golden = Golden.make(Checkpoint.open(make_checkpoint("bert")))
    with open_runtime(artifact) as runtime:
        verdict = verify(runtime, golden, "int8")
    assert verdict.integers.compared == ([U8U8, U8S8] if adds_signed_exactly() else [U8U8])
    assert len(verdict.integers.digest) == 64
    assert verdict.faults == []


def test_sums_that_saturate_are_a_fault(artifact, monkeypatch):
    with open_runtime(artifact) as runtime:
        right, right_faults = check_integers(runtime)
        sums = runtime.integer_sums
        monkeypatch.setattr(
            runtime,
            "integer_sums",
            lambda rows: {U8S8: {name: np.minimum(y, 2000) for name, y in sums(rows)[U8U8].items()}},
        )
        wrong, wrong_faults = check_integers(runtime)
    assert right_faults == []
    assert wrong.digest == right.digest  # it is of the exact sums
    assert "integer sums are wrong" in wrong_faults[0]


def test_a_verdict_reached_on_another_processor_has_the_same_integers(make_checkpoint, artifact, monkeypatch):
    """As the release was judged with VNNI and is verified without, and the reverse: whichever this processor has."""
    golden = Golden.make(Checkpoint.open(make_checkpoint("bert")))
    verdicts = []
    for exactly in (adds_signed_exactly(), False):
        monkeypatch.setattr(onnx_runtime, "adds_signed_exactly", lambda exactly=exactly: exactly)
        with open_runtime(artifact) as runtime:
            verdicts.append(verify(runtime, golden, "int8").record())
    for here, there in (verdicts, verdicts[::-1]):
        told = replace(there.integers, instructions="other")
        compared = compare_integers(here, told)
        assert compared.passed
        assert compared.integers == replace(here.integers, released_on="other")


def test_other_integers_than_the_releases_are_a_fault():
    integers = Integers("a" * 64, [U8U8], "avx2 without VNNI")
    verdict = make_record([0.1], precision="int8", integers=integers)
    assert compare_integers(verdict, replace(integers, instructions="avx512_vnni")).passed
    for found in (verdict, replace(verdict, integers=None)):
        compared = compare_integers(found, Integers("b" * 64, [U8U8], "avx512_vnni"))
        assert not compared.passed
        assert compared.faults[0].startswith(f"integer sums: expected sha256 {'b' * 64}, judged on avx512_vnni; found ")


def test_an_artifact_that_says_nothing_of_its_kernels_is_refused(artifact):
    with open_runtime(artifact) as runtime:
        del runtime.artifact.description["quantization"]
        _, faults = check_integers(runtime)
    assert "export it again" in faults[0]

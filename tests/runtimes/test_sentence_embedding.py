"""`sentence_embedding`: pooled inside the artifact, over a row's own tokens, as `Embedder` and the oracle do it."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.agreement import padded_batch
from tests.artifacts import EVERY_TARGET, export_artifact
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError
from yizhi.model.spec import SENTENCE_EMBEDDING, Pooling
from yizhi.parity import oracle
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.parity.numbers import summarize
from yizhi.parity.weights import audit, digest_tensors
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import Artifact
from yizhi.runtimes import Embedder

TEXTS = ["北京是中国的首都。", "你", ("这个酒店", "服务很好！"), "Hello world, hello"]
POOLINGS = [Pooling("mean", True), Pooling("max", True), Pooling("cls"), Pooling("last", True, 12)]


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
@pytest.mark.parametrize("target", EVERY_TARGET)
def test_padding_does_not_count_and_nothing_but_padding_is_finite(open_artifact, target, pooling):
    checkpoint, runtime = open_artifact("bert", target, pooling)
    inputs = padded_batch(checkpoint.config)
    states, found = runtime.run(inputs, ["last_hidden_state", SENTENCE_EMBEDDING]).values()
    pool = {"mean": lambda x: x.mean(0), "max": lambda x: x.max(0), "cls": lambda x: x[0], "last": lambda x: x[-1]}
    for row, mask in enumerate(inputs.attention_mask[:4]):
        expected = pool[pooling.mode](states[row, mask == 1])[: pooling.dimensions]
        if pooling.normalize:
            expected = expected / np.linalg.norm(expected)
        np.testing.assert_allclose(found[row], expected, atol=2e-6, rtol=1e-5)
    assert np.isfinite(found[4]).all()


@pytest.mark.parametrize(
    "target", ["pytorch", "onnx", "onnx-int8", "openvino", "openvino-int8", "litert", "litert-int8"]
)
@pytest.mark.parametrize(
    ("variant", "pooling"), zip(("bert-no-head", "megatron-bert", "bert", "albert"), POOLINGS, strict=True)
)
def test_it_is_verified_as_the_rest(open_artifact, monkeypatch, target, variant, pooling):
    checkpoint, runtime = open_artifact(variant, target, pooling)
    golden = Golden.make(checkpoint)
    assert golden.per[SENTENCE_EMBEDDING] == "row"
    verdict = verify(runtime, golden, TARGETS[target].precision)
    assert verdict.passed, verdict.faults
    assert SENTENCE_EMBEDDING in verdict.worst()
    assert verdict.change_alone == 0 or TARGETS[target].precision == "fp32"

    run = runtime._run

    def shifted(inputs, outputs):
        found = dict(run(inputs, outputs))
        if SENTENCE_EMBEDDING in found:
            found[SENTENCE_EMBEDDING] = np.roll(found[SENTENCE_EMBEDDING], 1, axis=-1)
        return found

    monkeypatch.setattr(runtime, "_run", shifted)
    faults = verify(runtime, golden, TARGETS[target].precision).faults
    assert faults
    told = (SENTENCE_EMBEDDING, "alone", "8 bits are too few for this model, or its arithmetic is wrong")
    assert all(any(part in fault for part in told) for fault in faults)


@pytest.mark.parametrize("target", ["onnx-int8", "openvino-int8", "litert-int8"])
@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_int8_gives_the_same_bits_with_any_padding(open_artifact, pooling, target):
    """A mean changed in its last bit where a length left two or three tokens over after whole fours."""
    _, runtime = open_artifact("bert", target, pooling)
    ids = np.random.default_rng(0).integers(5, 60, (1, 64))
    for length in (*range(1, 13), 31, 33, 59):
        alone = runtime.run({"input_ids": ids[:, :length]}, [SENTENCE_EMBEDDING])[SENTENCE_EMBEDDING][0]
        for padded in range(length + 1, length + 5):
            rows = np.repeat(ids[:, :padded], 3, axis=0)
            mask = np.ones_like(rows)
            mask[1, length:] = 0
            found = runtime.run({"input_ids": rows, "attention_mask": mask}, [SENTENCE_EMBEDDING])
            np.testing.assert_array_equal(found[SENTENCE_EMBEDDING][1], alone)


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
@pytest.mark.parametrize("target", ["pytorch", "onnx-int8"])
def test_embedder_gives_the_same_inside_and_outside_of_the_graph(open_artifact, monkeypatch, target, pooling):
    _, runtime = open_artifact("bert", target, pooling)
    asked = []
    run = runtime.run
    monkeypatch.setattr(runtime, "run", lambda inputs, outputs: asked.append(outputs) or run(inputs, outputs))
    inside = Embedder(runtime)
    inside_vectors = inside(TEXTS)
    assert all(outputs == [SENTENCE_EMBEDDING] for outputs in asked)
    asked.clear()
    outside = Embedder(runtime, pooling=pooling.mode, normalize=pooling.normalize, dimensions=pooling.dimensions)
    outside._in_graph = False
    outside_vectors = outside(TEXTS)
    assert all(outputs == ["last_hidden_state"] for outputs in asked)
    assert (inside_vectors.dtype, inside_vectors.shape) == (np.float32, outside_vectors.shape)
    np.testing.assert_allclose(inside_vectors, outside_vectors, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({}, True),
        ({"pooling": "mean"}, True),
        ({"normalize": True}, True),
        ({"normalize": False}, False),
        ({"pooling": "max"}, False),
        ({"layers": (-2,)}, False),
        ({"layers": (3,)}, True),
        ({"layers": (-1, -1)}, False),
        ({"dimensions": 8}, True),
        ({"dimensions": 8, "normalize": False}, False),
    ],
)
def test_only_the_same_settings_are_taken_from_the_graph(open_artifact, settings, same):
    _, runtime = open_artifact("bert", "onnx", Pooling("mean", True))
    embed = Embedder(runtime, **settings)
    assert embed._in_graph is same
    norms = np.linalg.norm(embed(TEXTS), axis=1)
    assert np.allclose(norms, 1, atol=1e-5) == (settings.get("normalize", settings.get("pooling") != "max"))


def test_the_oracle_pools_a_rows_own_tokens(make_checkpoint):
    for mode, pool in {"mean": np.mean, "max": np.max, "cls": lambda x, axis: x[0]}.items():
        with Checkpoint.open(make_checkpoint(), Pooling(mode)) as checkpoint:
            inputs = padded_batch(checkpoint.config)
            found = oracle.run(checkpoint, inputs, {"last_hidden_state", SENTENCE_EMBEDDING})
        states = found["last_hidden_state"][2][inputs.attention_mask[2] == 1]
        np.testing.assert_allclose(found[SENTENCE_EMBEDDING][2], pool(states, axis=0), rtol=1e-12)


@pytest.mark.parametrize("target", ["onnx", "pytorch"])
def test_files_for_sentence_transformers(open_artifact, target):
    _, runtime = open_artifact("bert", target, Pooling("max", True))
    folder = runtime.artifact.folder

    def read(name):
        return json.loads((folder / name).read_text(encoding="utf-8"))

    assert [module["type"].rpartition(".")[2] for module in read("modules.json")] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]
    assert read("1_Pooling/config.json") == {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": True,
    }
    arguments = read("sentence_bert_config.json").get("model_args", {})
    assert not arguments or (folder / arguments["file_name"]).is_file()
    assert {"modules.json", "1_Pooling/config.json"} <= runtime.artifact.description["files"].keys()
    assert not runtime.artifact.find_altered_files()


def test_the_first_graph_of_an_encoder_without_head_has_it(open_artifact):
    _, runtime = open_artifact("bert-no-head", "onnx", Pooling("mean"))
    assert SENTENCE_EMBEDDING in runtime.signatures["serving_default"]
    session = onnxruntime.InferenceSession(runtime.artifact.folder / "model.onnx")
    assert [output.shape for output in session.get_outputs() if output.name == SENTENCE_EMBEDDING] == [["batch", 32]]


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_the_graph_holds_nothing_unused(open_artifact, pooling):
    """ONNX Runtime warns of each initializer that no node reads."""
    _, runtime = open_artifact("bert", "onnx", pooling)
    graph = onnx.load(runtime.artifact.folder / "features.onnx", load_external_data=False).graph
    assert {tensor.name for tensor in graph.initializer} <= {name for node in graph.node for name in node.input}


@pytest.mark.parametrize("own", [Pooling("last"), Pooling("last", True), Pooling("last", False, 12)], ids=str)
def test_vectors_are_cut_and_normalized_as_is_asked(open_artifact, own):
    """Whatever the artifact does itself: it need not be exported again for shorter vectors."""
    _, runtime = open_artifact("bert", "onnx", own)
    states = [states[-1] for states in Embedder(runtime, pooling="none", normalize=False)(TEXTS)]
    for size, normalizes in ((8, True), (8, False), (12, True)):
        found = Embedder(runtime, dimensions=size, normalize=normalizes)(TEXTS)
        expected = np.stack(states)[:, :size]
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True) if normalizes else expected
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-5)
    for size in (0, 33):
        with pytest.raises(InputError, match="`dimensions`: expected 1"):
            Embedder(runtime, dimensions=size)


def test_a_dense_module_is_not_left_out_in_silence(open_artifact):
    _, runtime = open_artifact("bert-dense", "onnx")
    assert Embedder(runtime).size == 12
    assert np.allclose(np.linalg.norm(Embedder(runtime, dimensions=5)(TEXTS), axis=1), 1)
    assert Embedder(runtime, layers=(3,), pooling="mean", normalize=True).size == 12
    assert Embedder(runtime, pooling="none").size == 32


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layers": (0,)}, ["`layers`: {rule}; found 0"]),
        ({"layers": (-1, -2)}, ["`layers`: {rule}; found -1, -2"]),
        ({"pooling": "cls"}, ["`pooling`: {rule}; {instead}; found cls"]),
        (
            {"layers": (0,), "pooling": "max", "normalize": False},
            ["`layers`: {rule}; found 0", "`pooling`: {rule}; {instead}; found max"],
        ),
        (
            {"normalize": False},
            ["`normalize`: expected true, because the artifact gives only normalized vectors; found false"],
        ),
        ({"dimensions": 99}, ["`dimensions`: expected 1 … 12; found 99"]),
    ],
)
def test_a_vector_without_the_dense_modules_is_refused(open_artifact, settings, told):
    """It would be cut and normalized as the artifact's own, and belong to no model."""
    _, runtime = open_artifact("bert-dense", "onnx")
    with pytest.raises(InputError) as caught:
        Embedder(runtime, **settings)
    rule = "the artifact's Dense modules follow the mean of its last layer"
    instead = "expected mean, or none for each token's vector"
    assert caught.value.faults == [fault.format(rule=rule, instead=instead) for fault in told]


@pytest.mark.parametrize("target", ["onnx", "openvino-int8", "pytorch"])
def test_a_dense_modules_own_file_is_audited(make_checkpoint, tmp_path, target):
    """Our runtime of a graph does not read it; sentence-transformers does."""
    with Checkpoint.open(make_checkpoint("albert-dense")) as checkpoint:
        artifact = Artifact.read(export_artifact(checkpoint, target, tmp_path / target))
        expected, sums = digest_tensors(checkpoint), summarize(checkpoint)
    assert audit(artifact, expected, sums)[1] == []
    path = artifact.folder / "2_Dense" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    (fault,) = audit(artifact, expected, sums)[1]
    assert "sentence.dense.0.linear." in fault


def test_without_it_nothing_changes(open_artifact):
    _, runtime = open_artifact("bert", "onnx", None)
    assert SENTENCE_EMBEDDING not in runtime.outputs
    assert runtime.pooling is None
    assert not (runtime.artifact.folder / "modules.json").exists()

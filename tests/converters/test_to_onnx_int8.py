from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import prod

import numpy as np
import pytest

from tests.agreement import ARCHITECTURES, padded_batch
from tests.artifacts import export_artifact
from tests.checkpoints import make_spec
from tests.converters.test_to_onnx import SIGNATURES, place, read_graph, stored_weights
from yizhi.converters.onnx_files import U8S8, U8U8, WEIGHT_FILE, graph_file
from yizhi.converters.quantize import INTEGERS, outliers_of, scale_of
from yizhi.converters.weight_file import StoredTensor
from yizhi.model.config import EncoderConfig
from yizhi.model.spec import KERNEL
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import Artifact
from yizhi.runtimes import open_runtime

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from yizhi.converters.int8_plan import quantized_names  # noqa: E402
from yizhi.converters.onnx_int8_graph import Int8Graph  # noqa: E402
from yizhi.converters.quantize import quantize_in_chunks, quantize_rows  # noqa: E402
from yizhi.runtimes.onnx_products import adds_signed_exactly  # noqa: E402

FLOAT, INT8, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.INT64


@pytest.fixture
def export(open_artifact):
    """`export("albert")` returns the checkpoint and the folder of its int8 artifact, which others read too."""

    def make(variant="bert", **changes):
        checkpoint, runtime = open_artifact(variant, "onnx-int8", **changes)
        return checkpoint, runtime.artifact.folder

    return make


def add_outliers(tensors):
    """What trained encoders have: a few channels and rows far larger than the rest."""
    rng = np.random.default_rng(5)
    for array in tensors.values():
        if array.ndim == 2 and min(array.shape) > 3:
            array[:, rng.integers(0, array.shape[1], 2)] *= 40
            array[rng.integers(0, array.shape[0], 2)] *= 25
        elif array.ndim == 1 and array.size > 3:
            array[rng.integers(0, array.size)] *= 30


def read_weights(folder):
    data = (folder / WEIGHT_FILE).read_bytes()
    found = {}
    for signature in SIGNATURES:
        for name, tensor in stored_weights(read_graph(folder, signature)).items():
            _, offset, _ = place(tensor)
            dtype = {FLOAT: np.float32, INT8: np.int8}[tensor.data_type]
            found[name] = np.frombuffer(data, dtype, prod(tensor.dims), offset).reshape(tensor.dims)
    return found


# --- weights


def test_rows_are_rounded_to_127_steps_of_their_own():
    weight = np.array(
        [[127, 0.5, -1.5, 2.5], [-2.54, 0.01, 0.03, 2.0], [0, 0, 0, 0], [1e-38, 0, 0, -2e-38]], np.float32
    )
    values, scale = quantize_rows(weight)
    assert (values.dtype, scale.dtype) == (np.int8, np.float32)
    np.testing.assert_array_equal(values[0], [127, 0, -2, 2])  # halves go to even
    assert values[1, 0] == -127
    np.testing.assert_array_equal(values[2:], 0)
    assert scale[0] == 1
    assert (scale > 0).all()


def test_no_weight_is_off_by_more_than_half_a_step():
    weight = (
        np.random.default_rng(0).normal(0, 1, (300, 77)).astype(np.float32) * np.geomspace(1e-20, 1e20, 300)[:, None]
    )
    weight = weight.astype(np.float32)
    values, scale = quantize_rows(weight)
    error = np.abs(values.astype(np.float64) * scale[:, None] - weight)
    assert (error <= scale[:, None] * 0.5000001).all()
    assert (np.abs(values).max(axis=1) == 127).all()


def test_chunks_join_to_the_whole(monkeypatch):
    monkeypatch.setattr("yizhi.converters.quantize._CHUNK_VALUES", 1000)
    weight = np.random.default_rng(0).normal(0, 1, (307, 77)).astype(np.float32)
    scales = []
    with ThreadPoolExecutor() as pool:
        values = np.concatenate(list(quantize_in_chunks([weight[:40], weight[40:]], scales, pool)))
    assert len(scales) > 10
    expected, expected_scales = quantize_rows(weight)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(np.concatenate(scales), expected_scales)


@pytest.mark.parametrize("variant", [*ARCHITECTURES, "bert-fp16"])
def test_stores_each_weight_once_under_its_canonical_name(export, variant):
    checkpoint, folder = export(variant)
    found, quantized = read_weights(folder), quantized_names(checkpoint.spec)
    assert {parameter.name for parameter in checkpoint.parameters() if parameter.kind == KERNEL} < quantized
    assert checkpoint.spec.word_embeddings.weight in quantized
    said = Artifact.read(folder).description["quantization"]
    outliers, smoothed = said["outliers"], said["smoothed"]
    expected = {parameter.name for parameter in checkpoint.parameters()} | {scale_of(name) for name in quantized}
    assert found.keys() == expected | {outliers_of(name) for name in outliers.keys() - set(smoothed)}
    for parameter in checkpoint.parameters():
        array = checkpoint.array(parameter.name).copy()
        if parameter.name in quantized:
            if parameter.name in smoothed:
                array[:, outliers[parameter.name]] *= 4
            elif channels := outliers.get(parameter.name):
                np.testing.assert_array_equal(found[outliers_of(parameter.name)], array[:, channels].T)
                array[:, channels] = 0
            values, scale = quantize_rows(array)
            np.testing.assert_array_equal(found[parameter.name], values)
            np.testing.assert_array_equal(found[scale_of(parameter.name)], scale)
        else:
            np.testing.assert_array_equal(found[parameter.name], array)


BERT_BASE = {
    "model_type": "bert",
    "vocab_size": 21128,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
ALBERT_LARGE = {
    **BERT_BASE,
    "model_type": "albert",
    "embedding_size": 128,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}


@pytest.mark.parametrize("config", [BERT_BASE, ALBERT_LARGE], ids=["bert-base", "albert-large"])
def test_weights_take_little_more_than_a_quarter(config):
    spec = make_spec(EncoderConfig.from_dict(config))
    quantized = quantized_names(spec)
    float_bytes = sum(4 * prod(parameter.shape) for parameter in spec.parameters())
    int8_bytes = sum(
        prod(parameter.shape) + 4 * parameter.shape[0] if parameter.name in quantized else 4 * prod(parameter.shape)
        for parameter in spec.parameters()
    )
    assert int8_bytes <= 0.27 * float_bytes


def test_files_take_little_more_than_a_quarter(make_checkpoint, tmp_path):
    config = {"hidden_size": 256, "intermediate_size": 1024}
    checkpoint = Checkpoint.open(make_checkpoint("bert", config=config))
    sizes = [
        (export_artifact(checkpoint, target, tmp_path / target) / WEIGHT_FILE).stat().st_size
        for target in ("onnx-int8", "onnx")
    ]
    assert sizes[0] <= 0.27 * sizes[1]


# --- graphs


@pytest.mark.parametrize("variant", ARCHITECTURES)
@pytest.mark.parametrize("signature", [*SIGNATURES, INTEGERS])
@pytest.mark.parametrize("products", [U8U8, U8S8])
def test_is_valid_and_standard_but_for_its_matrix_products(export, variant, signature, products):
    _, folder = export(variant)
    onnx.checker.check_model(folder / graph_file(signature, products), full_check=True)
    model = read_graph(folder, signature, products)
    assert {node.op_type for node in model.graph.node if node.domain} == {"QGemm"}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20), ("com.microsoft", 1)]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def test_query_key_and_value_share_one_quantized_input(export):
    checkpoint, folder = export("albert-groups")
    model = read_graph(folder, "serving_default")
    count = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    # Per layer: its input, the context, the feed-forward's input and its inside. Then the projection's,
    # the pooler's and the head's two inputs, of which the head's first is also the pooler's source.
    assert count == 4 * len(checkpoint.spec.layers) + 4
    products = {node.output[0]: node for node in model.graph.node if node.op_type == "QGemm"}
    first = checkpoint.spec.layers[0]
    inputs = {products[f"{part.name}/QGemm"].input[0] for part in (first.query, first.key, first.value)}
    assert len(inputs) == 1


@pytest.mark.parametrize(("variant", "head"), [("bert", "cls.predictions"), ("roberta", "lm_head")])
def test_embeddings_and_tied_decoder_read_one_tensor(export, variant, head):
    checkpoint, folder = export(variant)
    table = checkpoint.spec.word_embeddings.weight
    decoders = {U8S8: f"{head}/QGemm", U8U8: f"{table}/Cast"}
    for products, decoder in decoders.items():
        nodes = read_graph(folder, "serving_default", products).graph.node
        readers = [node.name for node in nodes if table in node.input]
        assert readers == [f"{checkpoint.spec.word_embeddings.name}/Gather", decoder]


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("products", [U8U8, U8S8] if adds_signed_exactly() else [U8U8])
def test_a_linear_layer_is_exact_where_eight_bits_are(tmp_path, level, products):
    """Powers of two as scales: nothing is rounded, so x Wᵀ + b must come out exactly, optimized or not."""
    rng = np.random.default_rng(0)
    rows, weight = rng.integers(-127, 128, (9, 24)).astype(np.float32), rng.integers(-127, 128, (7, 24))
    rows[:, 3], weight[:, 5] = -127, 127
    rows[0], weight[0] = 127, 127  # sums that saturate in 16 bits
    rows *= 2.0 ** np.arange(-4, 5, dtype=np.float32)[:, None]
    rows[4] = 0
    scale = 2.0 ** np.arange(-3, 4, dtype=np.float32)
    bias = rng.integers(-9999, 9999, 7).astype(np.float32)
    stored = {"w": (INT8, weight.astype(np.int8)), "w.scale": (FLOAT, scale), "b": (FLOAT, bias)}
    weights, data = {}, b""
    for name, (dtype, array) in stored.items():
        weights[name] = StoredTensor(dtype, array.shape, len(data), array.nbytes)
        data += array.tobytes()
    graph = Int8Graph(weights, products)
    x = graph.input("x", FLOAT, ("n", 24))
    graph.output(graph.linear("linear", "w", "b", x), FLOAT, ("n", 7))
    (tmp_path / WEIGHT_FILE).write_bytes(data)
    (tmp_path / "linear.onnx").write_bytes(graph.model().SerializeToString())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(tmp_path / "linear.onnx", options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": rows})
    expected = rows.astype(np.float64) @ (weight * scale[:, None].astype(np.float64)).T + bias
    np.testing.assert_array_equal(found, expected)


# --- answers


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_is_close_to_fp32(open_artifact, variant):
    checkpoint, int8 = open_artifact(variant, "onnx-int8")
    _, fp32 = open_artifact(variant, "onnx")
    inputs = padded_batch(checkpoint.config)
    real = inputs.attention_mask == 1
    for name in (f"hidden_states.{index}" for index in range(len(checkpoint.spec.blocks) + 1)):
        found, expected = (runtime.run(inputs, [name])[name][real] for runtime in (int8, fp32))
        lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
        # Found: 0.9972 after the eight random layers of albert-groups, 0.9996 and more elsewhere.
        assert ((found * expected).sum(-1) / lengths).min() > 0.996


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "variant", ["bert", "albert-groups", "electra-discriminator", "megatron-bert", "nezha", "roformer", "modernbert"]
)
def test_a_row_does_not_depend_on_its_batch_or_padding(export, variant, threads):
    checkpoint, folder = export(variant, config={**_long(variant)}, alter=add_outliers)
    rng = np.random.default_rng(3)
    lengths = [1, 2, 15, 17, 33, 64, 127, 128, 255, 257, 511]
    sentences = [rng.integers(0, checkpoint.config.vocab_size, length) for length in lengths]
    segments = [rng.integers(0, 2, length) for length in lengths]
    with open_runtime(folder, threads=threads) as runtime:
        everything = runtime.signatures["hidden_states"]
        alone = [
            runtime.run({"input_ids": [ids], "token_type_ids": [kinds]}, everything)
            for ids, kinds in zip(sentences, segments, strict=True)
        ]
        for first, second in [*pairwise(range(len(lengths))), (0, 10), (3, 9), (7, 7)]:
            for padding in (0, 1, 16, 37):
                width = min(512, lengths[second] + padding)
                inputs = {name: np.zeros((3, width), int) for name in ("input_ids", "attention_mask", "token_type_ids")}
                inputs["input_ids"][:] = rng.integers(0, checkpoint.config.vocab_size, (3, width))
                for row, index in enumerate((second, first)):  # and a third row of nothing but padding
                    inputs["input_ids"][row, : lengths[index]] = sentences[index]
                    inputs["token_type_ids"][row, : lengths[index]] = segments[index]
                    inputs["attention_mask"][row, : lengths[index]] = 1
                together = runtime.run(inputs, everything)
                for name in everything:
                    assert np.isfinite(together[name]).all()
                    for row, index in enumerate((second, first)):
                        assert_same_bits(together[name][row], alone[index][name][0], lengths[index])


def _long(variant):
    config = {"max_position_embeddings": 512, "num_hidden_layers": 2}
    return config | ({"num_hidden_groups": 2, "inner_group_num": 2} if variant == "albert-groups" else {})


def assert_same_bits(padded, alone, length):
    if padded.shape != alone.shape or padded.shape[0] != alone.shape[0]:
        padded = padded[:length]
    np.testing.assert_array_equal(padded.view(np.int32), alone.view(np.int32))


def silence(tensors):
    for name in tensors:
        if ".LayerNorm." in name:
            tensors[name][:] = 0


def test_rows_of_zeros_stay_finite(export):
    checkpoint, folder = export("bert", alter=silence)
    inputs = padded_batch(checkpoint.config)
    with open_runtime(folder) as runtime:
        found = runtime.run(inputs, ["logits", "pooler_output"])
    bias = checkpoint.array(checkpoint.spec.head.decoder_bias)
    np.testing.assert_array_equal(found["logits"], np.broadcast_to(bias, found["logits"].shape))
    assert np.isfinite(found["pooler_output"]).all()


def test_trained_checkpoint_keeps_its_answer(shared_data, tmp_path):
    checkpoint = Checkpoint.open(shared_data / "checkpoints" / "zh-mini")
    folder = export_artifact(checkpoint, "onnx-int8", tmp_path / "int8")
    tokens = ["[CLS]", *"这个酒店的服务很", "[MASK]", "。", "[SEP]"]
    ids = [checkpoint.vocab.index(token) for token in tokens]
    with open_runtime(folder) as runtime:
        logits = runtime.run({"input_ids": [ids]}, ["logits"])["logits"][0, tokens.index("[MASK]")].astype(np.float64)
    chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = np.argsort(-chances)[:2]
    assert [checkpoint.vocab[index] for index in best] == ["好", "快"]
    np.testing.assert_allclose(chances[best], [0.5802, 0.1623], atol=0.01)

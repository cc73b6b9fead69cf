import gc
import shutil
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from tests.agreement import ARCHITECTURES, assert_agree, padded_batch, run_everything
from tests.artifacts import export_artifact
from yizhi.converters import to_onnx
from yizhi.converters.onnx_files import U8S8, U8U8, WEIGHT_FILE, graph_file
from yizhi.converters.targets import TARGETS
from yizhi.converters.weight_file import StoredTensor
from yizhi.model.spec import SPAN_LOGITS
from yizhi.parity import oracle
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter
from yizhi.runtimes import open_runtime

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from yizhi.converters.forwards.onnx import build_encoder  # noqa: E402

SIGNATURES = ("serving_default", "features", "hidden_states")


@pytest.fixture
def export(open_artifact):
    """`export("albert")` returns the checkpoint and the folder of its fp32 artifact, which others read too."""

    def make(variant="bert"):
        checkpoint, runtime = open_artifact(variant, "onnx")
        return checkpoint, runtime.artifact.folder

    return make


def read_graph(folder, signature, products=U8U8):
    return onnx.load(folder / graph_file(signature, products), load_external_data=False)


def stored_weights(model):
    return {tensor.name: tensor for tensor in model.graph.initializer if tensor.external_data}


def place(tensor):
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries["offset"]), int(entries["length"])


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_agrees_with_the_oracle(export, variant):
    checkpoint, folder = export(variant)
    inputs = padded_batch(checkpoint.config)
    with open_runtime(folder) as runtime:
        assert_agree(run_everything(runtime, inputs), oracle.run(checkpoint, inputs), inputs)


def test_means_the_same_to_the_reference_evaluator(export):
    checkpoint, folder = export("megatron-bert")
    inputs = padded_batch(checkpoint.config)
    names = checkpoint.spec.signatures()["hidden_states"]
    found = ReferenceEvaluator(str(folder / graph_file("hidden_states"))).run(None, inputs.as_dict())
    assert_agree(dict(zip(names, found, strict=True)), oracle.run(checkpoint, inputs), inputs)


@pytest.mark.parametrize("variant", ARCHITECTURES)
@pytest.mark.parametrize("signature", SIGNATURES)
def test_is_valid_and_declares_what_the_signature_says(export, variant, signature):
    checkpoint, folder = export(variant)
    onnx.checker.check_model(folder / graph_file(signature), full_check=True)
    model = read_graph(folder, signature)
    assert [output.name for output in model.graph.output] == list(checkpoint.spec.signatures()[signature])
    for value in model.graph.input:
        assert [axis.dim_param for axis in value.type.tensor_type.shape.dim] == ["batch", "length"]
    for value in model.graph.output:
        axes = tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
        assert axes == checkpoint.spec.output_axes(value.name)
    assert (model.ir_version, model.opset_import[0].version, len(model.opset_import)) == (9, 20, 1)


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_initializers_are_the_checkpoint_each_stored_once(export, variant):
    checkpoint, folder = export(variant)
    data = (folder / WEIGHT_FILE).read_bytes()
    places = {}
    for signature in SIGNATURES:
        for name, tensor in stored_weights(read_graph(folder, signature)).items():
            places.setdefault(name, place(tensor))
            assert place(tensor) == places[name]
            location, offset, length = places[name]
            assert location == WEIGHT_FILE
            assert tuple(tensor.dims) == checkpoint.array(name).shape
            assert data[offset : offset + length] == checkpoint.array(name).tobytes()
    assert places.keys() == {parameter.name for parameter in checkpoint.parameters()}
    extents = sorted((offset, offset + length) for _, offset, length in places.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(extents))
    assert len(data) - sum(length for *_, length in places.values()) < 4096 * len(places)
    for _, offset, length in places.values():
        assert offset % (4096 if length >= 4096 else 64) == 0


def test_signatures_use_only_the_weights_they_need(export):
    checkpoint, folder = export("bert")
    head = {parameter.name for parameter in checkpoint.spec.head.parameters()} - {checkpoint.spec.head.decoder}
    assert head <= stored_weights(read_graph(folder, "serving_default")).keys()
    assert not head & stored_weights(read_graph(folder, "features")).keys()


@pytest.mark.parametrize("variant", ["bert", "albert-groups"])
def test_nodes_are_named_after_what_they_use(export, variant):
    checkpoint, folder = export(variant)
    nodes = read_graph(folder, "hidden_states").graph.node
    assert max(Counter(node.name for node in nodes).values()) == 1
    gemms = [node for node in nodes if node.op_type == "Gemm"]
    query = checkpoint.spec.layers[-1].query
    repeats = sum(layer.query == query for layer in checkpoint.spec.layers)
    named = [node for node in gemms if node.name.startswith(f"{query.name}/Gemm")]
    assert len(named) == repeats
    assert {tuple(node.input[1:]) for node in named} == {(query.weight, query.bias)}
    # Six linear layers in each, the pooler, the head's two, and ALBERT's projection.
    factorised = checkpoint.spec.embeddings_projection is not None
    assert len(gemms) == 6 * len(checkpoint.spec.layers) + 3 + factorised


def test_nothing_is_left_to_a_default(make_checkpoint, tmp_path):
    config = {"layer_norm_eps": 3e-5, "hidden_act": "gelu_new"}
    checkpoint = Checkpoint.open(make_checkpoint("bert", config=config))
    folder = export_artifact(checkpoint, "onnx", tmp_path / "onnx")
    model = read_graph(folder, "serving_default")
    attributes = {}
    for node in model.graph.node:
        attributes.setdefault(node.op_type, []).append(
            {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        )
    assert all(found["epsilon"] == np.float32(3e-5) for found in attributes["LayerNormalization"])
    assert all(found["approximate"] == b"tanh" for found in attributes["Gelu"])
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    assert onnx.numpy_helper.to_array(constants["mask_value"]) == np.finfo(np.float32).min
    assert (model.doc_string, model.producer_version, len(model.metadata_props)) == ("", "", 0)
    assert not any(node.doc_string for node in model.graph.node)


@pytest.mark.parametrize("target", ["onnx", "onnx-int8"])
def test_the_same_checkpoint_gives_the_same_bytes(make_checkpoint, tmp_path, target):
    files = []
    for name in ("one", "another"):
        checkpoint = Checkpoint.open(make_checkpoint("albert-groups", name=name))
        folder = export_artifact(checkpoint, target, tmp_path / f"{name}-release" / target)
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1]
    assert {"model.onnx", "features.onnx", "hidden_states.onnx", WEIGHT_FILE} <= files[0].keys()
    assert not any(str(tmp_path).encode() in data for data in files[0].values())


def test_export_holds_no_tensor_in_memory(make_checkpoint, tmp_path):
    folder = make_checkpoint("bert", config={"num_hidden_layers": 1, "hidden_size": 512, "intermediate_size": 16384})
    checkpoint = Checkpoint.open(folder)  # its two largest kernels take 32 MiB each
    gc.collect()
    tracemalloc.start()
    try:
        to_onnx.convert(checkpoint, ArtifactWriter(tmp_path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


@pytest.mark.parametrize("target", ["onnx", "onnx-int8"])
@pytest.mark.filterwarnings("ignore")
def test_loads_in_optimum(make_checkpoint, tmp_path, target):
    optimum = pytest.importorskip("optimum.onnxruntime")
    torch = pytest.importorskip("torch")
    checkpoint = Checkpoint.open(make_checkpoint("bert"))
    folder = export_artifact(checkpoint, target, tmp_path / target)
    model = optimum.ORTModelForMaskedLM.from_pretrained(folder)
    inputs = padded_batch(checkpoint.config)
    found = model(**{name: torch.from_numpy(array) for name, array in inputs.as_dict().items()})
    with open_runtime(folder) as runtime:
        expected = runtime.run(inputs, ["logits"])["logits"]
    np.testing.assert_array_equal(found.logits.numpy(), expected)


@pytest.mark.parametrize("target", ["onnx", "onnx-int8"])
@pytest.mark.parametrize("variant", ["bert-reader", "albert-reader"])
def test_a_readers_graph_gives_both_columns_by_name(open_artifact, target, variant):
    checkpoint, runtime = open_artifact(variant, target)
    folder = runtime.artifact.folder
    for products in (U8U8, U8S8) if target == "onnx-int8" else (U8U8,):
        onnx.checker.check_model(folder / graph_file("serving_default", products), full_check=True)
        declared = read_graph(folder, "serving_default", products).graph.output
        assert [output.name for output in declared] == [*runtime.signatures["serving_default"], *SPAN_LOGITS]
        for value in declared[-2:]:
            assert [axis.dim_param for axis in value.type.tensor_type.shape.dim] == ["batch", "length"]
    assert not set(SPAN_LOGITS) & {output.name for output in read_graph(folder, "hidden_states").graph.output}
    inputs = padded_batch(checkpoint.config)
    session = onnxruntime.InferenceSession(folder / graph_file("serving_default"))
    starts, ends = session.run(list(SPAN_LOGITS), inputs.as_dict())
    np.testing.assert_array_equal(np.stack([starts, ends], axis=-1), runtime.run(inputs, ["logits"])["logits"])
    assert runtime.find_disagreements(inputs) == []


@pytest.mark.parametrize("target", ["onnx", "onnx-int8"])
@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (("end_logits", "start_logits"), "model.onnx: start_logits is not logits[..., 0]"),
        (("start_logits", "ends"), "model.onnx: lacks the output end_logits"),
    ],
)
def test_verify_sees_a_wrong_column(open_artifact, tmp_path, target, names, fault):
    checkpoint, runtime = open_artifact("bert-reader", target)
    folder = shutil.copytree(runtime.artifact.folder, tmp_path / target)
    model = read_graph(folder, "serving_default")
    renamed = dict(zip(SPAN_LOGITS, names, strict=True))
    for entry in model.graph.node:
        entry.output[:] = [renamed.get(name, name) for name in entry.output]
    for output in model.graph.output:
        output.name = renamed.get(output.name, output.name)
    (folder / graph_file("serving_default")).write_bytes(model.SerializeToString())
    with open_runtime(folder) as opened:
        verdict = verify(opened, Golden.make(checkpoint), TARGETS[target].precision)
    assert not verdict.passed
    assert fault in verdict.faults


def test_a_session_is_opened_when_first_needed_and_once(export):
    checkpoint, folder = export("bert")
    inputs = padded_batch(checkpoint.config)
    with open_runtime(folder, threads=1) as runtime:
        assert not runtime._sessions
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: runtime.run(inputs, ["pooler_output"])["pooler_output"], range(16)))
        assert list(runtime._sessions) == ["features"]
        for array in found[1:]:
            np.testing.assert_array_equal(array, found[0])
        runtime.run(inputs)
        assert list(runtime._sessions) == ["features", "serving_default"]
    assert not runtime._sessions


def test_values_inside_a_layer_can_be_graph_outputs(export, tmp_path):
    checkpoint, folder = export("albert-groups")
    folder = shutil.copytree(folder, tmp_path / "onnx")
    weights = {
        name: StoredTensor(tensor.data_type, tuple(tensor.dims), *place(tensor)[1:])
        for name, tensor in stored_weights(read_graph(folder, "hidden_states")).items()
    }
    roles = ("query", "key", "value", "context", "attention_output", "after_attention", "intermediate", "output")
    names = [f"layers.{number}.{role}" for number in (0, 7) for role in roles]
    graph = to_onnx.Float32Graph(weights)
    build_encoder(graph, checkpoint.spec, names)
    (folder / "inside.onnx").write_bytes(graph.model().SerializeToString())
    inputs = padded_batch(checkpoint.config)
    found = ReferenceEvaluator(str(folder / "inside.onnx")).run(None, inputs.as_dict())
    assert_agree(dict(zip(names, found, strict=True)), oracle.run(checkpoint, inputs, set(names)), inputs)


def test_a_constant_has_one_value():
    graph = to_onnx.Float32Graph({})
    graph.constant("half", onnx.TensorProto.FLOAT, 0.5)
    with pytest.raises(ValueError, match="half"):
        graph.constant("half", onnx.TensorProto.FLOAT, 0.25)

"""What is particular to LiteRT's models; parity_tests holds every family and task to the oracle."""

import gc
import io
import shutil
import subprocess
import sys
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from tests.agreement import ARCHITECTURES, padded_batch, run_everything
from tests.artifacts import export_artifact
from tests.converters.test_to_onnx_int8 import add_outliers
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError
from yizhi.model.layout import LITERT_CONSTANT, LITERT_MODEL
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import Artifact, ArtifactWriter
from yizhi.runtimes import open_runtime

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from yizhi.converters import litert_file, to_litert
from yizhi.converters.litert_file import write_model
from yizhi.converters.litert_graph import ANY, FLOAT, INT8, Buffers, Signature, Weight
from yizhi.converters.litert_int8_graph import Int8Graph

BOTH = ["litert", "litert-int8"]
KERNELS = [OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES]


def read_model(folder):
    return schema.ModelT.InitFromPackedBuf((folder / LITERT_MODEL).read_bytes())


def operators(model, subgraph):
    """(operator, its version, names of inputs, name of the result) of each."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    tensors = [tensor.name.decode() for tensor in subgraph.tensors]
    codes = [(names[code.builtinCode], code.version) for code in model.operatorCodes]
    return [
        (*codes[one.opcodeIndex], [tensors[number] for number in one.inputs if number >= 0], tensors[one.outputs[0]])
        for one in subgraph.operators
    ]


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_operators_are_named_after_the_parameters_they_use(open_artifact, variant):
    checkpoint, runtime = open_artifact(variant, "litert")
    model = read_model(runtime.artifact.folder)
    found = operators(model, model.subgraphs[0])
    assert len({name for *_, name in found}) == len(found)
    query = checkpoint.spec.layers[-1].query
    repeats = sum(layer.query == query for layer in checkpoint.spec.layers)
    named = [one for one in found if one[3].startswith(f"{query.name}/FULLY_CONNECTED")]
    assert len(named) == repeats
    parameters = tuple(parameter.name for parameter in query.parameters())
    assert {tuple(inputs[1:]) for _, _, inputs, _ in named} == {parameters}


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize("variant", ["bert", "albert-groups"])
def test_every_parameter_is_stored_once_whichever_subgraphs_use_it(open_artifact, variant, target):
    checkpoint, runtime = open_artifact(variant, target)
    model = read_model(runtime.artifact.folder)
    used = {
        tensor.name.decode(): tensor.buffer
        for subgraph in model.subgraphs
        for tensor in subgraph.tensors
        if tensor.buffer
    }
    names = {name for name in used if not name.startswith(LITERT_CONSTANT) and not name.endswith(".outliers")}
    assert names == {parameter.name for parameter in checkpoint.parameters()}
    assert len({used[name] for name in names}) == len(names)
    # Of a masked-language model: all outputs, those without the head, and logits at positions.
    assert [signature.subgraphIndex for signature in model.signatureDefs] == [0, 1, 0, 2]


def test_signatures_share_a_subgraph_where_none_would_compute_a_vocabulary_in_vain(open_artifact):
    _, runtime = open_artifact("bert-classifier", "litert")
    assert len(read_model(runtime.artifact.folder).subgraphs) == 1


def test_nothing_is_left_to_a_default(make_checkpoint, tmp_path):
    checkpoint = Checkpoint.open(make_checkpoint("bert", config={"layer_norm_eps": 3e-5, "hidden_act": "gelu_new"}))
    model = read_model(export_artifact(checkpoint, "litert", tmp_path / "litert"))
    (graph, *_) = model.subgraphs
    options = [one.builtinOptions for one in graph.operators]
    assert {one.approximate for one in options if isinstance(one, schema.GeluOptionsT)} == {True}
    values = {
        tensor.name.decode().removeprefix(LITERT_CONSTANT): bytes(model.buffers[tensor.buffer].data)
        for tensor in graph.tensors
        if tensor.name.decode().startswith(LITERT_CONSTANT)
    }
    assert values["epsilon.3e-05"] == np.float32(3e-5).tobytes()
    assert values["mask_value"] == np.finfo(np.float32).min.tobytes()


@pytest.mark.parametrize("target", BOTH)
def test_the_same_checkpoint_gives_the_same_bytes(make_checkpoint, tmp_path, target):
    files = []
    for name in ("one", "another"):
        checkpoint = Checkpoint.open(make_checkpoint("albert-groups", name=name))
        folder = export_artifact(checkpoint, target, tmp_path / f"{name}-release" / target)
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1]
    assert not any(str(tmp_path).encode() in data for data in files[0].values())


def test_export_holds_no_tensor_in_memory(make_checkpoint, tmp_path):
    folder = make_checkpoint("bert", config={"num_hidden_layers": 1, "hidden_size": 512, "intermediate_size": 16384})
    checkpoint = Checkpoint.open(folder)  # its two largest kernels take 32 MiB each
    gc.collect()
    tracemalloc.start()
    try:
        to_litert.convert(checkpoint, ArtifactWriter(tmp_path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


@pytest.mark.parametrize("target", BOTH)
def test_a_file_beyond_two_gigabytes_says_where_its_values_are(open_artifact, tmp_path, target, monkeypatch):
    checkpoint, near = open_artifact("bert", target)
    monkeypatch.setattr(litert_file, "LARGEST_NEAR", 100_000)
    folder = export_artifact(checkpoint, target, tmp_path / target)
    assert all(buffer.data is None and buffer.size for buffer in read_model(folder).buffers[1:])
    far, before = (TARGETS[target].stored_tensors(path) for path in (folder, near.artifact.folder))
    for one, other in zip(far, before, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.array(), other.array())
    assert TARGETS[target].compare_graphs(Artifact.read(folder), checkpoint.spec) == (3, [])
    inputs = padded_batch(checkpoint.config)
    with open_runtime(folder) as runtime:
        found, expected = (run_everything(one, inputs) for one in (runtime, near))
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_int8_is_a_quarter_of_fp32(make_checkpoint, tmp_path):
    wide = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
    for variant in ("bert", "albert"):
        checkpoint = Checkpoint.open(make_checkpoint(variant, config=wide))
        sizes = [
            (export_artifact(checkpoint, target, tmp_path / variant / target) / LITERT_MODEL).stat().st_size
            for target in BOTH
        ]
        assert sizes[1] <= 0.3 * sizes[0]  # of a BERT-base 0.258: there the tables are a smaller part


LITERT_ALONE = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
model = Interpreter(sys.argv[1]).get_signature_runner("serving_default")
for shape in ((1, 3), (4, 17), (2, 1), (1, 3)):
    ids = np.full(shape, 7, np.int32)
    found = model(input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids))
    print(found["last_hidden_state"].shape, np.abs(found["last_hidden_state"] - found["last_hidden_state"][:1]).max())
print({"tensorflow", "jax", "torch", "onnx", "yizhi"} & {*sys.modules})
"""


@pytest.mark.parametrize("target", BOTH)
def test_it_runs_with_litert_alone_at_any_batch_and_length(open_artifact, target):
    folder = open_artifact("albert-groups", target)[1].artifact.folder
    command = [sys.executable, "-c", LITERT_ALONE, str(folder / LITERT_MODEL)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    assert done.stdout.split("\n")[:-1] == [
        "(1, 3, 32) 0.0",
        "(4, 17, 32) 0.0",
        "(2, 1, 32) 0.0",
        "(1, 3, 32) 0.0",
        "set()",
    ]


@pytest.mark.parametrize("target", BOTH)
def test_a_cut_file_is_a_clean_error(open_artifact, tmp_path, target):
    folder = shutil.copytree(open_artifact("bert", target)[1].artifact.folder, tmp_path / target)
    data = (folder / LITERT_MODEL).read_bytes()
    (folder / LITERT_MODEL).write_bytes(data[:-100])
    with pytest.raises(InputError, match="is not a LiteRT model, or is damaged"):
        open_runtime(folder)


def test_the_runtime_says_which_kernels_it_has(open_artifact, monkeypatch):
    _, runtime = open_artifact("bert", "litert")
    assert runtime.settings() == {"kernels": "xnnpack"}
    with open_runtime(runtime.artifact.folder) as other:
        other._interpreter = Interpreter(
            str(runtime.artifact.folder / LITERT_MODEL),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        assert other.settings() == {"kernels": "builtin"}


def test_a_constant_has_one_value():
    graph = Int8Graph(Buffers({}))
    assert graph.constant("one", 1) is graph.constant("one", 1)
    with pytest.raises(ValueError, match="one: already a constant of another value"):
        graph.constant("one", 2)


# --- int8


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.name)
@pytest.mark.parametrize("shape", [(9, 24), (3, 3, 24)])
def test_a_linear_layer_is_exact_where_eight_bits_are(kernels, shape):
    """Powers of two as scales, and each row from −128 to 127: nothing is rounded."""
    rng = np.random.default_rng(0)
    rows, weight = rng.integers(-128, 128, (9, 24)).astype(np.float32), rng.integers(-127, 128, (7, 24))
    rows[:, 3], rows[:, 4], weight[:, 5] = -128, 127, 127
    rows[0, 5:], weight[0] = 127, 127  # sums that saturate in 16 bits
    rows *= 2.0 ** np.arange(-4, 5, dtype=np.float32)[:, None]
    scale = 2.0 ** np.arange(-3, 4, dtype=np.float32)
    bias = rng.integers(-9999, 9999, 7).astype(np.float32)
    data = {"w": weight.astype(np.int8).tobytes(), "b": bias.tobytes()}
    buffers = Buffers({"w": Weight(INT8, (7, 24), scale), "b": Weight(FLOAT, (7,))})
    graph = Int8Graph(buffers)
    x = graph.input("x", FLOAT, (ANY,) * (len(shape) - 1) + (24,))
    graph.output("y", graph.linear("linear", "w", "b", x))
    file = io.BytesIO()
    write_model(file, buffers, {"linear": Signature(graph, ("y",))}, lambda name: [data[name]])
    model = Interpreter(model_content=file.getvalue(), experimental_op_resolver_type=kernels)
    found = model.get_signature_runner("linear")(x=rows.reshape(shape))["y"]
    expected = rows.astype(np.float64) @ (weight * scale[:, None].astype(np.float64)).T + bias
    np.testing.assert_array_equal(found.reshape(9, 7), expected)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "variant", ["bert", "albert-groups", "electra-discriminator", "megatron-bert", "nezha", "roformer", "modernbert"]
)
def test_a_row_does_not_depend_on_its_batch_or_padding(open_artifact, variant, threads):
    config = {"max_position_embeddings": 512, "num_hidden_layers": 2}
    if variant == "albert-groups":
        config |= {"num_hidden_groups": 2, "inner_group_num": 2}
    checkpoint, opened = open_artifact(variant, "litert-int8", config=config, alter=add_outliers)
    rng = np.random.default_rng(3)
    lengths = [1, 2, 15, 17, 33, 64, 127, 128, 255, 257, 511]
    sentences = [rng.integers(0, checkpoint.config.vocab_size, length) for length in lengths]
    with open_runtime(opened.artifact.folder, threads=threads) as runtime:
        everything = runtime.signatures["hidden_states"]
        alone = [runtime.run({"input_ids": [ids]}, everything) for ids in sentences]
        for first, second in [*pairwise(range(len(lengths))), (0, 10), (3, 9), (7, 7)]:
            for padding in (0, 1, 16, 37):
                width = min(512, lengths[second] + padding)
                inputs = {name: np.zeros((3, width), int) for name in ("input_ids", "attention_mask")}
                inputs["input_ids"][:] = rng.integers(0, checkpoint.config.vocab_size, (3, width))
                for row, index in enumerate((second, first)):  # and a third row of nothing but padding
                    inputs["input_ids"][row, : lengths[index]] = sentences[index]
                    inputs["attention_mask"][row, : lengths[index]] = 1
                together = runtime.run(inputs, everything)
                for name in everything:
                    assert np.isfinite(together[name]).all()
                    for row, index in enumerate((second, first)):
                        found, expected = together[name][row], alone[index][name][0]
                        cut = found if found.shape == expected.shape else found[: lengths[index]]
                        np.testing.assert_array_equal(cut, expected, err_msg=f"{name} {lengths[index]} in {width}")

"""The audit of stored tensors: what is sound passes in every target, and what no case looks at is found by name."""

import json
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from tests.artifacts import EVERY_TARGET, export_artifact, slow
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError
from yizhi.parity.golden import Golden
from yizhi.parity.int8_faults import scale_one_kernel
from yizhi.parity.judge import verify
from yizhi.parity.numbers import summarize
from yizhi.parity.record import WeightAudit
from yizhi.parity.weights import audit, digest_tensors
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import Artifact
from yizhi.runtimes import open_runtime

WORDS = "bert.embeddings.word_embeddings.weight"
VARIANTS = ["bert", "bert-untied", "bert-fp16", "albert-groups", "electra-discriminator", "megatron-bert"]


@pytest.fixture
def export(make_checkpoint, tmp_path):
    def make(variant, target, **options):
        checkpoint = Checkpoint.open(make_checkpoint(variant, name=f"{variant}-source"))
        folder = export_artifact(checkpoint, target, tmp_path / "release" / target, **options)
        return checkpoint, Artifact.read(folder)

    return make


def look(artifact, checkpoint, at_hand=False, **changes):
    expected = {**digest_tensors(checkpoint), **changes}
    return audit(artifact, expected, summarize(checkpoint), checkpoint if at_hand else None)


def change_bytes(tensor, offset, data):
    with open(tensor.path, "r+b") as file:
        file.seek(tensor.spans[0][0] + offset)
        file.write(data)


def find(artifact, name):
    return next(one for one in TARGETS[artifact.target].stored_tensors(artifact.folder) if one.name == name)


def is_int8(target):
    return TARGETS[target].precision == "int8"


@pytest.mark.parametrize("variant", [*VARIANTS, "bert-adapter_plus"])
@pytest.mark.parametrize("target", EVERY_TARGET)
def test_sound_artifacts_pass(export, variant, target):
    checkpoint, artifact = export(variant, target)
    result, faults = look(artifact, checkpoint)
    assert faults == []
    tensors = len(checkpoint.parameters())
    assert result.exact + result.rounded == tensors
    assert (result.rounded > 0) == is_int8(target)
    if is_int8(target):
        exact, faults = look(artifact, checkpoint, at_hand=True)
        assert (exact, faults) == (WeightAudit(result.exact, result.rounded, 0), [])


@pytest.mark.parametrize("target", ["pytorch", "flax", "onnx", "litert", slow("tensorflow")])
def test_int8_is_quantized_again_from_a_float32_artifact_beside_it(export, target):
    export("bert", target)
    checkpoint, artifact = export("bert", "onnx-int8")
    result, faults = look(artifact, checkpoint)
    assert (result.requantized, result.rounded, faults) == (21, 0, [])
    # A sibling with other numbers proves nothing, and is not believed.
    sibling = Artifact.read(artifact.folder.parent / target)
    for name in {tensor.name for tensor in TARGETS[target].stored_tensors(sibling.folder)}:
        change_bytes(find(sibling, name), 0, b"\1\2\3\4")
    result, faults = look(artifact, checkpoint)
    assert (result.requantized, result.rounded, faults) == (0, 21, [])


def test_another_checkpoint_at_hand_proves_nothing(export, make_checkpoint):
    checkpoint, artifact = export("bert", "onnx-int8")
    with Checkpoint.open(make_checkpoint("bert", name="another", seed=1)) as another:
        result, faults = audit(artifact, digest_tensors(checkpoint), summarize(checkpoint), another)
    assert (result.requantized, result.rounded, faults) == (0, 21, [])


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_one_ulp_of_a_layer_norm(export, target):
    checkpoint, artifact = export("bert", target)
    name = checkpoint.spec.layers[1].output_norm.weight
    (value,) = struct.unpack("<f", next(iter(find(artifact, name).chunks()))[:4])
    change_bytes(find(artifact, name), 0, np.nextafter(np.float32(value), np.float32(9)).tobytes())
    _, faults = look(artifact, checkpoint)
    assert faults
    assert all(fault.endswith(f"{name}: differs from the checkpoint's") for fault in faults)


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_two_rare_rows_swapped(export, target):
    checkpoint, artifact = export("bert-no-head", target)
    tensor = find(artifact, WORDS)
    width = tensor.array().itemsize * tensor.shape[1]
    rows = [tensor.array()[row].tobytes() for row in (70, 71)]
    change_bytes(tensor, 70 * width, b"".join(reversed(rows)))
    _, (fault,) = look(artifact, checkpoint, at_hand=True)
    says = "row 70 and 1 more: differs from the checkpoint's numbers, quantized" if is_int8(target) else "differs from"
    assert f"{WORDS}: {says}" in fault


def test_an_element_that_no_case_reads_fails_the_verdict(make_checkpoint, tmp_path):
    """A headless model's cases look at few rows of its embedding table; here at all but one of 4,000."""
    vocab = [*Checkpoint.open(make_checkpoint()).vocab, *(f"##unseen{number}" for number in range(4000))]
    folder = make_checkpoint("bert-no-head", config={"vocab_size": len(vocab)}, vocab=vocab)
    with Checkpoint.open(folder) as checkpoint:
        golden = Golden.make(checkpoint)
        artifact = export_artifact(checkpoint, "pytorch", tmp_path / "pytorch")
    seen = {int(token) for case in golden.cases for token in case.inputs.input_ids.ravel()}
    row = max(set(range(len(vocab))) - seen)
    tensor = find(Artifact.read(artifact), WORDS)
    change_bytes(tensor, row * 4 * tensor.shape[1], b"\0\0\0\0")
    with open_runtime(artifact) as runtime:
        verdict = verify(runtime, golden, "fp32")
    assert not verdict.failed_outputs()
    assert verdict.faults == [f"model.safetensors: {WORDS}: differs from the checkpoint's"]


def test_scales_off_by_three_percent(export):
    checkpoint, artifact = export("bert", "onnx-int8")
    layer = checkpoint.spec.layers[1]
    scale_one_kernel(artifact.folder, layer)
    _, (rounded,) = look(artifact, checkpoint)
    assert rounded.startswith(f"{layer.output.weight}: its values are 1.0")
    _, (exact,) = look(artifact, checkpoint, at_hand=True)
    assert exact.endswith(f"{layer.output.weight}: row 0 and 31 more: differs from the checkpoint's numbers, quantized")


def test_one_scale_by_one_ulp(export):
    checkpoint, artifact = export("bert", "onnx-int8")
    name = checkpoint.spec.layers[0].value.weight
    scale = find(artifact, f"{name}.scale")
    (value,) = struct.unpack("<f", next(iter(scale.chunks()))[12:16])
    change_bytes(scale, 12, np.nextafter(np.float32(value), np.float32(9)).tobytes())
    assert look(artifact, checkpoint)[1] == []  # within rounding
    _, (fault,) = look(artifact, checkpoint, at_hand=True)
    assert f"{name}: row 3: differs from the checkpoint's numbers, quantized" in fault


def test_every_tensor_is_looked_at(export):
    checkpoint, artifact = export("bert", "pytorch")
    for name, digest in digest_tensors(checkpoint).items():
        _, faults = look(artifact, checkpoint, **{name: replace(digest, sha256="0" * 64)})
        assert faults == [
            f"{'pooler' if 'pooler' in name else 'model'}.safetensors: {name}: differs from the checkpoint's"
        ]
    _, faults = look(artifact, checkpoint, **{"bert.another.weight": digest})
    assert faults == ["bert.another.weight: is not stored"]


def test_int8_kernels_are_all_looked_at(export):
    """Without the checkpoint: of each parameter's sums, some negated; its own fault, and no other."""
    checkpoint, artifact = export("bert", "onnx-int8")
    expected, sound = digest_tensors(checkpoint), summarize(checkpoint)
    quantized = [name for name in sound if f"{name}.scale" in artifact.description["quantization"]["stored"]]
    assert len(quantized) == 21
    for name in quantized:
        changed = sound[name].copy()
        changed[::3] *= -1
        faults = audit(artifact, expected, {**sound, name: changed})[1]
        assert [fault.partition(":")[0] for fault in faults] == [name]


def test_what_is_kept_in_float32_must_be_equal(export):
    checkpoint, artifact = export("bert", "onnx-int8", keep_fp32=["bert", "cls"])
    result, faults = look(artifact, checkpoint)
    assert (result, faults) == (WeightAudit(exact=len(checkpoint.parameters())), [])


def test_a_graph_that_reads_another_place_is_found(export):
    """All graphs must agree with each other and with artifact.json: runtimes read the graphs alone."""
    onnx = pytest.importorskip("onnx")
    checkpoint, artifact = export("bert", "onnx-int8")
    path = artifact.folder / "features.onnx"
    model = onnx.load(path, load_external_data=False)
    query, key = (getattr(checkpoint.spec.layers[0], part).weight for part in ("query", "key"))
    places = {tensor.name: tensor for tensor in model.graph.initializer}
    moved = next(entry for entry in places[f"{query}.scale"].external_data if entry.key == "offset")
    moved.value = next(entry for entry in places[f"{key}.scale"].external_data if entry.key == "offset").value
    path.write_bytes(model.SerializeToString())
    _, faults = look(artifact, checkpoint)
    assert faults[0] == f"features.onnx: {query}.scale: lies elsewhere than artifact.json says"


@pytest.mark.parametrize("file", ["features.onnx", "logits_at.onnx"])
@pytest.mark.parametrize("kind", ["initializer", "typed", "constant node", "list", "renamed"])
def test_numbers_of_a_graph_s_own(export, file, kind):
    """One graph of several takes a table of its own, which no file of weights has: its cases may not read it."""
    onnx = pytest.importorskip("onnx")
    checkpoint, artifact = export("bert", "onnx")
    path = artifact.folder / file
    model = onnx.load(path)  # with the values
    table = next(tensor for tensor in model.graph.initializer if tensor.name == WORDS)
    array = onnx.numpy_helper.to_array(table).copy()
    array[70] = 0
    bare = onnx.load(path, load_external_data=False)
    stored = next(tensor for tensor in bare.graph.initializer if tensor.name == WORDS)
    own = onnx.numpy_helper.from_array(array, "own" if kind == "renamed" else WORDS)
    if kind == "typed":
        own = onnx.helper.make_tensor(WORDS, onnx.TensorProto.FLOAT, array.shape, array.ravel().tolist())
    bare.graph.initializer.remove(stored)
    if kind == "list":
        bare.graph.node.insert(0, onnx.helper.make_node("Constant", [], [WORDS], value_floats=array.ravel().tolist()))
    elif kind == "constant node":
        bare.graph.node.insert(0, onnx.helper.make_node("Constant", [], [WORDS], name="own/Constant", value=own))
    else:
        bare.graph.initializer.append(own)
    if kind == "renamed":
        for node in bare.graph.node:
            node.input[:] = ["own" if name == WORDS else name for name in node.input]
    path.write_bytes(bare.SerializeToString())
    with pytest.raises(InputError, match=rf"{file}: .*(numbers of the graph's own|a node with numbers, a tensor)"):
        look(artifact, checkpoint)


def test_two_graphs_in_one_file(export):
    """protobuf joins them; a reader of one of the two would miss what the other holds."""
    onnx = pytest.importorskip("onnx")
    checkpoint, artifact = export("bert", "onnx")
    path = artifact.folder / "features.onnx"
    second = onnx.ModelProto()
    second.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "own"))
    path.write_bytes(second.SerializeToString() + path.read_bytes())
    with pytest.raises(InputError, match="not one graph"):
        look(artifact, checkpoint)


def test_a_format_by_which_loaders_read_it_otherwise(export):
    from safetensors.numpy import load_file, save_file

    checkpoint, artifact = export("bert-no-head", "pytorch")
    path = artifact.folder / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "tf"})
    with pytest.raises(InputError, match="format: expected 'pt'; found 'tf'"):
        look(artifact, checkpoint)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ({"location": "../model.onnx.data"}, "expected a file in this folder"),
        ({"location": "/etc/passwd"}, "expected a file in this folder"),
        ({"offset": "-4"}, "expected a file in this folder, an offset"),
        ({"length": "12"}, "does not take 12 bytes"),
    ],
)
def test_external_data_that_cannot_be(export, place, says):
    onnx = pytest.importorskip("onnx")
    checkpoint, artifact = export("bert", "onnx")
    path = artifact.folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    stored = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    for entry in stored.external_data:
        entry.value = place.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=says):
        look(artifact, checkpoint)


@pytest.mark.parametrize(
    ("target", "file"),
    [
        ("pytorch", "model.safetensors"),
        ("flax", "flax_model.msgpack"),
        ("onnx", "features.onnx"),
        ("onnx", "model.onnx.data"),
        ("litert", "model.tflite"),
        slow("tensorflow", "variables/variables.index"),
        slow("tensorflow", "variables/variables.data-00000-of-00001"),
    ],
)
def test_cut_files_are_clean_errors(export, target, file):
    checkpoint, artifact = export("bert", target)
    data = (artifact.folder / file).read_bytes()
    for size in (0, 1, 7, len(data) // 2, len(data) - 1):
        (artifact.folder / file).write_bytes(data[:size])
        with pytest.raises(InputError):
            look(artifact, checkpoint)


def test_random_bytes_in_a_flax_tree_are_clean_errors(export):
    checkpoint, artifact = export("bert", "flax")
    path = artifact.folder / "flax_model.msgpack"
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        altered = bytearray(data)
        for place in rng.integers(0, 4000, 3):
            altered[place] = rng.integers(256)
        path.write_bytes(altered)
        try:
            _, faults = look(artifact, checkpoint)
        except InputError:
            continue
        assert faults or bytes(altered) == data


def test_a_large_flax_tensor_in_pieces(export, monkeypatch):
    monkeypatch.setattr("yizhi.converters.to_flax.MAX_CHUNK_BYTES", 1000)
    checkpoint, artifact = export("bert", "flax")
    assert len(find(artifact, WORDS).spans) > 10
    assert look(artifact, checkpoint)[1] == []
    change_bytes(find(artifact, WORDS), 8, b"\0\0\0\0")
    assert look(artifact, checkpoint)[1] == [f"flax_model.msgpack: {WORDS}: differs from the checkpoint's"]


@pytest.mark.parametrize("target", ["pytorch", "flax", "onnx", "litert"])
def test_memory_does_not_grow_with_the_model(make_checkpoint, tmp_path, target):
    wide = {"hidden_size": 256, "intermediate_size": 8192, "num_hidden_layers": 4}
    with Checkpoint.open(make_checkpoint("bert-no-head", config=wide)) as checkpoint:
        artifact = Artifact.read(export_artifact(checkpoint, target, tmp_path / target))
        expected, sums = digest_tensors(checkpoint), summarize(checkpoint)
    tracemalloc.start()
    _, faults = audit(artifact, expected, sums)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (faults, peak < 6 * 2**20) == ([], True)  # the weights are 70 MB


def test_an_older_release_says_what_its_golden_lacks(make_checkpoint, tmp_path):
    with Checkpoint.open(make_checkpoint("bert-no-head")) as checkpoint:
        Golden.make(checkpoint).write(tmp_path)
    cases = json.loads((tmp_path / "cases.json").read_text())
    del cases["weights"]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    with pytest.raises(InputError, match="weights"):
        Golden.read(tmp_path)


def test_the_checkpoints_pages_are_let_go(make_checkpoint, tmp_path, monkeypatch):
    with Checkpoint.open(make_checkpoint("bert-no-head")) as checkpoint:
        artifact = Artifact.read(export_artifact(checkpoint, "onnx-int8", tmp_path / "onnx-int8"))
        expected, sums = digest_tensors(checkpoint), summarize(checkpoint)
        released = []
        monkeypatch.setattr(Checkpoint, "release", lambda self, name: released.append(name))
        result, faults = audit(artifact, expected, sums, checkpoint)
    assert faults == []
    assert len(set(released)) == result.requantized > 0

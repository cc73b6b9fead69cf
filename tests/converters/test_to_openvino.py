import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.artifacts import export_artifact
from yizhi.cli import main
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError, NotRun
from yizhi.model.spec import MASK_VALUE, SPAN_LOGITS
from yizhi.reading.openvino_tensors import read_constants, read_openvino
from yizhi.release.artifact import Artifact
from yizhi.runtimes import open_runtime

openvino = pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

from yizhi.parity.openvino_graphs import compare_graphs  # noqa: E402

TARGET_NAMES = [name for name, target in TARGETS.items() if target.extra == "openvino"]
GRAPHS = {"openvino_model.xml", "features.xml", "hidden_states.xml", "logits_at.xml"}


@pytest.fixture
def folder(open_artifact, tmp_path):
    """A copy of a float32 artifact, to be damaged."""
    return Path(shutil.copytree(open_artifact("bert", "openvino")[1].artifact.folder, tmp_path / "openvino"))


def compare(folder):
    with open_runtime(folder) as runtime:
        spec = runtime.build_spec({place.name for place in read_openvino(folder)})
    return compare_graphs(Artifact.read(folder), spec)


@pytest.mark.parametrize("target", TARGET_NAMES)
def test_graphs_share_one_file_of_weights(open_artifact, target):
    checkpoint, runtime = open_artifact("bert", target)
    folder = runtime.artifact.folder
    assert {path.name for path in folder.glob("*.xml")} == GRAPHS | ({"integers.xml"} if "int8" in target else set())
    assert [path.name for path in folder.glob("*.bin")] == ["openvino_model.bin"]
    places = read_openvino(folder)
    by_name = {place.name: {other.spans for other in places if other.name == place.name} for place in places}
    assert all(len(spans) == 1 for spans in by_name.values())
    assert {parameter.name for parameter in checkpoint.parameters()} <= by_name.keys()


def test_weights_are_the_checkpoints_bytes_and_nodes_have_their_names(open_artifact):
    checkpoint, runtime = open_artifact("bert", "openvino")
    for place in read_openvino(runtime.artifact.folder):
        np.testing.assert_array_equal(place.array(), checkpoint.array(place.name))
    model = openvino.Core().read_model(runtime.artifact.folder / "openvino_model.xml")
    names = [node.get_friendly_name() for node in model.get_ordered_ops()]
    assert len(names) == len(set(names))
    assert {f"{layer.query.name}/MatMul" for layer in checkpoint.spec.layers} <= set(names)


def test_shared_layers_are_stored_once(open_artifact):
    checkpoint, runtime = open_artifact("albert-groups", "openvino")
    graph = read_constants(runtime.artifact.folder / "features.xml")
    kernel = checkpoint.spec.layers[0].query.weight
    assert len(checkpoint.spec.layers) > len({layer.query.weight for layer in checkpoint.spec.layers})
    assert [constant.name for constant in graph].count(kernel) == 1


@pytest.mark.parametrize("target", TARGET_NAMES)
def test_the_same_bytes_twice(open_artifact, tmp_path, target):
    checkpoint, runtime = open_artifact("bert", target)
    again = export_artifact(checkpoint, target, tmp_path / "again")
    assert (again / "artifact.json").read_bytes() == (runtime.artifact.folder / "artifact.json").read_bytes()


def test_a_reader_names_its_two_columns(open_artifact):
    runtime = open_artifact("bert-reader", "openvino")[1]
    model = openvino.Core().read_model(runtime.artifact.folder / "openvino_model.xml")
    assert set(SPAN_LOGITS) < {name for output in model.outputs for name in output.names}
    assert runtime.artifact.description["columns"] == {"start_logits": 0, "end_logits": 1}


def test_floats_are_float32_whatever_the_processor_has(open_artifact):
    runtime = open_artifact("bert", "openvino")[1]
    assert runtime.settings()["inference_precision"] == "f32"


def test_damaged_files_are_one_error(folder):
    (folder / "openvino_model.bin").write_bytes(b"short")
    (folder / "features.xml").unlink()
    with open_runtime(folder) as runtime:
        for outputs in (["logits"], ["last_hidden_state"]):
            with pytest.raises(InputError, match="OpenVINO cannot read the model: "):
                runtime.run({"input_ids": [[5, 6]]}, outputs)


def test_no_gpu(open_artifact):
    with pytest.raises(NotRun, match="no strict for openvino on cuda"):
        open_runtime(open_artifact("bert", "openvino")[1].artifact.folder, device="cuda")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("variant", ["bert", "albert-groups", "megatron-bert", "nezha", "roformer", "modernbert"])
def test_an_int8_row_does_not_depend_on_its_batch_or_padding(open_artifact, variant, threads):
    folder = open_artifact(variant, "openvino-int8")[1].artifact.folder
    with open_runtime(folder, threads=threads) as runtime:
        random = np.random.default_rng(0)
        longest = runtime.config.longest
        outputs = runtime.signatures["hidden_states"]
        for length in (1, 3, 15, 16, 17, longest - 1):
            row = random.integers(5, 20, (1, length))
            alone = runtime.run({"input_ids": row}, outputs)
            for padded in {length, length + 1, longest}:
                ids = random.integers(5, 20, (3, padded))
                ids[1, :length] = row
                mask = np.ones_like(ids)
                mask[1, length:] = 0
                found = runtime.run({"input_ids": ids, "attention_mask": mask}, outputs)
                for name in outputs:
                    one, other = found[name][1], alone[name][0]
                    np.testing.assert_array_equal(one[:length] if one.ndim > 1 else one, other, err_msg=name)


def test_a_release_of_both_is_verified_again(make_checkpoint, tmp_path, capsys):
    release = tmp_path / "release"
    targets = [argument for name in TARGET_NAMES for argument in ("--target", name)]
    assert main(["export", str(make_checkpoint()), "--out", str(release), *targets]) == 0
    capsys.readouterr()
    assert main(["verify", str(release), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [rows[name]["parity"]["weights"]["graphs"] for name in TARGET_NAMES] == [4, 5]


def test_graphs_are_those_that_would_be_written(folder):
    assert compare(folder) == (4, [])


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("features.xml", 'approximation_mode="ERF"', 'approximation_mode="TANH"', "features.xml: is not the graph"),
        ("logits_at.xml", "<net", "<other", "logits_at.xml: is not an OpenVINO graph, or is damaged"),
    ],
)
def test_another_graph_is_told(folder, file, old, new, says):
    with open_runtime(folder) as runtime:
        spec = runtime.build_spec({place.name for place in read_openvino(folder)})
    text = (folder / file).read_text()
    (folder / file).write_text(text.replace(old, new, 1))
    _, (fault,) = compare_graphs(Artifact.read(folder), spec)
    assert says in fault


def test_another_number_in_a_graphs_own_constant_is_told(folder):
    constants = read_constants(folder / "features.xml")
    hides = next(one for one in constants if one.dtype == "F32" and one.array().tolist() == MASK_VALUE)
    with open(folder / "openvino_model.bin", "r+b") as file:
        file.seek(hides.spans[0][0])
        file.write(np.float32(-10000).tobytes())
    _, faults = compare(folder)
    assert any(re.search(r"Constant_?\d*: expected .*; found -10000", fault) for fault in faults)


def test_a_graph_that_nobody_wrote_is_told(folder):
    shutil.copy(folder / "features.xml", folder / "more.xml")
    assert compare(folder)[1] == ["more.xml: no graph of this artifact"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<net><layers>", "is damaged"),
        ('<!DOCTYPE net [<!ENTITY a "aaaa">]><net>&a;</net>', "declares entities"),
        ("<net/>", "expected OpenVINO graphs"),
        ('<net><layer type="Const" name="w"/></net>', "expected a shape, an offset and a size"),
        (
            '<net><layer type="Const" name="w"><data element_type="f32" shape="4" offset="0" size="4"/></layer></net>',
            "w: F32 [4] does not take 4 bytes",
        ),
        (
            '<net><layer type="Const" name="w"><data element_type="f32" shape="-4" offset="0" size="4"/></layer></net>',
            "found '-4'",
        ),
        (
            '<net><layer type="Const" name="Constant_7"><data element_type="f32" shape="9" offset="0" size="36"/>'
            "</layer></net>",
            "Constant_7: holds 9 numbers of its own",
        ),
    ],
)
def test_a_file_that_is_no_graph_is_told(tmp_path, text, says):
    (tmp_path / "openvino_model.xml").write_text(text)
    with pytest.raises(InputError) as raised:
        read_openvino(tmp_path)
    assert says in str(raised.value)


def test_an_empty_folder_has_no_graphs(tmp_path):
    with pytest.raises(InputError, match="found none"):
        read_openvino(tmp_path)

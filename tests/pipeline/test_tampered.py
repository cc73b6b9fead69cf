"""Releases that were edited and sealed again: what the code decides, no file of a release may decide otherwise."""

import json
import os
import shutil

import onnx
import pytest
from safetensors.numpy import load_file, save_file

from tests.checkpoints import write_json
from yizhi.cli import main
from yizhi.parity.golden import Golden
from yizhi.parity.texts import check_texts
from yizhi.release.artifact import Artifact
from yizhi.release.manifest import GOLDEN, describe_release, read_manifest, write_manifest
from yizhi.storage.digests import describe_folder, sha256_of_file


@pytest.fixture
def release(make_checkpoint, tmp_path):
    folder = tmp_path / "release"
    assert main(["export", str(make_checkpoint()), "--out", str(folder), "--target", "pytorch"]) == 0
    return folder


def seal(release, change=lambda manifest: None):
    """Give the manifest the digests of what lies there now."""
    manifest = read_manifest(release)
    manifest["golden"] = describe_folder(release / GOLDEN)
    change(manifest)
    write_manifest(release, manifest)


def edit_cases(release, change):
    path = release / GOLDEN / "cases.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    change(description)
    write_json(path, description)
    seal(release)


def test_sealing_an_unaltered_release_changes_nothing(release, capsys):
    before = (release / "manifest.json").read_bytes()
    seal(release)
    assert (release / "manifest.json").read_bytes() == before
    assert main(["verify", str(release)]) == 0


@pytest.mark.parametrize(("keep", "says"), [(0, "holds no cases"), (3, "golden: masks: the case is missing")])
def test_cases_that_were_taken_out(release, capsys, keep, says):
    edit_cases(release, lambda description: description.update(cases=description["cases"][:keep]))
    assert main(["verify", str(release)]) != 0
    assert says in " ".join(capsys.readouterr().out.split())


def test_a_case_that_asks_for_less(release, capsys):
    arrays = load_file(release / GOLDEN / "golden.safetensors")
    arrays["masks/input_ids"][0, 3] += 1
    save_file(arrays, release / GOLDEN / "golden.safetensors")
    seal(release)
    assert main(["verify", str(release)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "golden: masks: is not the case that this version of Yizhi makes" in said


@pytest.mark.parametrize("part", ["cases", "answers", "files"])
def test_a_contract_that_was_emptied(release, capsys, part):
    def empty(description):
        description["text"][part] = {} if part == "files" else []

    edit_cases(release, empty)
    assert main(["verify", str(release)]) == 1
    named = {"cases": "texts"}.get(part, part)
    assert f"golden: {named}: " in " ".join(capsys.readouterr().out.split())


def reseal_artifact(folder):
    """Give `artifact.json` the digests of what lies there now."""
    description = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    apart = ("artifact.json", "README.md")
    description["files"] = {name: found for name, found in describe_folder(folder).items() if name not in apart}
    write_json(folder / "artifact.json", description)


def change_modules(folder):
    (folder / "modules.json").unlink()


def shorten(folder):
    path = folder / "sentence_bert_config.json"
    write_json(path, {**json.loads(path.read_text()), "max_seq_length": 4})


def forget_labels(folder):
    config = json.loads((folder / "config.json").read_text())
    names = config.pop("id2label"), config.pop("label2id", None)
    write_json(folder / "config.json", {**config, "num_labels": len(names[0])})


def change_problem(folder):
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "problem_type": "multi_label_classification"})


@pytest.mark.parametrize(
    ("variant", "options", "change", "says"),
    [
        ("bert-no-head", ["--pooling", "cls"], change_modules, "modules.json: is missing"),
        ("bert-no-head", ["--pooling", "cls"], shorten, "longest text in tokens: expected 64; found 4"),
        ("bert-classifier", [], forget_labels, "config.json: labels: expected"),
        ("bert-classifier", [], change_problem, "config.json: problem_type: expected"),
    ],
)
def test_what_other_loaders_read(make_checkpoint, tmp_path, variant, options, change, says):
    """Our own runtime reads artifact.json; transformers and sentence-transformers read these."""
    folder = tmp_path / "release"
    assert main(["export", str(make_checkpoint(variant)), "--out", str(folder), "--target", "pytorch", *options]) == 0
    golden = Golden.read(folder / GOLDEN)
    change(folder / "pytorch")
    reseal_artifact(folder / "pytorch")
    faults = check_texts(Artifact.read(folder / "pytorch"), golden.text)
    assert any(says in fault for fault in faults), faults


def test_a_tolerance_in_the_manifest(release, capsys):
    def widen(manifest):
        manifest["artifacts"]["pytorch"]["parity"]["tolerance"]["absolute"] = 0.5

    seal(release, widen)
    assert main(["verify", str(release)]) == 1
    assert "manifest.json: tolerance: expected this version's" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_what_is_no_file(release, tmp_path, capsys, kind):
    path = release / "pytorch" / "extra.bin"
    if kind == "symlink":
        path.symlink_to("/etc/passwd")
    else:
        os.mkfifo(path)
    assert main(["verify", str(release)]) == 1
    assert "extra.bin" in capsys.readouterr().out


def test_a_file_that_became_a_link(release, tmp_path, capsys):
    path = release / "pytorch" / "config.json"
    (tmp_path / "elsewhere.json").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.json")
    assert main(["verify", str(release)]) == 1
    assert "config.json" in capsys.readouterr().out


def test_a_pickle_in_a_checkpoint_is_never_opened(make_checkpoint, tmp_path):
    folder = make_checkpoint()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    assert main(["export", str(folder), "--out", str(tmp_path / "out"), "--target", "pytorch"]) == 0
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def onnx_release(make_checkpoint, tmp_path):
    folder = tmp_path / "onnx-release"
    targets = ["--target", "onnx", "--target", "onnx-int8"]
    assert main(["export", str(make_checkpoint()), "--out", str(folder), *targets]) == 0
    return folder


def reseal(release):
    """Give every artifact, and the manifest, the digests of what lies there now."""
    manifest = read_manifest(release)
    for name in manifest["artifacts"]:
        reseal_artifact(release / name)
    artifacts = [Artifact.read(release / name) for name in manifest["artifacts"]]
    parity = {name: entry["parity"] for name, entry in manifest["artifacts"].items()}
    write_manifest(release, describe_release(release, manifest["source"], artifacts, parity))


def edit_graph(path, change):
    model = onnx.load(path, load_external_data=False)
    change(model.graph)
    path.write_bytes(model.SerializeToString(deterministic=True))


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("onnx/features.onnx", "features.onnx: is not the graph that this version writes: node: expected"),
        ("onnx-int8/model_u8s8.onnx", "model_u8s8.onnx: is not the graph that this version writes: node: expected"),
        ("onnx-int8/integers.onnx", "integers.onnx: is not the graph that this version writes: node: expected"),
    ],
)
def test_a_graph_that_computes_the_same_in_another_way(onnx_release, capsys, file, says):
    def insert(graph):
        last = graph.node[-1]
        (name,) = last.output
        last.output[0] = f"{name}.before"
        graph.node.add(op_type="Identity", input=[f"{name}.before"], output=[name], name="added/Identity")

    edit_graph(onnx_release / file, insert)
    reseal(onnx_release)
    assert main(["verify", str(onnx_release)]) == 1
    assert says in " ".join(capsys.readouterr().out.split())


def test_a_graph_that_nobody_wrote(onnx_release, capsys):
    shutil.copy(onnx_release / "onnx" / "features.onnx", onnx_release / "onnx" / "features_v2.onnx")
    reseal(onnx_release)
    assert main(["verify", str(onnx_release)]) == 1
    assert "features_v2.onnx: no graph of this artifact" in " ".join(capsys.readouterr().out.split())


def test_graphs_are_counted_where_they_are_compared(onnx_release, capsys):
    record = read_manifest(onnx_release)["artifacts"]
    assert [record[name]["parity"]["weights"]["graphs"] for name in ("onnx", "onnx-int8")] == [4, 10]
    description = json.loads((onnx_release / "onnx" / "artifact.json").read_text(encoding="utf-8"))
    description["made_with"]["converters"] = "0" * 64  # as another version would say
    write_json(onnx_release / "onnx" / "artifact.json", description)
    reseal(onnx_release)
    assert main(["verify", str(onnx_release), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [rows[name]["parity"]["weights"]["graphs"] for name in ("onnx", "onnx-int8")] == [0, 10]


def edit(path, **changes):
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("config.json", {"tie_word_embeddings": False}, "config.json: differs from the checkpoint's"),
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "config.json: differs from the checkpoint's"),
        ("artifact.json", {"task": "features"}, "artifact.json: task: expected 'fill-mask'; found 'features'"),
        ("artifact.json", {"precision": "int8"}, "artifact.json: precision: expected 'fp32'; found 'int8'"),
        ("artifact.json", {"inputs": {}}, "artifact.json: inputs: expected {"),
        ("artifact.json", {"tokens": 5}, "artifact.json: tokens: expected None; found 5"),
        (
            "artifact.json",
            {"pooling": {"mode": "cls", "normalize": False}},
            "artifact.json: pooling: expected None; found",
        ),
        ("adapter_config.json", None, "'adapter_config.json': is no file of pytorch"),
        ("modeling_bert.py", None, "'modeling_bert.py': is no file of pytorch"),
    ],
)
def test_what_an_artifact_claims(release, capsys, file, changes, says):
    path = release / "pytorch" / file
    if changes is None:
        path.write_text("{}")  # transformers would load an adapter, or run code
    else:
        edit(path, **changes)
    reseal(release)
    assert main(["verify", str(release)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert says in said
    assert "exit code" not in said


def test_an_artifact_under_another_targets_name(onnx_release, capsys):
    edit(onnx_release / "onnx" / "artifact.json", target="pytorch")
    manifest = read_manifest(onnx_release)
    manifest["artifacts"]["onnx"]["artifact.json"] = sha256_of_file(onnx_release / "onnx" / "artifact.json")
    write_manifest(onnx_release, manifest)
    assert main(["verify", str(onnx_release)]) == 1
    assert "artifact.json: target: expected onnx; found pytorch" in " ".join(capsys.readouterr().out.split())

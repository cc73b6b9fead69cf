"""`yizhi export` and `yizhi verify` on small checkpoints, through the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import write_variant
from yizhi.cli import main
from yizhi.release.artifact import DESCRIPTION
from yizhi.release.manifest import write_manifest
from yizhi.storage.digests import sha256_of_file
from yizhi.storage.json_files import to_json

pytestmark = pytest.mark.slow

# Two targets whose frameworks start fast; parity_tests covers all five.
TARGETS = ("--target", "pytorch", "--target", "onnx")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_variant(tmp_path_factory.mktemp("export") / "checkpoint", "bert")


@pytest.fixture(scope="module")
def finished_release(checkpoint) -> Path:
    release = checkpoint.parent / "release"
    assert main(["export", str(checkpoint), "--out", str(release), *TARGETS]) == 0
    return release


@pytest.fixture
def release(finished_release, tmp_path) -> Path:
    return Path(shutil.copytree(finished_release, tmp_path / "release"))


def test_release_holds_what_its_manifest_says(finished_release):
    manifest = json.loads((finished_release / "manifest.json").read_text())
    assert set(manifest["artifacts"]) == {"pytorch", "onnx"}
    assert all(entry["parity"]["passed"] for entry in manifest["artifacts"].values())
    files = {path.name for path in finished_release.iterdir()}
    documents = {"README.md", "bom.cdx.json", "provenance.json"}
    assert files == {"manifest.json", *documents, "golden", "report", "pytorch", "onnx"}


def test_a_second_build_elsewhere_has_the_same_manifest(checkpoint, finished_release, tmp_path):
    """In another folder and other processes, of which one runs at a time."""
    again = tmp_path / "again"
    assert main(["export", str(checkpoint), "--out", str(again), "--jobs", "1", *TARGETS]) == 0
    assert (again / "manifest.json").read_bytes() == (finished_release / "manifest.json").read_bytes()


def test_second_run_exports_nothing(checkpoint, release, capsys):
    before = {path: path.stat().st_mtime_ns for path in release.rglob("*")}
    assert main(["export", str(checkpoint), "--out", str(release), *TARGETS]) == 0
    assert capsys.readouterr().out.count("up to date") == 2
    assert {path: path.stat().st_mtime_ns for path in release.rglob("*")} == before


def test_adding_a_target_keeps_the_others(checkpoint, tmp_path, capsys):
    release = tmp_path / "release"
    assert main(["export", str(checkpoint), "--out", str(release), "--target", "onnx"]) == 0
    assert main(["export", str(checkpoint), "--out", str(release), *TARGETS]) == 0
    assert capsys.readouterr().out.count("up to date") == 1
    assert set(json.loads((release / "manifest.json").read_text())["artifacts"]) == {"pytorch", "onnx"}


def test_pooling_is_exported_verified_and_taken_back(checkpoint, tmp_path, capsys):
    release = tmp_path / "release"
    command = ["export", str(checkpoint), "--out", str(release), "--target", "onnx"]
    assert main([*command, "--pooling", "mean", "--normalize"]) == 0
    manifest = json.loads((release / "manifest.json").read_text())
    assert manifest["source"]["pooling"] == {"mode": "mean", "normalize": True}
    assert manifest["artifacts"]["onnx"]["outputs"]["sentence_embedding"] == ["batch", 32]
    assert "sentence_embedding" in manifest["artifacts"]["onnx"]["parity"]["worst"]
    assert main(command) == 0
    assert "up to date" not in capsys.readouterr().out
    assert "sentence_embedding" not in (release / "manifest.json").read_text()


def test_a_folder_s_own_modules_are_exported_and_cut(make_checkpoint, tmp_path, capsys):
    folder, release = make_checkpoint("bert-dense"), tmp_path / "release"
    command = ["export", str(folder), "--out", str(release), "--target", "pytorch", "--target", "onnx"]
    assert main([*command, "--dimensions", "6"]) == 0
    assert "as asked" not in capsys.readouterr().err
    manifest = json.loads((release / "manifest.json").read_text())
    pooling = manifest["source"]["pooling"]
    assert (pooling["mode"], pooling["dimensions"], pooling["normalize"]) == ("mean", 6, True)
    assert [dense["activation"] for dense in pooling["dense"]] == ["tanh", "identity"]
    assert "2_Dense/model.safetensors" in manifest["source"]["files"]
    assert manifest["artifacts"]["onnx"]["outputs"]["sentence_embedding"] == ["batch", 6]
    assert main(["verify", str(release)]) == 0


def test_a_pooling_that_the_folder_contradicts_is_warned_of(make_checkpoint, tmp_path, capsys):
    folder = make_checkpoint("bert-last")
    assert (
        main(["convert", str(folder), "--out", str(tmp_path / "out"), "--target", "pytorch", "--pooling", "mean"]) == 0
    )
    told = capsys.readouterr()
    assert "modules.json: sentence-transformers gives last; artifacts give mean, as asked" in told.out + told.err
    assert "This drops" not in told.out + told.err


def test_dimensions_of_no_vector_are_refused(checkpoint, tmp_path, capsys):
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "release"), "--dimensions", "8"]) == 2
    assert "--dimensions" in capsys.readouterr().err
    assert not (tmp_path / "release").exists()


def test_normalize_alone_is_refused(checkpoint, tmp_path, capsys):
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "release"), "--normalize"]) == 2
    assert "--pooling" in capsys.readouterr().err
    assert not (tmp_path / "release").exists()


def test_two_builds_are_identical(checkpoint, finished_release, tmp_path):
    other = tmp_path / "elsewhere" / "release"
    assert main(["export", str(checkpoint), "--out", str(other), *TARGETS]) == 0
    files = {path.relative_to(other) for path in other.rglob("*") if path.is_file() and "report" not in path.parts}
    assert files == {
        path.relative_to(finished_release)
        for path in finished_release.rglob("*")
        if path.is_file() and "report" not in path.parts
    }
    for name in files:
        assert (other / name).read_bytes() == (finished_release / name).read_bytes(), name


@pytest.mark.parametrize(
    "victim", ["onnx/model.onnx.data", "pytorch/vocab.txt", "golden/golden.safetensors", "onnx/artifact.json"]
)
def test_verify_names_an_altered_file(release, victim, capsys):
    path = release / victim
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main(["verify", str(release)]) == 1
    assert Path(victim).name in capsys.readouterr().out


def test_verify_names_extra_and_missing_files(release, capsys):
    (release / "pytorch" / "extra.txt").write_text("x")
    (release / "onnx" / "vocab.txt").unlink()
    (release / "notes.txt").write_text("x")
    assert main(["verify", str(release)]) == 1
    printed = capsys.readouterr().out
    assert "extra.txt: not listed" in printed
    assert "vocab.txt: missing" in printed
    assert "notes.txt: not listed" in printed


def test_verify_names_the_first_layer_where_kernels_were_swapped(release, capsys):
    """The hashes are right, so only the outputs can tell."""
    folder = release / "pytorch"
    path = folder / "model.safetensors"
    swap(path, "bert.encoder.layer.1.attention.self.query.weight", "bert.encoder.layer.1.attention.self.key.weight")
    rehash(release, "pytorch")
    assert main(["verify", str(release)]) == 1
    assert "first layer that differs: hidden_states.2, the output of layer 1" in capsys.readouterr().out


def test_verify_of_a_target_that_the_release_has_not(release, capsys):
    assert main(["verify", str(release), "--target", "flax", "--target", "onnx"]) == 2
    assert capsys.readouterr().err == f"yizhi: {release}:\n  - has no flax; it has pytorch, onnx\n"


def test_verify_of_an_artifact_with_nothing_to_run_it_against(release, capsys):
    shutil.rmtree(release / "golden")
    assert main(["verify", str(release / "onnx")]) == 2
    assert "there is no golden/ beside it" in capsys.readouterr().err


def test_verify_of_one_artifact(release, capsys):
    assert main(["verify", str(release / "onnx"), "--report", str(release.parent / "report")]) == 0
    assert json.loads((release.parent / "report" / "parity.json").read_text())["targets"]["onnx"]["passed"]


def test_unfinished_release_is_refused(release, capsys):
    (release / "manifest.json").unlink()
    assert main(["verify", str(release)]) == 2
    assert "has no manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["export", "{checkpoint}", "--out", "{tmp}/r", "--target", "onyx"], "unknown: onyx"),
        (["export", "{tmp}/nowhere", "--out", "{tmp}/r"], "expected an existing folder"),
        (["export", "{checkpoint}", "--out", "{checkpoint}/config.json"], "cannot be written"),
        (["verify", "{tmp}"], "has no manifest.json"),
        (["inspect", "{tmp}"], "config.json: the file is missing"),
        (["synthesize", "--out", "{tmp}/r", "--config", "{tmp}/none.json"], "the file is missing"),
    ],
)
def test_bad_input_is_one_error_and_nothing_written(arguments, expected, checkpoint, tmp_path, capsys):
    filled = [argument.format(checkpoint=checkpoint, tmp=tmp_path) for argument in arguments]
    assert main(filled) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_missing_framework_fails_its_target_alone(checkpoint, tmp_path, capsys, monkeypatch):
    # Child processes look for distributions on their own path, so hide one by renaming what is needed.
    script = (
        "import sys\n"
        "from yizhi.converters import targets\n"
        "real = targets.version\n"
        "def version(name):\n"
        "    if name == 'onnxruntime':\n"
        "        raise targets.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "targets.version = version\n"
    )
    (tmp_path / "sitecustomize.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path.cwd())]))
    code = main(["export", str(checkpoint), "--out", str(tmp_path / "r"), *TARGETS])
    printed = capsys.readouterr().out
    assert code != 0
    assert "pip install 'yizhi[onnx]'" in printed
    assert "1 of 2 passed" in printed
    assert not (tmp_path / "r" / "manifest.json").exists()


def test_concurrent_export_is_refused(checkpoint, tmp_path, capsys):
    import fcntl

    release = tmp_path / "r"
    release.mkdir()
    descriptor = os.open(release, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert main(["export", str(checkpoint), "--out", str(release), *TARGETS]) == 2
    finally:
        os.close(descriptor)
    assert "another export" in capsys.readouterr().err


def test_killed_export_leaves_nothing_that_looks_complete(checkpoint, tmp_path):
    release = tmp_path / "r"
    command = [sys.executable, "-m", "yizhi", "export", str(checkpoint), "--out", str(release), *TARGETS]
    process = subprocess.Popen(command, start_new_session=True)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (release / "manifest.json").exists()
    assert main(command[3:]) == 0
    assert main(["verify", str(release)]) == 0


def swap(path: Path, first: str, second: str) -> None:
    """Exchange two tensors of equal shape in a safetensors file."""
    from safetensors.numpy import load_file, save_file

    tensors = {name: np.array(array) for name, array in load_file(path).items()}
    tensors[first], tensors[second] = tensors[second], tensors[first]
    save_file(tensors, path, metadata={"format": "pt"})


def rehash(release: Path, target: str) -> None:
    """Make artifact.json and manifest.json agree with the files again, as a forger would."""
    folder = release / target
    description = json.loads((folder / DESCRIPTION).read_text())
    for name in description["files"]:
        description["files"][name] = {"sha256": sha256_of_file(folder / name), "size": (folder / name).stat().st_size}
    (folder / DESCRIPTION).write_text(to_json(description))
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["artifacts"][target] |= {"files": description["files"], DESCRIPTION: sha256_of_file(folder / DESCRIPTION)}
    write_manifest(release, manifest)

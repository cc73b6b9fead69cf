"""Releases that were edited and sealed again: what the code decides, no file of a release may decide otherwise."""

import json
import os

import pytest
from safetensors.numpy import load_file, save_file

from tests.checkpoints import write_json
from yizhi.cli import main
from yizhi.release.manifest import GOLDEN, read_manifest, write_manifest
from yizhi.storage.digests import describe_folder


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

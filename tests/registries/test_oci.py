"""Push to and pull from an OCI registry: there and back, refused before anything is sent, and killed."""

import json
from pathlib import Path

import pytest

from tests.registries.commands import left_behind, pull, push, sent
from tests.registries.kills import run_killed_at
from tests.registries.oci_server import sha256
from yizhi.cli import main
from yizhi.registries.oci import PATH
from yizhi.release.manifest import MANIFEST
from yizhi.storage.digests import describe_folder

# --- there and back -------------------------------------------------------------------------------


def test_without_yes_nothing_is_sent(finished_release, registry, capsys):
    assert push(finished_release, registry) == 0
    assert sent(registry) == []
    said = capsys.readouterr().out
    assert "onnx/model.onnx\n" in said
    assert "where nothing is yet" in said
    assert "Nothing was sent: add --yes" in said


def test_a_release_comes_back_as_it_went(finished_release, pushed, tmp_path, capsys):
    assert pull(pushed, tmp_path / "out", "--json") == 0
    assert describe_folder(tmp_path / "out") == describe_folder(finished_release)
    version = json.loads(capsys.readouterr().out)["version"]
    assert version == sha256(pushed.tags["1.0"])
    pushed.address = f"oci://{pushed.host}/models/bert@{version}"
    assert pull(pushed, tmp_path / "by-digest") == 0
    assert main(["verify", str(tmp_path / "by-digest"), "--target", "onnx"]) == 0


def test_the_manifest_is_modelpacks(finished_release, pushed):
    manifest = json.loads(pushed.tags["1.0"])
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    kinds = {layer["annotations"][PATH]: layer["mediaType"].split(".")[3:-2] for layer in manifest["layers"]}
    assert kinds["onnx/model.onnx.data"] == ["weight"]
    assert kinds["onnx/tokenizer.json"] == ["weight", "config"]
    assert kinds["README.md"] == kinds[MANIFEST] == ["doc"]
    assert kinds["golden/golden.safetensors"] == ["dataset"]
    config = json.loads(pushed.blobs[manifest["config"]["digest"]])
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]
    # A layer is the file: its digest is the file's.
    assert {path: entry["sha256"] for path, entry in describe_folder(finished_release).items()} == {
        layer["annotations"][PATH]: layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]
    }


def test_what_is_there_is_not_sent_again(release, pushed, capsys):
    assert push(release, pushed, "--yes") == 0
    assert sent(pushed) == []
    assert "holds this release already" in capsys.readouterr().out
    (release / "report" / "parity.json").write_text("{}\n")
    before = pushed.tags["1.0"]
    assert push(release, pushed, "--yes") == 0
    assert f"instead of {sha256(before)}" in capsys.readouterr().out
    assert len([path for path in sent(pushed) if "state=" in path]) == 2  # the report, and ModelPack's configuration
    assert pushed.tags["1.0"] != before


def test_one_target_comes_alone(pushed, tmp_path, capsys):
    out = tmp_path / "out"
    assert pull(pushed, out, "--target", "onnx-int8", "--verify") == 0
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"golden", "onnx-int8"}
    fetched = {path for _, path, _ in pushed.seen}
    layers = json.loads(pushed.tags["1.0"])["layers"]
    weights = next(layer["digest"] for layer in layers if layer["annotations"][PATH] == "onnx/model.onnx.data")
    assert not [path for path in fetched if weights in path]
    assert pull(pushed, tmp_path / "other", "--target", "flax") == 2
    assert "--target: has no flax; it has onnx, onnx-int8" in capsys.readouterr().err


def test_a_pull_replaces_a_release_and_nothing_else(release, pushed, tmp_path, capsys):
    (release / "onnx" / "vocab.txt").write_text("")
    assert pull(pushed, release) == 0
    assert main(["verify", str(release), "--target", "onnx"]) == 0
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    assert pull(pushed, tmp_path / "thesis") == 2
    assert "not ours to replace" in capsys.readouterr().err


def test_a_signature_is_checked_before_the_folder_is_there(release, registry, tmp_path, capsys, monkeypatch):
    pytest.importorskip("model_signing")
    from tests.release.test_signing import make_keys

    private, public = make_keys(tmp_path / "keys")
    assert main(["sign", str(release), "--key", str(private)]) == 0
    monkeypatch.chdir(tmp_path)
    assert push(Path("release"), registry, "--yes", "--public-key", str(public)) == 0
    assert pull(registry, Path("out"), "--public-key", str(public)) == 0
    _, other = make_keys(tmp_path / "others")
    assert pull(registry, tmp_path / "out-2", "--public-key", str(other)) == 1
    assert not (tmp_path / "out-2").exists()
    assert push(release, registry, "--yes", "--public-key", str(other)) == 1
    assert pull(registry, tmp_path / "out-3", "--public-key", str(public), "--target", "onnx") == 2
    assert "--target" in capsys.readouterr().err


# --- refused before anything is sent --------------------------------------------------------------


def flip(release):
    data = bytearray((release / "onnx" / "model.onnx").read_bytes())
    data[100] ^= 1
    (release / "onnx" / "model.onnx").write_bytes(data)


def link_a_file(release):
    (release / "onnx" / "vocab.txt").rename(release.parent / "vocab.txt")
    (release / "onnx" / "vocab.txt").symlink_to(release.parent / "vocab.txt")


def link_the_report(release):
    """What a link leads to must not leave with a release that somebody else gave."""
    (release / "report" / "parity.xml").unlink()
    (release / "report" / "parity.xml").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("alter", "code", "says"),
    [
        (lambda release: (release / MANIFEST).unlink(), 2, "not a finished release"),
        (flip, 1, "onnx/model.onnx: expected sha256"),
        (link_a_file, 1, "onnx/vocab.txt: is a symbolic link"),
        (lambda release: (release / "notes.txt").touch(), 1, "./notes.txt: not listed"),
        (lambda release: (release / "onnx" / "README.md").write_text("x"), 1, "onnx/README.md: differs"),
        (lambda release: (release / "README.md").unlink(), 1, "./README.md: missing"),
        (link_the_report, 2, "report/parity.xml: is a symbolic link"),
        (lambda release: (release / "report" / "diary.txt").touch(), 2, "report/diary.txt: is not a file of a report"),
    ],
)
def test_what_is_not_whole_is_not_sent(release, registry, capsys, alter, code, says):
    alter(release)
    assert push(release, registry, "--yes") == code
    assert says in capsys.readouterr().err
    assert registry.seen == []


def test_a_digest_is_no_place_to_push_to(release, registry, capsys):
    registry.address = f"oci://{registry.host}/models/bert@sha256:{'0' * 64}"
    assert push(release, registry, "--yes") == 2
    assert "expected a tag" in capsys.readouterr().err
    assert sent(registry) == []


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_push_that_is_killed_leaves_the_former_release_at_the_tag(release, pushed, tmp_path):
    """At every request: the tag holds one of the two, whole, and the push can be done again."""
    former = pushed.tags["1.0"]
    (release / "report" / "parity.json").write_text("{}\n")
    arguments = ["push", str(release), "--to", pushed.address, "--yes"]
    number, blobs, finished = 0, dict(pushed.blobs), False
    while not finished:
        number += 3 if number else 1
        finished = run_killed_at(pushed, number, arguments)
        assert finished == (pushed.tags["1.0"] != former)
        if number % 5 == 0 or finished:
            out = tmp_path / f"out-{number}"
            assert pull(pushed, out) == 0
            assert ((out / "report" / "parity.json").read_text() == "{}\n") == finished
        if not finished:
            pushed.blobs.clear()
            pushed.blobs.update(blobs)
    assert number > 20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_pull_that_is_killed_leaves_a_whole_release_or_none(pushed, tmp_path):
    out, number, finished = tmp_path / "out", 0, False
    while not finished:
        number += 3 if number else 1
        finished = run_killed_at(pushed, number, ["pull", pushed.address, "--out", str(out)])
        assert out.exists() == finished
    assert number > 20
    assert main(["verify", str(out), "--target", "onnx"]) == 0
    assert left_behind(tmp_path) == ["out"]  # what kills left was removed by the next
    before = describe_folder(out)
    for number in (1, 5, 20):
        assert not run_killed_at(pushed, number, ["pull", pushed.address, "--out", str(out)])
        assert describe_folder(out) == before

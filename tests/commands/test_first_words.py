"""What a new user types: nothing at all, a misspelling, the wrong kind of folder, a pipe that closes."""

import json
import os
import re
import subprocess
import sys

import pytest

from yizhi.cli import BROKEN_PIPE, GROUPS, main
from yizhi.converters.targets import TARGETS
from yizhi.pipeline import examination


def refuse(capsys, *arguments):
    """The first fault of a command that must be refused."""
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err.splitlines()[1].removeprefix("  - ")


def test_nothing_prints_the_help(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: yizhi")


def test_the_help_groups_every_command(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    titles = [line.removesuffix(":") for line in said.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == [*GROUPS, "options"]
    for title, members in GROUPS.items():
        section = said.split(f"\n{title}:\n")[1].split("\n\n")[0]
        names = {line.split()[0] for line in section.splitlines() if re.match("  [a-z]", line)}
        assert len(names) == len(members)


def test_doctor_says_what_is_missing_and_what_to_install(capsys, monkeypatch):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["targets"].keys() == TARGETS.keys()
    assert not any(use["missing"] for use in found["targets"]["onnx"].values())
    monkeypatch.setattr(examination, "_is_installed", lambda name: name != "onnxruntime")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line.split() for line in lines if line.startswith("onnx ")]
    assert line[1:3] == ["ready", "missing"]
    assert "pip install 'yizhi[onnx]' (onnxruntime)" in " ".join(line)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("fill-mask", "train-embeddings", "--top-k"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["filmask"], "no such command: filmask (did you mean fill-mask?)"),
        (["exprot", "x"], "no such command: exprot (did you mean export?)"),
        (["xyzzy"], "no such command: xyzzy\n"),
        (["fill-mask", "a", "b", "--tpo-k", "3"], "unrecognized arguments: --tpo-k 3 (did you mean --top-k?)"),
        (
            ["export", "a", "--out", "b", "--targte=onnx"],
            "unrecognized arguments: --targte=onnx (did you mean --target?)",
        ),
        (["export", "--helpp"], "unrecognized arguments: --helpp (did you mean --help?)"),
        (["--versoin"], "unrecognized arguments: --versoin (did you mean --version?)"),
        (["--nope"], "unrecognized arguments: --nope\n"),
        (["embed", "a", "b", "--qqq"], "unrecognized arguments: --qqq\n"),
    ],
)
def test_a_misspelling_proposes_the_nearest(capsys, given, says):
    with pytest.raises(SystemExit) as exit_:
        main(given)
    assert exit_.value.code == 2
    assert says in capsys.readouterr().err


def test_the_wrong_kind_of_folder_is_called_what_it_is(make_checkpoint, tmp_path, capsys):
    checkpoint, release = make_checkpoint(), tmp_path / "release"
    assert main(["export", str(checkpoint), "--out", str(release), "--target", "onnx"]) == 0
    capsys.readouterr()
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for folder, says in {
        tmp_path / "none": "no such file or folder",
        tmp_path / "file": "is a file, not a folder",
        tmp_path / "empty": "is no artifact: it has no artifact.json",
        checkpoint: "is a checkpoint; `yizhi export` makes a release of it",
        release: "is a release; open one of its artifacts: onnx",
    }.items():
        assert refuse(capsys, "fill-mask", folder, "北[MASK]") == says
    for folder, says in {
        tmp_path / "none": "no such file or folder",
        tmp_path / "empty": "has no manifest.json: it is not a finished release",
        checkpoint: "is a checkpoint; `yizhi export` makes a release of it",
        release / "onnx": f"is one artifact; its release is the folder that it lies in, {release}",
    }.items():
        assert refuse(capsys, "package", folder, "--for", "triton", "--out", tmp_path / "package") == says
    for command in ("export", "import"):
        assert "is a release: give the checkpoint" in refuse(capsys, "export", release, "--out", tmp_path / command)


def test_an_unfinished_release_is_called_so_by_every_command(make_checkpoint, tmp_path, capsys):
    release = tmp_path / "release"
    assert main(["export", str(make_checkpoint()), "--out", str(release), "--target", "onnx"]) == 0
    capsys.readouterr()
    (release / "manifest.json").unlink()
    says = "has no manifest.json: it is not a finished release; artifacts in it: onnx"
    assert refuse(capsys, "fill-mask", release, "北[MASK]") == says
    assert refuse(capsys, "package", release, "--for", "triton", "--out", tmp_path / "package") == says
    for command in (["verify"], ["inspect"], ["diff", release], ["serve"]):
        assert main([*map(str, command), str(release)]) == 2
        assert says in capsys.readouterr().err


def test_a_release_is_described_by_its_values(make_checkpoint, tmp_path, capsys):
    assert main(["export", str(make_checkpoint()), "--out", str(tmp_path / "release"), "--target", "pytorch"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "release")]) == 0
    said = capsys.readouterr().out
    assert "pytorch: fp32, 0 MB, passed: logits" in " ".join(said.split())
    assert "schema_version" not in said
    assert main(["inspect", str(tmp_path / "release" / "pytorch")]) == 0
    size = (tmp_path / "release" / "pytorch" / "model.safetensors").stat().st_size
    assert f"model.safetensors: {size:,} bytes" in " ".join(capsys.readouterr().out.split())


def test_a_pipe_that_closes_is_no_fault():
    command = [sys.executable, "-m", "yizhi", "models", "--json"]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (BROKEN_PIPE, "")

"""No command replaces what is not Yizhi's, or writes into a finished release."""

import json
import os

import pytest

from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.release.manifest import read_manifest
from yizhi.release.places import check_writable, refuse_inside


@pytest.fixture
def release(make_checkpoint, tmp_path):
    folder = tmp_path / "release"
    assert main(["export", str(make_checkpoint()), "--out", str(folder), "--target", "pytorch"]) == 0
    return folder


@pytest.mark.parametrize("name", ["README.md", "manifest.json", "bom.cdx.json", "provenance.json", "golden", "pytorch"])
def test_an_export_replaces_nothing_of_a_users(make_checkpoint, tmp_path, capsys, name):
    folder = tmp_path / "project"
    file = folder / name / "mine" if "." not in name else folder / name
    file.parent.mkdir(parents=True)
    file.write_text('{"name": "web"}')
    assert main(["export", str(make_checkpoint()), "--out", str(folder), "--target", "pytorch"]) == 2
    said = capsys.readouterr().err
    assert f"{name}: " in said
    assert "choose another folder" in said
    assert file.read_text() == '{"name": "web"}'
    assert [path.name for path in folder.iterdir()] == [name]


def test_an_export_goes_on_in_a_release_and_where_one_was_broken_off(release):
    check_writable(release, ["pytorch", "onnx"])
    (release / "manifest.json").unlink()
    check_writable(release, ["pytorch", "onnx"])


def test_nothing_is_written_inside_a_release(release, make_checkpoint, capsys):
    other = str(make_checkpoint(name="other"))
    for command in (
        ["convert", other, "--out", str(release / "sub"), "--target", "pytorch"],
        ["export", other, "--out", str(release / "pytorch" / "sub"), "--target", "pytorch"],
        ["diff", other, other, "--page", str(release / "page.html")],
        ["pull", "oci://127.0.0.1:1/a/b:1", "--out", str(release / "sub")],
    ):
        assert main(command) == 2
        assert "lies in the release" in capsys.readouterr().err
    assert main(["verify", str(release)]) == 0


@pytest.mark.parametrize("command", ["export", "convert"])
def test_nothing_is_written_among_a_checkpoints_files(make_checkpoint, capsys, command):
    folder = make_checkpoint()
    before = sorted(path.name for path in folder.iterdir())
    assert main([command, str(folder), "--out", f"{folder}/../{folder.name}", "--target", "pytorch"]) == 2
    assert "is the checkpoint itself" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_report_inside_is_refused_once_the_release_is_signed(release):
    refuse_inside(release / "report", only_signed=True)
    (release / "model.sig").write_text("{}")
    with pytest.raises(InputError, match="lies in the release"):
        refuse_inside(release / "report", only_signed=True)


def test_an_empty_name_is_not_the_current_folder(make_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in (["export", str(make_checkpoint()), "--out", ""], ["sign", "", "--key", "k"], ["verify", ""]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
        assert "expected a name; found nothing" in capsys.readouterr().err


def test_a_name_that_is_not_utf8(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["verify", os.fsdecode(b"rel\xff")])
    assert ended.value.code == 2
    assert "expected arguments in UTF-8; found rel\\udcff" in capsys.readouterr().err


def test_an_altered_manifest_is_a_failed_check(release, capsys):
    manifest = read_manifest(release)
    manifest["golden"]["cases.json"]["size"] += 1
    (release / "manifest.json").write_text(json.dumps(manifest))
    assert main(["verify", str(release)]) == 1
    assert "was altered" in capsys.readouterr().err


def test_a_pipe_is_no_configuration(make_checkpoint, tmp_path, capsys):
    checkpoint = make_checkpoint()
    (checkpoint / "config.json").unlink()
    os.mkfifo(checkpoint / "config.json")
    assert main(["convert", str(checkpoint), "--out", str(tmp_path / "out"), "--target", "pytorch"]) == 2
    assert "is no file" in capsys.readouterr().err

"""`yizhi convert`: an export's artifacts in the same bytes, and no verdict."""

import json

import pytest

from yizhi.cli import main
from yizhi.converters.targets import TARGETS


def convert(checkpoint, folder, *more, targets=("onnx", "onnx-int8")):
    chosen = [word for target in targets for word in ("--target", target)]
    return main(["convert", str(checkpoint), "--out", str(folder), *chosen, *map(str, more)])


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def checkpoint(make_checkpoint):
    return make_checkpoint()


def test_it_says_that_nothing_is_verified_and_export_verifies_what_is_there(checkpoint, tmp_path, capsys):
    folder = tmp_path / "some"
    assert convert(checkpoint, folder, "--pooling", "mean") == 0
    said = capsys.readouterr().out
    assert "UNVERIFIED" in said
    assert "pass" not in said
    assert {path.name for path in folder.iterdir()} == {"onnx", "onnx-int8"}
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert main(["verify", str(folder)]) == 2
    given = ["export", str(checkpoint), "--out", str(folder), "--target", "onnx", "--target", "onnx-int8"]
    assert main([*given, "--pooling", "mean", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["passed"] and row["export"] is None for row in rows.values())
    assert (folder / "manifest.json").exists()
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert (folder / "onnx" / "README.md").exists()


def test_a_release_is_left_alone(checkpoint, tmp_path, capsys):
    release = tmp_path / "release"
    assert main(["export", str(checkpoint), "--out", str(release), "--target", "onnx"]) == 0
    before = contents(release)
    assert convert(checkpoint, release) == 2
    assert "Choose another folder" in capsys.readouterr().err
    assert contents(release) == before


@pytest.mark.parametrize("what", ["nan", "normalize", "target"])
def test_bad_input_writes_nothing(make_checkpoint, tmp_path, capsys, what):
    def spoil(tensors):
        next(iter(tensors.values())).flat[3] = float("nan")

    checkpoint = make_checkpoint(alter=spoil) if what == "nan" else make_checkpoint()
    more = {"nan": [], "normalize": ["--normalize"], "target": ["--target", "onxx"]}[what]
    assert convert(checkpoint, tmp_path / "out", *more) == 2
    assert {"nan": "NaN", "normalize": "--normalize", "target": "onxx"}[what] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_not_installed_is_not_run(checkpoint, tmp_path, monkeypatch, capsys):
    site = tmp_path / "site"  # in the job's own process, too
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import importlib.metadata as m\n"
        "known = m.version\n"
        "def version(name):\n"
        "    if name == 'onnx':\n"
        "        raise m.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "m.version = version\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    assert convert(checkpoint, tmp_path / "out", "--json", targets=("onnx", "pytorch")) == 3
    rows = json.loads(capsys.readouterr().out)
    assert rows["onnx"]["not_run"]
    assert rows["pytorch"]["export"]["seconds"] > 0
    assert set(rows) <= set(TARGETS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pytorch"]

"""A small release to pass on, and a registry to pass it to."""

import shutil
from pathlib import Path

import pytest

from tests.checkpoints import write_variant
from tests.registries.oci_server import serve
from yizhi.cli import main


@pytest.fixture(scope="session")
def finished_release(tmp_path_factory) -> Path:
    """Of two targets; to be left as it is."""
    folder = tmp_path_factory.mktemp("passing")
    export = ["export", str(write_variant(folder / "checkpoint", "bert")), "--out", str(folder / "release")]
    assert main([*export, "--target", "onnx", "--target", "onnx-int8"]) == 0
    return folder / "release"


@pytest.fixture
def release(finished_release, tmp_path) -> Path:
    """A copy to alter."""
    return Path(shutil.copytree(finished_release, tmp_path / "release"))


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """A registry of this test's own; no login of this machine is looked at."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    with serve() as (own, host):
        own.host, own.address = host, f"oci://{host}/models/bert:1.0"
        yield own


@pytest.fixture
def pushed(registry, finished_release, capsys):
    """The same, with the release in it."""
    assert main(["push", str(finished_release), "--to", registry.address, "--yes"]) == 0
    registry.seen.clear()
    capsys.readouterr()
    return registry

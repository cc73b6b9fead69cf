"""The same against a registry that is not ours: Distribution, as Debian packages it (`apt install docker-registry`)."""

import os
import shutil
import socket
import subprocess
import time

import pytest

from yizhi.cli import main
from yizhi.storage.digests import describe_folder

BINARY = os.environ.get("YIZHI_REGISTRY") or shutil.which("docker-registry")
pytestmark = pytest.mark.skipif(not BINARY, reason="no docker-registry here; YIZHI_REGISTRY may name its binary")
CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@pytest.fixture
def address(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "config.yml").write_text(CONFIG.format(folder=tmp_path / "registry", port=port))
    with subprocess.Popen(
        [str(BINARY), "serve", str(tmp_path / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(port)
            yield f"oci://127.0.0.1:{port}/models/bert:1.0"
        finally:
            process.terminate()


def wait_for(port):
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("the registry did not start")


def test_a_release_goes_to_a_real_registry_and_back(release, address, tmp_path, capsys):
    assert main(["push", str(release), "--to", address]) == 0
    assert main(["pull", address, "--out", str(tmp_path / "nothing")]) == 2
    assert main(["push", str(release), "--to", address, "--yes"]) == 0
    capsys.readouterr()
    assert main(["push", str(release), "--to", address, "--yes"]) == 0
    assert "has this release already: sha256:" in capsys.readouterr().out
    assert main(["pull", address, "--out", str(tmp_path / "out")]) == 0
    assert describe_folder(tmp_path / "out") == describe_folder(release)
    assert main(["pull", address, "--out", str(tmp_path / "one"), "--target", "onnx", "--verify"]) == 0

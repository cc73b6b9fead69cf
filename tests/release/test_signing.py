"""`yizhi sign` and `yizhi verify --public-key`, offline, with keys made on the spot."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import write_variant
from yizhi.cli import main

pytest.importorskip("model_signing", reason="pip install 'yizhi[release]'")

pytestmark = pytest.mark.slow


def make_keys(folder: Path) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    folder.mkdir()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "release.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "release.pub").write_bytes(public)
    return folder / "release.key", folder / "release.pub"


@pytest.fixture(scope="module")
def signed(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A signed release and its two keys."""
    folder = tmp_path_factory.mktemp("signing")
    checkpoint = write_variant(folder / "checkpoint", "bert")
    release = folder / "release"
    assert main(["export", str(checkpoint), "--out", str(release), "--target", "onnx"]) == 0
    private, public = make_keys(folder / "keys")
    assert main(["sign", str(release), "--key", str(private)]) == 0
    return release, private, public


def test_signed_release_passes(signed):
    release, _, public = signed
    assert main(["verify", str(release), "--public-key", str(public)]) == 0
    assert main(["verify", str(release)]) == 0


def test_other_peoples_tool_agrees(signed):
    release, _, public = signed
    signature = ["--signature", str(release / "model.sig"), "--ignore-paths", str(release / "model.sig")]
    command = [sys.executable, "-m", "model_signing", "verify", "key", *signature, "--public_key", str(public)]
    done = subprocess.run([*command, str(release)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("victim", ["onnx/model.onnx.data", "manifest.json", "report/parity.json", "model.sig"])
def test_any_change_breaks_the_signature(signed, victim, capsys):
    release, _, public = signed
    path = release / victim
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    try:
        assert main(["verify", str(release), "--public-key", str(public)]) == 1
    finally:
        path.write_bytes(content)
    assert Path(victim).name in capsys.readouterr().err


def test_another_key_and_no_signature(signed, tmp_path, capsys):
    release, _, public = signed
    _, other = make_keys(tmp_path / "other")
    assert main(["verify", str(release), "--public-key", str(other)]) == 1
    signature = (release / "model.sig").read_bytes()
    (release / "model.sig").unlink()
    try:
        assert main(["verify", str(release), "--public-key", str(public)]) == 1
        assert "is not signed" in capsys.readouterr().err
    finally:
        (release / "model.sig").write_bytes(signature)


def test_bad_keys_and_unfinished_releases(signed, tmp_path, capsys):
    release, private, public = signed
    assert main(["sign", str(release), "--key", str(public)]) == 2
    assert main(["verify", str(release), "--public-key", str(private)]) == 2
    assert main(["sign", str(tmp_path), "--key", str(private)]) == 2
    assert "not a finished release" in capsys.readouterr().err
    assert (release / "model.sig").exists()


def test_changing_the_release_takes_the_signature_away(signed, tmp_path):
    import shutil

    release = Path(shutil.copytree(signed[0], tmp_path / "release"))
    checkpoint = signed[0].parent / "checkpoint"
    assert main(["export", str(checkpoint), "--out", str(release), "--target", "onnx"]) == 0
    assert (release / "model.sig").exists()
    assert main(["export", str(checkpoint), "--out", str(release), "--target", "onnx-int8"]) == 0
    assert not (release / "model.sig").exists()

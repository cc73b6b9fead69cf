"""One small release for every test of signatures, and keys made on the spot."""

import shutil
from pathlib import Path

import pytest

from tests.checkpoints import write_variant
from yizhi.cli import main


def make_keys(folder: Path, curve: str = "SECP256R1") -> tuple[Path, Path]:
    """A private and a public key in PEM, in a new folder."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(getattr(ec, curve)())
    folder.mkdir()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "release.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "release.pub").write_bytes(public)
    return folder / "release.key", folder / "release.pub"


@pytest.fixture(scope="session")
def finished_release(tmp_path_factory) -> Path:
    """An unsigned release of two targets, beside its checkpoint; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    checkpoint = write_variant(folder / "checkpoint", "bert")
    targets = ["--target", "onnx", "--target", "onnx-int8"]
    assert main(["export", str(checkpoint), "--out", str(folder / "release"), *targets]) == 0
    return folder / "release"


@pytest.fixture(scope="session")
def keys(tmp_path_factory) -> tuple[Path, Path]:
    """A private and a public key."""
    return make_keys(tmp_path_factory.mktemp("keys") / "own")


@pytest.fixture(scope="session")
def other_keys(tmp_path_factory) -> tuple[Path, Path]:
    """Somebody else's."""
    return make_keys(tmp_path_factory.mktemp("keys") / "other")


@pytest.fixture(scope="session")
def signed_release(finished_release, keys, tmp_path_factory) -> Path:
    """The release, signed by `keys`; not to be changed."""
    release = Path(shutil.copytree(finished_release, tmp_path_factory.mktemp("signed") / "release"))
    assert main(["sign", str(release), "--key", str(keys[0])]) == 0
    return release


@pytest.fixture
def signed(signed_release, tmp_path) -> Path:
    """A copy of the signed release, to be changed."""
    return Path(shutil.copytree(signed_release, tmp_path / "release"))

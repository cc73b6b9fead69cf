"""Signatures of whole releases, in OpenSSF's model-signing format: who released this, and nothing was changed since."""

from pathlib import Path

from yizhi.errors import CheckFailed, InputError, NotRun
from yizhi.release.manifest import SIGNATURE, read_manifest

try:
    from cryptography.exceptions import InvalidSignature
    from model_signing import hashing, signing, verifying
except ImportError as error:
    raise NotRun("signatures", f"need {error.name}: pip install 'yizhi[release]'") from None


def sign(release: Path, private_key: Path) -> Path:
    """Sign every file of a finished release with an elliptic-curve key (PEM); returns the signature's path.

    Raises InputError for an unfinished release or a file that is no such key.
    """
    read_manifest(release)
    signature = release / SIGNATURE
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            private_key, f"is not an elliptic-curve private key in PEM without a password: {error}"
        ) from None
    signature.unlink(missing_ok=True)
    config.set_hashing_config(_hashing(release)).sign(release, signature)
    return signature


def check_signature(release: Path, public_key: Path) -> None:
    """Raise CheckFailed unless there is a signature of exactly these files by this key.

    Raises InputError for a key that is none.
    """
    signature = release / SIGNATURE
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (ValueError, TypeError, OSError) as error:
        raise InputError(public_key, f"is not an elliptic-curve public key in PEM: {error}") from None
    if not signature.is_file():
        raise CheckFailed(f"{release}: is not signed: there is no {SIGNATURE}")
    try:
        config.set_hashing_config(_hashing(release)).verify(release, signature)
    except (InvalidSignature, ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"{signature}: {error or 'is not by this key'}") from None


def _hashing(release: Path) -> "hashing.Config":
    return hashing.Config().set_ignored_paths(paths=[release / SIGNATURE], ignore_git_paths=False)

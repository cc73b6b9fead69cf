"""What keys and identities have in common, as signers and as checkers of signatures.

Both sign in-toto statements as Sigstore bundles: a DSSE envelope and its verification material, one line of JSON
(https://docs.sigstore.dev/about/bundle/). Both sign the files of a release through OpenSSF model signing.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from yizhi.errors import CheckFailed, NotRun

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.x509 import ExtensionNotFound
    from model_signing import hashing
    from securesystemslib.exceptions import Error as DsseError
    from sigstore.errors import Error as SigstoreError
except ImportError as error:
    raise NotRun("signatures", f"need {error.name}: pip install 'yizhi[release]'") from None

PAYLOAD_TYPE = "application/vnd.in-toto+json"
# How readers of signatures say no: to what was altered, and to what is no signature at all.
REFUSALS = (
    *(InvalidSignature, UnsupportedAlgorithm, ExtensionNotFound, DsseError, SigstoreError),
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError),
)


@dataclass(frozen=True)
class Signed:
    """A statement with a valid signature.

    payload: the statement's bytes. signer: in words. proven_at: a time (UTC) that a third party proves to be at most
    some minutes before the signature; None for a key.
    """

    payload: bytes
    signer: str
    proven_at: datetime | None


class Checker(Protocol):
    """Checks signatures of one signer."""

    @property
    def name(self) -> str:
        """The signer, in words."""

    def check(self, bundle: str) -> Signed:
        """The statement in this line. Raises CheckFailed unless this signer signed it."""

    def check_files(self, release: Path, signature: Path) -> None:
        """Raise CheckFailed unless this model signature is the signer's, and of exactly these files."""


class Signer(Protocol):
    """Signs statements and files."""

    @property
    def name(self) -> str:
        """The signer, in words."""

    def sign(self, statement: bytes) -> str:
        """A line of JSON: the signed in-toto statement. Raises InputError if it cannot be signed."""

    def sign_files(self, release: Path, signature: Path, written: Path) -> None:
        """Write the model signature of every file but `signature` to `written`. Raises InputError as `sign` does."""

    def check(self, bundle: str) -> Signed:
        """As `Checker.check`, for this signer's own signature."""


def all_but(signature: Path) -> "hashing.Config":
    """Model signing's hashes of every file of a release but this one."""
    return hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=False)


def refuse(what: str, name: str, error: Exception) -> CheckFailed:
    """The CheckFailed of a check: the subject, the expected signer, and the first line of a library's error."""
    told = str(error).partition("\n")[0] or type(error).__name__
    return CheckFailed(f"{what} by {name}: {told}")

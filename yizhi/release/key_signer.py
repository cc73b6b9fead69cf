"""Signatures by an elliptic-curve key, P-256, P-384 or P-521."""

import hashlib
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from yizhi.errors import InputError
from yizhi.release.signers import PAYLOAD_TYPE, REFUSALS, Signed, all_but, refuse
from yizhi.storage.small_files import read_small

# isort: split
# After ours, which tell what to install where these are missing.
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import signing, verifying
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
CURVES = ("secp256r1", "secp384r1", "secp521r1")


class KeyChecker:
    """Accepts signatures by one elliptic-curve key: P-256, P-384 or P-521."""

    def __init__(self, public_key: Path) -> None:
        """Read a PEM file. Raises InputError if it holds no public key of these curves."""
        self._path = public_key
        self._key = _read_public_key(public_key)

    def check(self, bundle: str) -> Signed:
        """As `Checker.check`."""
        return _check_with_key(self._key, bundle)

    def check_files(self, release: Path, signature: Path) -> None:
        """As `Checker.check_files`."""
        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=self._path)
            with redirect_stdout(sys.stderr):  # where a signature names no key, the library warns there
                config.set_hashing_config(all_but(signature)).verify(release, signature)
        except REFUSALS as error:
            raise refuse(f"{signature}: is not a signature of these files", self.name, error) from None

    @property
    def name(self) -> str:
        """As `Checker.name`."""
        return _name_key(self._key)


class KeySigner:
    """Signs with an elliptic-curve key, P-256, P-384 or P-521."""

    def __init__(self, private_key: Path) -> None:
        """Read a PEM file without a password. Raises InputError if it holds no private key of these curves."""
        self._path = private_key
        self._key = _read_private_key(private_key)

    @property
    def name(self) -> str:
        """As `Signer.name`."""
        return _name_key(self._key.public_key())

    def sign(self, statement: bytes) -> str:
        """As `Signer.sign`."""
        envelope = Envelope(statement, PAYLOAD_TYPE, {})
        envelope.sign(CryptoSigner(self._key))
        bundle = {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": _fingerprint(self._key.public_key())},
                "tlogEntries": [],
            },
            "dsseEnvelope": envelope.to_dict(),
        }
        return json.dumps(bundle)

    def sign_files(self, release: Path, signature: Path, written: Path) -> None:
        """As `Signer.sign_files`."""
        config = signing.Config().use_elliptic_key_signer(private_key=self._path)
        config.set_hashing_config(all_but(signature)).sign(release, written)

    def check(self, bundle: str) -> Signed:
        """As `Signer.check`."""
        return _check_with_key(self._key.public_key(), bundle)


def _read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    text = read_small(path)
    try:
        key = serialization.load_pem_public_key(text.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
            raise ValueError(f"expected one of {', '.join(CURVES)}")
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(path, f"is not an elliptic-curve public key in PEM: {error}") from None
    return key


def _read_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    text = read_small(path)
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
            raise ValueError(f"expected one of {', '.join(CURVES)}")
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(path, f"is not an elliptic-curve private key in PEM without a password: {error}") from None
    return key


def _check_with_key(key: ec.EllipticCurvePublicKey, bundle: str) -> Signed:
    try:
        envelope = Envelope.from_dict(json.loads(bundle)["dsseEnvelope"])
        if envelope.payload_type != PAYLOAD_TYPE:
            raise ValueError(f"expected a payload of {PAYLOAD_TYPE}")
        envelope.verify([SSlibKey.from_crypto(key)], 1)
    except REFUSALS as error:
        raise refuse("is not signed", _name_key(key), error) from None
    return Signed(envelope.payload, _name_key(key), None)


def _name_key(key: ec.EllipticCurvePublicKey) -> str:
    return f"key {_fingerprint(key)}"


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Hex sha256 of the key as openssl writes it. Model signing names keys by it."""
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()

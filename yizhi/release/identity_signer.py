"""Signatures by an identity: an OpenID Connect account or a CI job. Sigstore certifies it for some minutes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yizhi.errors import CheckFailed, InputError
from yizhi.release.signers import PAYLOAD_TYPE, REFUSALS, Signed, all_but, refuse
from yizhi.storage.small_files import read_small

# isort: split
# After ours, which tell what to install where these are missing.
import requests
from cryptography.x509 import (
    Certificate,
    ExtensionNotFound,
    RFC822Name,
    SubjectAlternativeName,
    UniformResourceIdentifier,
    UnrecognizedExtension,
)
from model_signing import signing, verifying

# The library has no public names for what its endpoints' clients raise.
from sigstore._internal.fulcio.client import FulcioClientError
from sigstore._internal.rekor import RekorClientError
from sigstore.dsse import Statement
from sigstore.errors import Error as SigstoreError
from sigstore.models import Bundle, ClientTrustConfig
from sigstore.oidc import ExpiredIdentity, IdentityToken, IssuerError, detect_credential
from sigstore.sign import Signer as SigstoreSigner
from sigstore.sign import SigningContext
from sigstore.verify import Verifier
from sigstore.verify.policy import Identity, OIDCIssuer

_FAILURES = (
    *(FulcioClientError, RekorClientError, SigstoreError, ExpiredIdentity, IssuerError, requests.RequestException),
    *(ExtensionNotFound, ValueError, KeyError, TypeError),
)


class IdentityChecker:
    """Accepts signatures that Sigstore certifies for one identity."""

    def __init__(self, identity: str, provider: str, trust_config: Path | None = None) -> None:
        """Take an identity (an address or a workflow's URI) and the URL of its provider.

        trust_config: a ClientTrustConfig file of a private Sigstore. None: the public Sigstore's, fetched over the
        network. Raises InputError if the configuration cannot be fetched or read, and for an empty name.
        """
        given = {"identity": identity, "identity_provider": provider}
        empty = [f"`{name}`: expected a name; found {value!r}" for name, value in given.items() if not value.strip()]
        if empty:  # the library takes an empty provider for any
            raise InputError("identity", empty)
        self._identity, self._provider, self._trust_config = identity, provider, trust_config
        with _needs_sigstore(trust_config):
            self._verifier = Verifier(trusted_root=_read_trust(trust_config).trusted_root)

    def check(self, bundle: str) -> Signed:
        """As `Checker.check`."""
        try:
            read = Bundle.from_json(bundle)
            who = Identity(identity=self._identity, issuer=self._provider)
            payload_type, payload = self._verifier.verify_dsse(read, who)
            if payload_type != PAYLOAD_TYPE:
                raise ValueError(f"expected a payload of {PAYLOAD_TYPE}")
        except REFUSALS as error:
            raise refuse("is not signed", self.name, error) from None
        # The signature was made while the certificate was valid: that much the log or the timestamp proves.
        return Signed(payload, self.name, read.signing_certificate.not_valid_before_utc)

    def check_files(self, release: Path, signature: Path) -> None:
        """As `Checker.check_files`."""
        try:
            config = verifying.Config().use_sigstore_verifier(
                identity=self._identity, oidc_issuer=self._provider, trust_config=self._trust_config
            )
            config.set_hashing_config(all_but(signature)).verify(release, signature)
        except REFUSALS as error:
            raise refuse(f"{signature}: is not a signature of these files", self.name, error) from None

    @property
    def name(self) -> str:
        """As `Checker.name`."""
        return f"{self._identity} (by {self._provider})"


class IdentitySigner:
    """Signs with a key that lives for minutes. Sigstore certifies the key for an identity."""

    def __init__(self, token: Path | None = None, trust_config: Path | None = None) -> None:
        """Take an OpenID Connect token from a file, or from the CI job's environment.

        trust_config: as in `IdentityChecker`. Raises InputError if there is no token, or no certificate for the token.
        """
        self._trust_config = trust_config
        self._token = _read_token(token)
        with _needs_sigstore(trust_config):
            self._signer = SigstoreSigner(self._token, SigningContext.from_trust_config(_read_trust(trust_config)))
            # The certificate says which identity a token stands for: a CI job's is not what its token says.
            self._own = IdentityChecker(*_read_identity(self._signer._signing_cert()), trust_config)

    @property
    def name(self) -> str:
        """As `Signer.name`."""
        return self._own.name

    def sign(self, statement: bytes) -> str:
        """As `Signer.sign`."""
        with _needs_sigstore(self._trust_config):
            line: str = self._signer.sign_dsse(Statement(statement)).to_json()
            self._own.check(line)
        return line

    def sign_files(self, release: Path, signature: Path, written: Path) -> None:
        """As `Signer.sign_files`."""
        with _needs_sigstore(self._trust_config):
            config = signing.Config().use_sigstore_signer(
                identity_token=str(self._token), trust_config=self._trust_config
            )
            config.set_hashing_config(all_but(signature)).sign(release, written)
            self._own.check(read_small(written))

    def check(self, bundle: str) -> Signed:
        """As `Signer.check`."""
        return self._own.check(bundle)


@contextmanager
def _needs_sigstore(trust_config: Path | None) -> Iterator[None]:
    """Turns failures of Sigstore's endpoints, their answers, and bad configurations into InputError."""
    try:
        yield
    except InputError:
        raise
    except CheckFailed as error:  # the library signs without a timestamp where none is to be had
        raise InputError(trust_config or "Sigstore", f"gave a signature that {error}") from None
    except _FAILURES as error:
        causes = [text for text in (str(error), str(error.__cause__ or "")) if text] or [type(error).__name__]
        raise InputError(trust_config or "Sigstore", f"cannot be used: {': '.join(causes)}") from None


def _read_trust(path: Path | None) -> ClientTrustConfig:
    return ClientTrustConfig.from_json(read_small(path)) if path else ClientTrustConfig.production()


def _read_identity(certificate: Certificate) -> tuple[str, str]:
    """The identity in a certificate, and its provider."""
    names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    kinds = RFC822Name | UniformResourceIdentifier
    identities = [name.value for name in names if isinstance(name, kinds)]
    issuer = certificate.extensions.get_extension_for_oid(OIDCIssuer.oid).value
    if len(identities) != 1 or not isinstance(issuer, UnrecognizedExtension):
        raise ValueError("a certificate must name one identity, an address or a URI")
    return identities[0], issuer.value.decode()


def _read_token(path: Path | None) -> IdentityToken:
    subject = path or "`identity_token`"
    try:
        raw = read_small(path).strip() if path else detect_credential()
        if raw is None:
            raise InputError(subject, "is missing, and no CI job gives one here")
        return IdentityToken(raw)
    except SigstoreError as error:
        why = error.__cause__ or error
        raise InputError(subject, f"is no OpenID Connect token that can be used: {why}") from None

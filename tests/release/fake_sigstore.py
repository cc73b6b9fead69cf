"""A Sigstore of one's own on loopback: an OpenID provider, a Fulcio with its CT log, and a Rekor v1.

What the library checks is really made: certificates with embedded SCTs, signed entry timestamps, inclusion proofs and
checkpoints, each of a tree of one entry. There is no timestamp authority: Rekor's signed time stands for it, as the
library allows.
"""

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

SCT_LIST = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
OIDC_ISSUER = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
ALGORITHM = ec.ECDSA(hashes.SHA256())


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def der_of(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def id_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(der_of(key.public_key())).digest()


class FakeSigstore:
    """Its keys, and what its endpoints answer. `refuse`: a path that answers 500 from now on."""

    def __init__(self) -> None:
        self.provider, self.authority, self.certificates, self.log = (
            ec.generate_private_key(ec.SECP256R1()) for _ in range(4)
        )
        self.root = self._make_root()
        self.url = ""
        self.refuse = ""
        self.entries = 0

    def token(self, subject: str = "release@example.org", **claims: object) -> str:
        """What the provider gives who proves to be `subject`."""
        now = int(datetime.now(UTC).timestamp())
        said = {"iss": self.url, "aud": "sigstore", "sub": subject, "iat": now, "nbf": now - 5, "exp": now + 300}
        return jwt.encode(said | claims, self.provider, algorithm="ES256")

    def write_trust_config(self, path: Path) -> Path:
        """A ClientTrustConfig, as a private Sigstore gives its users."""
        since = {"start": "2020-01-01T00:00:00Z"}
        service = {"url": self.url, "majorApiVersion": 1, "validFor": since, "operator": "tests"}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, object]:
            public = {"rawBytes": encode(der_of(key.public_key())), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
            known = {"publicKey": public | {"validFor": since}, "logId": {"keyId": encode(id_of(key))}}
            return {"baseUrl": self.url, "hashAlgorithm": "SHA2_256", **known}

        authority = {
            "subject": {"organization": "tests", "commonName": "tests"},
            "certChain": {"certificates": [{"rawBytes": encode(self.root.public_bytes(serialization.Encoding.DER))}]},
            "validFor": since,
        }
        config = {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self.log)],
                "certificateAuthorities": [authority],
                "ctlogs": [log(self.certificates)],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                **{name: [service] for name in ("caUrls", "oidcUrls", "rekorTlogUrls")},
                "rekorTlogConfig": {"selector": "ANY"},
            },
        }
        path.write_text(json.dumps(config))
        return path

    def certify(self, token: str, request: x509.CertificateSigningRequest) -> list[str]:
        """Fulcio's answer: a certificate of ten minutes for whom the token names, with its SCT, and the root."""
        key = self.provider.public_key()
        claims = jwt.decode(token, key, algorithms=["ES256"], audience="sigstore", issuer=self.url)
        now = datetime.now(UTC).replace(microsecond=0)
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign"), False
        )
        usage |= dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=1))
            .not_valid_after(now + timedelta(minutes=10))
            .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(claims["sub"])]), critical=True)
            .add_extension(x509.UnrecognizedExtension(OIDC_ISSUER, claims["iss"].encode()), critical=False)
        )
        promised = builder.sign(self.authority, hashes.SHA256()).tbs_certificate_bytes
        listed = x509.UnrecognizedExtension(SCT_LIST, self._promise(promised, now))
        leaf = builder.add_extension(listed, critical=False).sign(self.authority, hashes.SHA256())
        return [one.public_bytes(serialization.Encoding.PEM).decode() for one in (leaf, self.root)]

    def record(self, proposed: dict) -> dict[str, object]:
        """Rekor's answer to a DSSE envelope: an entry that is the only one of its tree."""
        envelope = json.loads(proposed["spec"]["proposedContent"]["envelope"])
        verifier = proposed["spec"]["proposedContent"]["verifiers"][0]
        body = json.dumps(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(b"").hexdigest()},
                    "payloadHash": {
                        "algorithm": "sha256",
                        "value": hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest(),
                    },
                    "signatures": [{"signature": one["sig"], "verifier": verifier} for one in envelope["signatures"]],
                },
            }
        ).encode()
        self.entries += 1
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"rekor.tests\n1\n{encode(root)}\n"
        signed = encode(id_of(self.log)[:4] + self.log.sign(note.encode(), ALGORITHM))
        entry = {
            "body": encode(body),
            "integratedTime": int(datetime.now(UTC).timestamp()),
            "logID": id_of(self.log).hex(),
            "logIndex": 0,
        }
        promise = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        verification = {
            "signedEntryTimestamp": encode(self.log.sign(promise, ALGORITHM)),
            "inclusionProof": {
                "checkpoint": f"{note}\n\u2014 rekor.tests {signed}\n",
                "hashes": [],
                "logIndex": 0,
                "rootHash": root.hex(),
                "treeSize": 1,
            },
        }
        return {root.hex(): entry | {"verification": verification}}

    def _make_root(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        public = self.authority.public_key()
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        usage |= dict.fromkeys(("encipher_only", "decipher_only"), False)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(1)
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime.now(UTC) + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self.authority, hashes.SHA256())
        )

    def _promise(self, certificate: bytes, now: datetime) -> bytes:
        """The extension's value: an OCTET STRING of a list with one SCT (RFC 6962, 3.2 and 3.3)."""
        milliseconds = int(now.timestamp() * 1000)
        issuer = hashlib.sha256(der_of(self.authority.public_key())).digest()
        entry = issuer + len(certificate).to_bytes(3, "big") + certificate
        signed = struct.pack("!BBQH", 0, 0, milliseconds, 1) + entry + b"\0\0"
        signature = self.certificates.sign(signed, ALGORITHM)
        sct = struct.pack("!B32sQH", 0, id_of(self.certificates), milliseconds, 0)
        sct += b"\x04\x03" + struct.pack("!H", len(signature)) + signature
        listed = struct.pack("!HH", len(sct) + 2, len(sct)) + sct
        return bytes([0x04, len(listed)]) + listed  # shorter than 128 bytes, so its length is one


@contextmanager
def run_sigstore() -> Iterator[FakeSigstore]:
    """Serve on a free port of loopback until the block ends."""
    fake = FakeSigstore()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/.well-known/openid-configuration":
                self._answer({"authorization_endpoint": f"{fake.url}/auth", "token_endpoint": f"{fake.url}/token"})
            elif self.path.startswith("/job-token"):  # as GitHub gives it to a job that may ask for one
                self._answer({"value": fake.token("job@example.org")})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if fake.refuse and self.path.startswith(fake.refuse):
                self.send_error(500)
            elif self.path == "/api/v2/signingCert":
                request = x509.load_pem_x509_csr(base64.b64decode(asked["certificateSigningRequest"]))
                try:
                    chain = fake.certify(self.headers["Authorization"].removeprefix("Bearer "), request)
                except jwt.InvalidTokenError:
                    self.send_error(401)
                else:
                    self._answer({"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}})
            elif self.path == "/api/v1/log/entries":
                self._answer(fake.record(asked), 201)

        def _answer(self, value: object, code: int = 200) -> None:
            content = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

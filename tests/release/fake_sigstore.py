"""A Sigstore of one's own on loopback: an OpenID provider, a Fulcio with its CT log, Rekor v1 or v2, and with v2 a TSA.

What the library checks is really made: certificates with embedded SCTs, signed entry timestamps or RFC 3161 timestamps
(by OpenSSL), inclusion proofs and checkpoints, each of a tree of one entry.
"""

import base64
import hashlib
import json
import struct
import subprocess
import tempfile
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


# Whom a CI job's certificate names, which its token's subject is not.
JOB = "https://ci.example.org/us/it/release.yml@main"
TSA_CONFIG = """
[tsa]
default_tsa = it
[it]
serial = serial
digests = sha256, sha384, sha512
signer_digest = sha256
default_policy = 1.2.3.4
ess_cert_id_alg = sha256
"""


class FakeSigstore:
    """Its keys, and what its endpoints answer. `refuse`: a path that answers 500 from now on.

    rekor: the major version of its log. From 2 on a log gives no time, and a timestamp authority does.
    """

    def __init__(self, rekor: int = 1) -> None:
        self.rekor = rekor
        self.provider, self.authority, self.certificates, self.log, self.clock = (
            ec.generate_private_key(ec.SECP256R1()) for _ in range(5)
        )
        self.root = self._make_root()
        self.clock_certificate = self._make_clock()
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

        def authority(*chain: x509.Certificate) -> dict[str, object]:
            certificates = [{"rawBytes": encode(one.public_bytes(serialization.Encoding.DER))} for one in chain]
            subject = {"organization": "tests", "commonName": "tests"}
            return {"subject": subject, "certChain": {"certificates": certificates}, "validFor": since}

        clocks = [self.clock_certificate] if self.rekor > 1 else []
        config = {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self.log)],
                "certificateAuthorities": [authority(self.root)],
                "ctlogs": [log(self.certificates)],
                "timestampAuthorities": [authority(clock, self.root) for clock in clocks],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                **{name: [service] for name in ("caUrls", "oidcUrls")},
                "rekorTlogUrls": [service | {"majorApiVersion": self.rekor}],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": [service | {"url": f"{self.url}/timestamp"} for _ in clocks],
                "tsaConfig": {"selector": "ALL"},
            },
        }
        path.write_text(json.dumps(config))
        return path

    def certify(self, token: str, request: x509.CertificateSigningRequest) -> list[str]:
        """Fulcio's answer: a certificate of ten minutes for whom the token names, with its SCT, and the root."""
        key = self.provider.public_key()
        claims = jwt.decode(token, key, algorithms=["ES256"], audience="sigstore", issuer=self.url)
        workflow = claims.get("job_workflow_ref")
        name = x509.UniformResourceIdentifier(workflow) if workflow else x509.RFC822Name(claims["sub"])
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
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
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
        root, checkpoint = self._grow(body)
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
                "checkpoint": checkpoint,
                "hashes": [],
                "logIndex": 0,
                "rootHash": root.hex(),
                "treeSize": 1,
            },
        }
        return {root.hex(): entry | {"verification": verification}}

    def record_digest(self, asked: dict) -> dict[str, object]:
        """Rekor v2's answer to the digest of a DSSE envelope."""
        request = asked["hashedRekordRequestV002"]
        data = {"algorithm": "SHA2_256", "digest": request["digest"]}
        spec = {"hashedRekordV002": {"data": data, "signature": request["signature"]}}
        body = json.dumps({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": spec}).encode()
        root, checkpoint = self._grow(body)
        return {
            "logIndex": "0",
            "logId": {"keyId": encode(id_of(self.log))},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": encode(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": checkpoint},
            },
            "canonicalizedBody": encode(body),
        }

    def timestamp(self, request: bytes) -> bytes:
        """A TSA's answer, RFC 3161."""
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            pem = serialization.Encoding.PEM
            plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            (folder / "config").write_text(TSA_CONFIG)
            (folder / "request").write_bytes(request)
            (folder / "key").write_bytes(self.clock.private_bytes(pem, *plain))
            (folder / "certificate").write_bytes(self.clock_certificate.public_bytes(pem))
            command = "openssl ts -reply -config config -queryfile request -inkey key -signer certificate -out answer"
            subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
            return (folder / "answer").read_bytes()

    def _grow(self, body: bytes) -> tuple[bytes, str]:
        """Root hash and signed checkpoint of a log that holds this entry alone."""
        self.entries += 1
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"rekor.tests\n1\n{encode(root)}\n"
        signed = encode(id_of(self.log)[:4] + self.log.sign(note.encode(), ALGORITHM))
        return root, f"{note}\n\u2014 rekor.tests {signed}\n"

    def _make_clock(self) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clock")]))
            .issuer_name(self.root.subject)
            .public_key(self.clock.public_key())
            .serial_number(2)
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(self.root.not_valid_after_utc)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
            .sign(self.authority, hashes.SHA256())
        )

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
def run_sigstore(rekor: int = 1) -> Iterator[FakeSigstore]:
    """Serve on a free port of loopback until the block ends."""
    fake = FakeSigstore(rekor)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/.well-known/openid-configuration":
                self._answer({"authorization_endpoint": f"{fake.url}/auth", "token_endpoint": f"{fake.url}/token"})
            elif self.path.startswith("/job-token"):  # as GitHub gives it to a job that may ask for one
                self._answer({"value": fake.token("repo:us/it:main", job_workflow_ref=JOB)})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if fake.refuse and self.path.startswith(fake.refuse):
                self.send_error(500)
                return
            if self.path == "/timestamp":
                self._send(fake.timestamp(content), "application/timestamp-reply")
                return
            asked = json.loads(content)
            if self.path == "/api/v2/signingCert":
                request = x509.load_pem_x509_csr(base64.b64decode(asked["certificateSigningRequest"]))
                try:
                    chain = fake.certify(self.headers["Authorization"].removeprefix("Bearer "), request)
                except jwt.InvalidTokenError:
                    self.send_error(401)
                else:
                    self._answer({"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}})
            elif self.path == "/api/v1/log/entries":
                self._answer(fake.record(asked))
            elif self.path == "/api/v2/log/entries":
                self._answer(fake.record_digest(asked))

        def _answer(self, value: object) -> None:
            self._send(json.dumps(value).encode(), "application/json")

        def _send(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
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

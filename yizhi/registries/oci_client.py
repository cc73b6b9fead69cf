"""The calls of the OCI distribution specification that push and pull need: blobs and manifests of one repository.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md. The `oras` library finds the login that `docker
login` or `oras login` stored, including credential helpers, and gets tokens. It does not transfer files here: it reads
whole files into memory, checks no digest, retries for two minutes, and sends tokens to any address that an upload
names.
"""

import hashlib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from yizhi.errors import InputError, NotRun, show
from yizhi.registries.address import OciAddress

try:
    import requests
    from oras.auth import get_auth_backend
    from oras.auth.utils import parse_auth_header
    from oras.container import Container
    from requests.adapters import HTTPAdapter
except ImportError as error:
    raise NotRun("OCI registries", f"need {error.name}: pip install 'yizhi[oci]'") from None

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
LARGEST_MANIFEST = 4 << 20  # what the specification asks registries to take
_CHUNK = 1 << 20
_TIMEOUT = (10, 60)  # seconds: to connect, and between two pieces of an answer
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_MEANINGS = {
    401: "asks for a login: docker login HOST, or oras login HOST",
    403: "does not allow it with this login",
    404: "has no such repository",
    405: "does not allow it",
    413: "takes no file of this size",
    429: "has had too many requests: try again later",
}


class _Impatient(HTTPAdapter):
    """Gives every request a time limit, including those for tokens."""

    def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
        return super().send(request, **{**options, "timeout": options.get("timeout") or _TIMEOUT})


class OciClient:
    """One repository of a registry, over HTTPS. On this machine's loopback over HTTP, as docker does."""

    def __init__(self, address: OciAddress) -> None:
        self._address = address
        self._local = is_loopback(address.host)
        self._origin = f"{'http' if self._local else 'https'}://{address.host}"
        self._session = requests.Session()
        self._session.mount("http://", _Impatient())
        self._session.mount("https://", _Impatient())
        self._authorization: str | None = None

    def get_manifest(self, reference: str) -> tuple[bytes, str] | None:
        """A manifest's bytes and digest. None if there is none."""
        with self._call("GET", self._url("manifests", reference), {"Accept": MANIFEST_TYPE}) as response:
            if response.status_code == 404:
                return None
            self._require(response, 200)
            data = self._read(response, LARGEST_MANIFEST)
        return data, digest_of(data)

    def put_manifest(self, reference: str, data: bytes) -> None:
        """Point a tag at this manifest. The registry checks that it is whole."""
        headers = {"Content-Type": MANIFEST_TYPE}
        with self._call("PUT", self._url("manifests", reference), headers, data=data) as response:
            self._require(response, 201)
            stored = response.headers.get("Docker-Content-Digest")
        if stored not in (None, digest_of(data)):
            raise InputError(self._address, f"the registry stored another manifest: {stored}, not {digest_of(data)}")

    def has_blob(self, digest: str) -> bool:
        """Whether the repository holds these bytes."""
        with self._call("HEAD", self._url("blobs", digest)) as response:
            if response.status_code != 404:
                self._require(response, 200)
            return bool(response.status_code == 200)

    def put_blob(self, digest: str, data: "bytes | Path") -> None:
        """Send a file's bytes. The registry compares them with their digest."""
        with self._call("POST", self._url("blobs", "uploads/")) as response:
            self._require(response, 202)
            location = response.headers.get("Location")
        if not location:
            raise InputError(self._address, "the registry does not say where to send a file")
        parts = urlsplit(self._follow(self._origin, location))
        query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), ("digest", digest)])
        headers = {"Content-Type": "application/octet-stream"}
        with self._call("PUT", urlunsplit(parts._replace(query=query)), headers, data=data) as response:
            self._require(response, 201)

    def get_blob(self, digest: str, size: int, file: BinaryIO) -> str | None:
        """Write a blob's bytes. Returns their fault, or None. Never takes more than `size` bytes."""
        hashed, count = hashlib.sha256(), 0
        with self._call("GET", self._url("blobs", digest)) as response:
            self._require(response, 200)
            try:
                for chunk in response.iter_content(_CHUNK):
                    count += len(chunk)
                    if count > size:
                        return f"expected {size} bytes; found more"
                    hashed.update(chunk)
                    file.write(chunk)
            except requests.RequestException as error:
                raise InputError(
                    self._address, f"the answer broke off after {count} of {size} bytes: {type(error).__name__}"
                ) from None
        if count != size:
            return f"expected {size} bytes; found {count}"
        found = f"sha256:{hashed.hexdigest()}"
        return None if found == digest else f"expected {digest}; found {found}"

    def _url(self, kind: str, name: str) -> str:
        return f"{self._origin}/v2/{self._address.repository}/{kind}/{name}"

    def _call(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, data: "bytes | Path | None" = None
    ) -> "requests.Response":
        """The answer of one request, after a login if needed, and after redirects if it only reads."""
        response = self._send(method, url, headers, data)
        if response.status_code == 401 and self._is_ours(url) and self._log_in(response):
            response.close()
            response = self._send(method, url, headers, data)
        for _ in range(_MOST_REDIRECTS):
            if method not in ("GET", "HEAD") or response.status_code not in _REDIRECTS:
                return response
            response.close()
            url = self._follow(url, response.headers.get("Location", ""))
            response = self._send(method, url, headers, data)
        response.close()
        raise InputError(self._address, f"more than {_MOST_REDIRECTS} redirects")

    def _follow(self, url: str, location: str) -> str:
        """Where the registry sends to."""
        try:
            followed = urljoin(url, location)
            urlsplit(followed)
        except ValueError:
            raise InputError(self._address, f"the registry redirects to an invalid address: {show(location)}") from None
        return followed

    def _send(
        self, method: str, url: str, headers: Mapping[str, str] | None, data: "bytes | Path | None"
    ) -> "requests.Response":
        parts = urlsplit(url)
        if parts.scheme != "https" and not (self._local and parts.scheme == "http" and is_loopback(parts.netloc)):
            raise InputError(self._address, f"the registry sends to {parts.scheme}://{parts.netloc}, which is not safe")
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        if self._authorization and self._is_ours(url):  # a login is for the registry, and follows to no other host
            sent["Authorization"] = self._authorization
        try:
            if isinstance(data, Path):
                with open(data, "rb") as file:
                    response = self._request(method, url, sent, file)
            else:
                response = self._request(method, url, sent, data)
        except requests.RequestException as error:
            raise InputError(self._address, f"{parts.netloc} cannot be reached: {type(error).__name__}") from None
        except ValueError:  # requests reads where a redirect leads, also where it is not to follow
            raise InputError(self._address, f"{parts.netloc} redirects to an invalid address") from None
        packed = response.headers.get("Content-Encoding", "identity")
        if packed.lower() != "identity":  # a small answer could unpack to any size
            response.close()
            raise InputError(self._address, f"{parts.netloc} answers in {show(packed)}, which was not asked for")
        return response

    def _request(self, method: str, url: str, headers: Mapping[str, str], data: Any) -> "requests.Response":
        # auth: else requests puts a login of ~/.netrc in the place of ours.
        return self._session.request(
            method, url, headers=headers, data=data, stream=True, allow_redirects=False, auth=lambda request: request
        )

    def _is_ours(self, url: str) -> bool:
        return url.startswith(f"{self._origin}/")

    def _log_in(self, response: "requests.Response") -> bool:
        """Find the stored login, and get a token with it where the registry works with tokens."""
        challenge = response.headers.get("WWW-Authenticate", "")
        basic = challenge.lower().startswith("basic")
        if not basic and not challenge.lower().startswith("bearer"):
            return False
        auth = get_auth_backend("token", self._session, insecure=self._local)
        container = Container(self._address.repository)
        container.registry = self._address.host  # which it cannot tell from a name's first part
        own = os.environ.get("DOCKER_CONFIG")
        configs = [f"{own}/config.json"] if own and Path(own, "config.json").is_file() else []
        try:
            auth.load_configs(container, configs=configs)
            known = getattr(auth, "_basic_auth", None)
            if basic:
                self._authorization = f"Basic {known}" if known else None
            else:
                header = self._check_realm(parse_auth_header(challenge))
                token = auth.request_token(header) if known else auth.request_anonymous_token(header)
                self._authorization = f"Bearer {token}" if token else None
        except InputError:
            raise
        # What is stored, and what the registry answers, may be anything.
        except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(self._address, f"the login failed: {type(error).__name__}") from None
        return self._authorization is not None

    def _check_realm(self, header: Any) -> Any:
        """The login may go to another host, as with docker, but only over HTTPS or to this machine."""
        realm = urlsplit(header.realm or "")
        if realm.scheme != "https" and not (self._local and realm.scheme == "http" and is_loopback(realm.netloc)):
            raise InputError(self._address, f"the registry asks for a login at {realm.netloc}, which is not safe")
        return header

    def _read(self, response: "requests.Response", most: int) -> bytes:
        data = b""
        try:
            for chunk in response.iter_content(_CHUNK):
                data += chunk
                if len(data) > most:
                    raise InputError(self._address, f"the manifest has more than {most} bytes")
        except requests.RequestException as error:
            raise InputError(self._address, f"the answer broke off: {type(error).__name__}") from None
        return data

    def _require(self, response: "requests.Response", expected: int) -> None:
        status = response.status_code
        if status != expected:
            meaning = _MEANINGS.get(status, "failed" if status >= 500 else f"gave no answer that fits ({expected})")
            meaning = meaning.replace("HOST", self._address.host)
            raise InputError(self._address, f"the registry {meaning} (HTTP {status})")


def is_loopback(host: str) -> bool:
    """Whether `host[:port]` is this machine's own."""
    name = re.sub(r":\d+$", "", host).strip("[]")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def digest_of(data: bytes) -> str:
    """`sha256:` and hex digits, as registries write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"

"""A small OCI registry on loopback: pulls, pushes and tags of the distribution specification, and how they go wrong."""

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Registry(BaseHTTPRequestHandler):
    """blobs: by digest. tags: name -> manifest. seen: method, path and login of each request.

    fault: called with each request before it is answered; answers it itself where it returns True.
    login: `user:password` that is asked for with a Basic challenge, or None.
    """

    protocol_version = "HTTP/1.1"
    blobs: dict[str, bytes]
    tags: dict[str, bytes]
    seen: list[tuple[str, str, str | None]]
    fault: Callable[["Registry"], bool] | None = None
    login: str | None = None
    tokens = False

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.seen.append((self.command, self.path, self.headers.get("Authorization")))
        if type(self).fault and type(self).fault(self):
            return None
        parts = urlsplit(self.path)
        if self.login and not self.is_allowed(parts.path):
            host = f"http://127.0.0.1:{self.server.server_port}"
            bearer = f'Bearer realm="{host}/token",service="test",scope="repository:models/bert:pull,push"'
            return self.answer(401, b"", {"WWW-Authenticate": bearer if self.tokens else 'Basic realm="test"'})
        kind, _, name = parts.path.partition("/models/bert/")[2].partition("/")
        match self.command, kind, name:
            case "GET", "", "" if parts.path == "/token":
                return self.answer(200, json.dumps({"token": "secret-token"}).encode())
            case "POST", "blobs", "uploads/":
                return self.answer(202, b"", {"Location": "/v2/models/bert/blobs/uploads/1?state=a%2Fb"})
            case "PUT", "blobs", "uploads/1":
                query = parse_qs(parts.query)
                digest = query["digest"][0]
                if query["state"] != ["a/b"] or sha256(self.body) != digest:
                    return self.answer(400, b"")
                self.blobs[digest] = self.body
                return self.answer(201, b"")
            case "PUT", "manifests", tag:
                manifest = json.loads(self.body)
                if not all(one["digest"] in self.blobs for one in [manifest["config"], *manifest["layers"]]):
                    return self.answer(400, b"")
                self.tags[tag] = self.tags[sha256(self.body)] = self.body
                return self.answer(201, b"", {"Docker-Content-Digest": sha256(self.body)})
            case "GET" | "HEAD", "manifests", tag if tag in self.tags:
                return self.answer(200, self.tags[tag])
            case "GET" | "HEAD", "blobs", digest if digest in self.blobs:
                return self.answer(200, self.blobs[digest])
        return self.answer(404, b"")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def is_allowed(self, path: str) -> bool:
        given = self.headers.get("Authorization")
        basic = f"Basic {base64.b64encode(str(self.login).encode()).decode()}"
        if not self.tokens or path == "/token":
            return given == basic
        return given == "Bearer secret-token"

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


class Quiet(ThreadingHTTPServer):
    """Clients that stop reading, or are killed, are what these tests are about."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Fail only for what is no connection's end."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler] = Registry) -> Iterator[tuple[type, str]]:
    """A server of its own state, and its `host:port`."""
    own = type("Own", (handler,), {"blobs": {}, "tags": {}, "seen": []})
    server = Quiet(("127.0.0.1", 0), own)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield own, f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

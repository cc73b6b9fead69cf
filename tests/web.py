"""What tests of WebAssembly need: Node, and packages of npm, which are downloaded once and kept outside of the tree."""

import hashlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from yizhi.errors import NotRun
from yizhi.runtimes.onnxruntime_web import ONNXRUNTIME_WEB
from yizhi.runtimes.wasm_runtime import find_node
from yizhi.storage.npm import NpmPackage, cache_folder, find_tarball


def require_node() -> str:
    """Node's path; skips where there is none that is new enough."""
    try:
        return find_node()
    except NotRun as missing:
        pytest.skip(f"not run: {missing.subject}: {missing.faults[0]}")


def require_package(package: NpmPackage) -> Path:
    """Its tarball; skips where there is none, and none can be downloaded."""
    try:
        return find_tarball(package)
    except NotRun as missing:
        pytest.skip(f"not run: {missing.subject}: {missing.faults[0]}")


def require_wasm() -> None:
    """Skips where ONNX artifacts cannot be run in WebAssembly."""
    require_node()
    require_package(ONNXRUNTIME_WEB)


def install_transformers_js() -> Path:
    """A folder whose node_modules/ has transformers.js as its lock file pins it; skips where npm cannot install it."""
    require_node()
    source = Path(__file__).parent / "packaging" / "transformers_js"
    lock = (source / "package-lock.json").read_bytes()
    final = cache_folder() / f"transformers.js-{hashlib.sha256(lock).hexdigest()[:16]}"
    if final.is_dir():
        return final
    npm = shutil.which("npm")
    if not npm:
        pytest.skip("not run: there is no npm here")
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".partial-") as temporary:
        folder = Path(temporary) / "installed"
        folder.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(source / name, folder)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"not run: npm cannot install transformers.js: {done.stderr.strip()}")
        if not final.is_dir():  # another test process may have been quicker
            folder.rename(final)
    return final


@contextmanager
def serve_folders(folders: Mapping[str, Path], headers: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serve each folder below its name ("" for the root) on loopback; the address, which ends with a slash."""

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            first, _, rest = path.split("?")[0].lstrip("/").partition("/")
            folder, rest = (folders[first], rest) if first in folders else (folders[""], path.split("?")[0])
            return str(folder / rest.lstrip("/"))

        def end_headers(self) -> None:
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()

"""What tests of WebAssembly need: Node, and packages of npm, which are downloaded once and kept outside of the tree."""

from pathlib import Path

import pytest

from yizhi.errors import NotRun
from yizhi.runtimes.onnxruntime_web import ONNXRUNTIME_WEB
from yizhi.runtimes.wasm_runtime import find_node
from yizhi.storage.npm import NpmPackage, find_tarball


def require_node() -> str:
    """Node's path; skips where there is none that is new enough."""
    try:
        return find_node()
    except NotRun as missing:
        pytest.skip(f"not run: {missing}")


def require_package(package: NpmPackage) -> Path:
    """Its tarball; skips where there is none, and none can be downloaded."""
    try:
        return find_tarball(package)
    except NotRun as missing:
        pytest.skip(f"not run: {missing}")


def require_wasm() -> None:
    """Skips where ONNX artifacts cannot be run in WebAssembly."""
    require_node()
    require_package(ONNXRUNTIME_WEB)

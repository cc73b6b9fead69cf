"""Web packages, each made once."""

import pytest

from tests.checkpoints import write_variant
from tests.web import require_package
from yizhi.cli import main
from yizhi.packaging.web import TOKENIZERS
from yizhi.runtimes.onnxruntime_web import ONNXRUNTIME_WEB

TARGETS = ("--target", "onnx", "--target", "onnx-int8")


def export(checkpoint, folder):
    assert main(["export", str(checkpoint), "--out", str(folder), *TARGETS]) == 0
    return folder


def package(release, folder, *arguments):
    for needed in (ONNXRUNTIME_WEB, TOKENIZERS):
        require_package(needed)
    assert main(["package", str(release), "--for", "web", "--out", str(folder), *arguments]) == 0
    return folder


@pytest.fixture(scope="session")
def small_release(tmp_path_factory):
    """A small random BERT, in both precisions."""
    folder = tmp_path_factory.mktemp("small")
    return export(write_variant(folder / "checkpoint", "bert"), folder / "small")


@pytest.fixture(scope="session")
def small_web(small_release):
    return package(small_release, small_release.parent / "web")


@pytest.fixture(scope="session")
def mini_release(shared_data, tmp_path_factory):
    """A small BERT that was trained on Chinese text."""
    return export(shared_data / "checkpoints" / "zh-mini", tmp_path_factory.mktemp("mini") / "zh-mini")


@pytest.fixture(scope="session")
def mini_web(mini_release):
    return package(mini_release, mini_release.parent / "web")

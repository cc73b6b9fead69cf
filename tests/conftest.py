"""Fixtures for every test: small random checkpoints, and the shared test data where it is present."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import Runtime, open_runtime

DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """`make_checkpoint("bert-untied", **changes)` writes a variant of `tests.checkpoints` and returns its folder."""

    def make(variant: str = "bert", *, name: str | None = None, **changes: object) -> Path:
        return write_variant(tmp_path / (name or f"checkpoint-{variant}"), variant, **changes)

    return make


@pytest.fixture(scope="session")
def open_variant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Runtime]]:
    """`open_variant("bert-tagger", "onnx", **changes)` exports a variant and opens it; kept open for the next test."""
    opened: dict[str, Runtime] = {}

    def open_(variant: str, target: str = "pytorch", **changes: object) -> Runtime:
        key = f"{variant} {target} {changes}"
        if key not in opened:
            folder = tmp_path_factory.mktemp(variant)
            with Checkpoint.open(write_variant(folder / "checkpoint", variant, **changes)) as checkpoint:
                opened[key] = open_runtime(export_artifact(checkpoint, target, folder / target))
        return opened[key]

    yield open_
    for runtime in opened.values():
        runtime.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared test data (env YIZHI_DATA); skips where it is absent."""
    folder = Path(os.environ.get("YIZHI_DATA", DEFAULT_DATA))
    if not folder.is_dir():
        pytest.skip(f"no shared test data at {folder}; set YIZHI_DATA to its folder")
    return folder

"""Fixtures for every test: small random checkpoints, and the shared test data where it is present."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
from yizhi.converters.targets import MissingFramework
from yizhi.model.spec import Pooling
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import Runtime, open_runtime

DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without slow tests, leave out files that hold no others: importing what they need alone takes ten seconds."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return True if "\npytestmark = pytest.mark.slow\n" in collection_path.read_text(encoding="utf-8") else None


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """`make_checkpoint("bert-untied", **changes)` writes a variant of `tests.checkpoints` and returns its folder."""

    def make(variant: str = "bert", *, name: str | None = None, **changes: object) -> Path:
        return write_variant(tmp_path / (name or f"checkpoint-{variant}"), variant, **changes)

    return make


@pytest.fixture(scope="session")
def open_artifact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[Checkpoint, Runtime]]]:
    """`open_artifact("bert-tagger", "onnx", Pooling("mean"), **changes)` exports a variant and opens it.

    Both stay open for the tests to come, which must leave the files as they are, and the runtime too (monkeypatch).
    A function among the changes is a module's own: its text is part of the key. Skips where the target's framework
    is not installed.
    """
    opened: dict[str, tuple[Checkpoint, Runtime]] = {}

    def open_(
        variant: str, target: str = "pytorch", pooling: Pooling | None = None, **changes: object
    ) -> tuple[Checkpoint, Runtime]:
        key = f"{variant} {target} {pooling} {changes}"
        if key not in opened:
            folder = tmp_path_factory.mktemp(variant)
            checkpoint = Checkpoint.open(write_variant(folder / "checkpoint", variant, **changes), pooling)
            try:
                opened[key] = checkpoint, open_runtime(export_artifact(checkpoint, target, folder / target))
            except MissingFramework as missing:
                checkpoint.close()
                pytest.skip(str(missing))
        return opened[key]

    yield open_
    for pair in opened.values():
        for each in pair:
            each.close()


@pytest.fixture(scope="session")
def open_variant(open_artifact: Callable[..., tuple[Checkpoint, Runtime]]) -> Callable[..., Runtime]:
    """The runtime alone."""
    return lambda variant, target="pytorch", **changes: open_artifact(variant, target, **changes)[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared test data (env YIZHI_DATA); skips where it is absent."""
    folder = Path(os.environ.get("YIZHI_DATA", DEFAULT_DATA))
    if not folder.is_dir():
        pytest.skip(f"no shared test data at {folder}; set YIZHI_DATA to its folder")
    return folder

"""What tests of several runtimes open."""

import pytest

from tests.artifacts import export_artifact
from yizhi.converters.targets import MissingFramework
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime


@pytest.fixture
def open_artifact(make_checkpoint, tmp_path):
    """`open_artifact(variant, target, pooling)`: a small checkpoint and its opened artifact, closed after the test."""
    opened = []

    def make(variant, target, pooling=None):
        checkpoint = Checkpoint.open(make_checkpoint(variant), pooling)
        opened.append(checkpoint)
        try:
            opened.append(open_runtime(export_artifact(checkpoint, target, tmp_path / target)))
        except MissingFramework as missing:
            pytest.skip(str(missing))
        return checkpoint, opened[-1]

    yield make
    for each in opened:
        each.close()

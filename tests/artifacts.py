"""Exporting one small artifact inside a test."""

from pathlib import Path
from typing import Any

import pytest

from yizhi.converters.shared_files import write_config_and_tokenizer
from yizhi.converters.targets import TARGETS
from yizhi.pipeline.export import describe_artifact
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import DESCRIPTION, ArtifactWriter
from yizhi.storage.folders import new_folder


def slow(*values: object) -> object:
    """For parametrizing: values that `make test-quick` leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)


# What these two compile before they answer takes most of a small model's time.
EVERY_TARGET = [slow(name) if name in ("tensorflow", "flax") else name for name in TARGETS]


def export_artifact(checkpoint: Checkpoint, target: str, folder: Path, **options: Any) -> Path:
    """Convert in this process, as `yizhi export` does in one of its own, and return the folder."""
    converter = TARGETS[target].load_converter()
    with new_folder(folder, replaces=(DESCRIPTION,)) as temporary:
        writer = ArtifactWriter(temporary)
        converter.convert(checkpoint, writer, **options)
        write_config_and_tokenizer(checkpoint, writer)
        writer.describe(describe_artifact(TARGETS[target], checkpoint, checkpoint.digest(), options))
    return folder

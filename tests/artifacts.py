"""Exporting one small artifact inside a test."""

from pathlib import Path
from typing import Any

from converters.artifact import ArtifactWriter, new_folder
from converters.checkpoint import Checkpoint
from converters.targets import TARGETS
from yizhi.export import describe_artifact


def export_artifact(checkpoint: Checkpoint, target: str, folder: Path, **options: Any) -> Path:
    """Convert in this process, as `yizhi export` does in one of its own, and return the folder."""
    converter = TARGETS[target].load_converter()
    with new_folder(folder) as temporary:
        writer = ArtifactWriter(temporary)
        converter.convert(checkpoint, writer, **options)
        writer.write_config_and_tokenizer(checkpoint)
        writer.describe(describe_artifact(TARGETS[target], checkpoint, checkpoint.digest(), options))
    return folder

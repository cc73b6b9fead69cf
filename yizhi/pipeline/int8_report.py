"""`yizhi int8-report`: a release's int8 artifact against its fp32 one, on a user's sentences."""

import tempfile
from pathlib import Path
from typing import Any

from yizhi.converters.shared_files import write_config_and_tokenizer
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError
from yizhi.parity.int8_quality import compare_on_texts, find_costs, parts_of
from yizhi.pipeline.export import describe_artifact
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import ArtifactWriter
from yizhi.runtimes import open_runtime

_FOR_COSTS = 4  # a part's cost is measured on so much less


def read_texts(path: Path) -> list[str]:
    """The lines that are not empty. Raises InputError where the file cannot be read as UTF-8."""
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read: {error}") from None


def report(release: Path, texts: list[str], positions: int, checkpoint: Path | None) -> dict[str, Any]:
    """`TextQuality` as plain values; with the checkpoint, `costs` too: KL with each part kept in fp32.

    Raises InputError where the release lacks one of the two artifacts.
    """
    missing = [name for name in ("onnx", "onnx-int8") if not (release / name / "artifact.json").exists()]
    if missing:
        raise InputError(release, f"has no {', '.join(missing)}")
    with open_runtime(release / "onnx") as fp32:
        with open_runtime(release / "onnx-int8") as int8:
            found = compare_on_texts(int8, fp32, texts, positions).as_dict()
        if checkpoint:
            with Checkpoint.open(checkpoint) as opened, tempfile.TemporaryDirectory() as folder:

                def measure(*kept: str) -> float:
                    artifact = _export(opened, list(kept), Path(folder) / (kept[0] if kept else "all"))
                    with open_runtime(artifact) as int8:
                        return compare_on_texts(int8, fp32, texts, positions // _FOR_COSTS).quality.kl_mean

                found["costs_without"] = measure()
                found["costs"] = find_costs(measure, parts_of(opened.spec))
    return found


def _export(checkpoint: Checkpoint, keep_fp32: list[str], folder: Path) -> Path:
    target = TARGETS["onnx-int8"]
    folder.mkdir()
    writer = ArtifactWriter(folder)
    target.load_converter().convert(checkpoint, writer, keep_fp32=keep_fp32)
    write_config_and_tokenizer(checkpoint, writer)
    writer.describe(describe_artifact(target, checkpoint, checkpoint.digest(), {"keep_fp32": keep_fp32}))
    return folder

"""`yizhi int8-report`: a release's int8 artifact against its fp32 one, on a user's sentences."""

import tempfile
from pathlib import Path
from typing import Any

from yizhi.errors import InputError
from yizhi.parity.int8_quality import TextQuality, compare_on_texts, error_of, find_costs, parts_of
from yizhi.pipeline.int8_suggestion import export_int8
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime

_FOR_COSTS = 4  # a part's cost is measured on so much less


def report(release: Path, texts: list[str], positions: int, checkpoint: Path | None) -> dict[str, Any]:
    """`TextQuality` as plain values, and `outliers`, the outlier channels, by kernel.

    With the checkpoint, `costs` too: the error with each part kept in fp32; and `outliers_gain`: each hidden state's
    mean cosine without outlier channels and with them.

    Raises InputError where the release lacks one of the two artifacts.
    """
    missing = [name for name in ("onnx", "onnx-int8") if not (release / name / "artifact.json").exists()]
    if missing:
        raise InputError(release, f"has no {', '.join(missing)}")
    with open_runtime(release / "onnx") as fp32:
        with open_runtime(release / "onnx-int8") as int8:
            found = compare_on_texts(int8, fp32, texts, positions).as_dict()
            found["outliers"] = int8.artifact.description.get("quantization", {}).get("outliers", {})
        if checkpoint:
            with Checkpoint.open(checkpoint, ignored_files=("*",)) as opened, tempfile.TemporaryDirectory() as folder:

                def compare(name: str, **options: Any) -> TextQuality:
                    with open_runtime(export_int8(opened, Path(folder) / name, **options)) as int8:
                        return compare_on_texts(int8, fp32, texts, positions // _FOR_COSTS)

                def measure(kept: str) -> float:
                    return error_of(compare(kept, keep_fp32=[kept]))

                plain = compare("all")
                found["costs_without"] = error_of(plain)
                if found["outliers"]:
                    without = compare("without", outlier_channels=False)
                    found["outliers_gain"] = {
                        name: [without.cosine_mean[name], cosine] for name, cosine in plain.cosine_mean.items()
                    }
                found["costs"] = find_costs(measure, parts_of(opened.spec))
    return found

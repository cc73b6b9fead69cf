"""How much of the tolerance sound models use, measured against each element and as the gate does: docs/gates.md.

    python -m benchmarks.error_measures

Random models with outlier channels, their hidden states at 511 tokens; a Markdown table of the least and the most that
any seed uses.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.families import shapes
from tests.artifacts import export_artifact
from yizhi.parity.golden import Golden
from yizhi.parity.tolerances import find_gates
from yizhi.pipeline import synthesis as made
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime

# Title -> (shape in benchmarks.families, seeds).
MODELS = {
    "ELECTRA-small discriminator": ("chinese-electra-small-discriminator", range(6)),
    "ALBERT-tiny, full outliers": ("albert_chinese_tiny", range(4)),
}
TARGETS = {"pytorch": "PyTorch", "onnx": "ONNX"}
CASE = "longest-but-one"


def measure(config: Mapping[str, Any], seed: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Target -> the largest share of the tolerance used, against the element and against `Golden.scale`."""
    with patch.object(made, "SHARED_OUTLIERS", 1.0):
        made.synthesize(folder / "checkpoint", dict(config), seed)
    with Checkpoint.open(folder / "checkpoint") as checkpoint:
        golden = Golden.make(checkpoint)
        inputs = next(case.inputs for case in golden.cases if case.name == CASE)
        expected = {name: x for name, x in golden.reference[CASE].items() if name in golden.offsets}
        found = {}
        for target in TARGETS:
            with open_runtime(export_artifact(checkpoint, target, folder / target), threads=1) as runtime:
                outputs = runtime.run(inputs, list(expected))
            shares = [_shares(outputs[name], x, golden.scale(name, x)) for name, x in expected.items()]
            found[target] = tuple(map(max, zip(*shares, strict=True)))
    return found


def _shares(found: np.ndarray, expected: np.ndarray, scale: np.ndarray) -> tuple[float, float]:
    tolerance = find_gates("fp32", "cpu")
    error = np.abs(found.astype(np.float64) - expected)
    return tuple(float((error / tolerance.allowed(by)).max()) for by in (np.abs(expected.astype(np.float64)), scale))


def main() -> int:
    """Measure and print."""
    print("| | measured against the element | against LayerNorm's two terms |\n|---|---|---|")
    for title, (shape, seeds) in MODELS.items():
        measured = []
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                measured.append(measure(shapes()[shape], seed, Path(folder)))
        for target, name in TARGETS.items():
            both = zip(*(shares[target] for shares in measured), strict=True)
            ranges = " | ".join(f"{min(values):.2f} – {max(values):.2f}" for values in both)
            print(f"| {title}, {name} | {ranges} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What int8's gates are set by: each measure on really trained checkpoints, with and without what helps, and on faults.

    python -m benchmarks.int8_gates CHECKPOINT... [--target openvino-int8]

Prints a row for each checkpoint: as exported, without outlier channels, and with every scale of one layer's output
kernel 3 % too large. A gate belongs between the first rows and what must be refused.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.artifacts import export_artifact
from yizhi.parity.faults import INT8
from yizhi.parity.golden import Golden
from yizhi.parity.int8_faults import scale_one_kernel
from yizhi.parity.judge import verify
from yizhi.parity.verdict import Verdict
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime

COLUMNS = (
    "checkpoint",
    "token p01",
    "vector mean",
    "order",
    "masked KL",
    "random: lowest",
    "mean",
    "labels",
    "verdict",
)


def measure(
    checkpoint: Checkpoint,
    target: str,
    golden: Golden,
    folder: Path,
    scaled: bool = False,
    outlier_channels: bool = True,
) -> Verdict:
    artifact = export_artifact(checkpoint, target, folder, outlier_channels=outlier_channels)
    if scaled:
        scale_one_kernel(artifact, checkpoint.spec.layers[-1])
    with open_runtime(artifact) as runtime:
        return verify(runtime, golden, "int8")


def describe(name: str, verdict: Verdict) -> str:
    sentences, masked = verdict.sentences, verdict.sentences and verdict.sentences.masked
    cells = (
        name,
        sentences and f"{sentences.token_p01:.5f}",
        sentences and f"{sentences.vector_mean:.5f}",
        sentences and sentences.order and f"{sentences.order:.5f}",
        masked and f"{masked.kl_mean:.1e}",
        f"{min(verdict.cosine.values()):.5f}",
        f"{min(verdict.cosine_mean.values()):.5f}",
        verdict.label_error and f"{verdict.label_error:.3f}",
        "pass" if verdict.passed else f"refused: {len(verdict.faults)} lines",
    )
    return "| " + " | ".join(cell or "–" for cell in cells) + " |"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--target", choices=INT8, default="onnx-int8")
    options = parser.parse_args(arguments)
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for path in options.checkpoints:
        with Checkpoint.open(path) as checkpoint, tempfile.TemporaryDirectory() as folder:
            golden, work = Golden.make(checkpoint), Path(folder)
            print(describe(path.name, measure(checkpoint, options.target, golden, work / "sound")), flush=True)
            verdict = measure(checkpoint, options.target, golden, work / "plain", outlier_channels=False)
            print(describe("… no outlier channels", verdict), flush=True)
            verdict = measure(checkpoint, options.target, golden, work / "scale", scaled=True)
            print(describe("… a kernel's scales × 1.03", verdict), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

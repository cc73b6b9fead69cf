"""How much memory one row of 8,192 tokens takes, by target: docs/using.md.

    python -m benchmarks.long_rows [--length 8192]

An XLM-RoBERTa of one layer, 128 wide, with two heads of 64: its attention is what grows with the square of the length.
Each pass has a process of its own; the table says how far its largest resident memory rose while the row was run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.artifacts import export_artifact
from yizhi.converters.targets import TARGETS
from yizhi.pipeline.synthesis import synthesize
from yizhi.reading.checkpoint import Checkpoint

SHAPE: Mapping[str, Any] = {
    "architectures": ["XLMRobertaModel"],
    **{"model_type": "xlm-roberta", "vocab_size": 1000, "hidden_size": 128, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "intermediate_size": 128, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    **{"max_position_embeddings": 8194, "pad_token_id": 1, "hidden_act": "gelu"},
}
# In a process of its own: JSON of the rise in bytes, by what was resident before.
_PASS = """
import json, sys
from benchmarks.contestants import make_inputs, peak_bytes
from yizhi.runtimes import open_runtime
folder, length = sys.argv[1], int(sys.argv[2])
with open_runtime(folder, threads=1) as runtime:
    runtime.run(make_inputs(1, 16), ["last_hidden_state"])
    before = peak_bytes()
    runtime.run(make_inputs(1, length), ["last_hidden_state"])
print(json.dumps(peak_bytes() - before))
"""


def measure(folder: Path, length: int) -> int:
    """How far the largest resident memory rises with one row of so many tokens, in bytes."""
    command = [sys.executable, "-c", _PASS, str(folder), str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return int(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=8192, help="tokens (default: %(default)s)")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="(default: all)")
    options = parser.parse_args()
    scores = SHAPE["num_attention_heads"] * options.length**2 * 4
    print(f"| target | MB | times the scores, {scores / 1e6:.0f} MB |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder) / "checkpoint", dict(SHAPE))
        with Checkpoint.open(Path(folder) / "checkpoint") as checkpoint:
            for target in options.target or TARGETS:
                rise = measure(export_artifact(checkpoint, target, Path(folder) / target), options.length)
                print(f"| {target} | {rise / 1e6:,.0f} | {rise / scores:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

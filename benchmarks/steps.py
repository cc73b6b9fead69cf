"""What a step with a cache saves: new tokens a second, one token a step, against reading the whole row for each.

    python -m benchmarks.steps [--target onnx] [--tokens 256] [--rounds 3]

A random Qwen3 of 8 layers, 512 wide, is made and converted first. Both ways take turns, in one run; each keeps its best
round. The row has `tokens` tokens before the measured ones. Time is the processor's, of one thread: other work on the
machine does not count.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import Runtime, open_runtime

SHAPE = {
    **{"num_hidden_layers": 8, "hidden_size": 512, "intermediate_size": 1536, "max_position_embeddings": 4096},
    **{"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64},
}
NEW = 16  # tokens of a round


def measure(runtime: Runtime, tokens: int, rounds: int) -> dict[str, float]:
    """Most new tokens a second of processor time, of each way; the first round warms up.

    Raises AssertionError where the logits differ.
    """
    ids = np.random.default_rng(0).integers(5, runtime.config.vocab_size, (1, tokens + NEW))
    best: dict[str, float] = {}
    _, prefix = runtime.step({"input_ids": ids[:, :tokens]})
    for _ in range(rounds + 1):
        past, start = prefix, time.process_time()
        for end in range(tokens, tokens + NEW):
            outputs, past = runtime.step({"input_ids": ids[:, end : end + 1]}, past)
        best["a step with a cache"] = max(best.get("a step with a cache", 0), NEW / (time.process_time() - start))
        start = time.process_time()
        for end in range(tokens, tokens + NEW):
            whole = runtime.run({"input_ids": ids[:, : end + 1]}, ["logits"])
        best["the whole row"] = max(best.get("the whole row", 0), NEW / (time.process_time() - start))
    np.testing.assert_allclose(outputs["logits"][:, -1], whole["logits"][:, -1], rtol=1e-3, atol=1e-3)
    return best


def main() -> None:
    """Run it and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="onnx", choices=["pytorch", "onnx"])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with Checkpoint.open(write_variant(Path(folder) / "checkpoint", "qwen3", config=SHAPE)) as checkpoint:
            artifact = export_artifact(checkpoint, options.target, Path(folder) / options.target)
        with open_runtime(artifact, threads=1) as runtime:
            found = measure(runtime, options.tokens, options.rounds)
    print(f"| {options.target}, after {options.tokens} tokens | new tokens a second of processor time |\n|---|---|")
    for way, rate in found.items():
        print(f"| {way} | {rate:.1f} |")
    print(f"\n{found['a step with a cache'] / found['the whole row']:.1f} times as many")


if __name__ == "__main__":
    main()

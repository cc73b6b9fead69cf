"""What answering masks costs: a whole pass, and `logits_at` for one mask a sentence; and the first answer of a process.

    python benchmarks/fill_mask.py ARTIFACT [--threads 2] [--rounds 9]

Ways take turns, so that a slow minute of the machine falls on all; each keeps its best round.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from yizhi.runtimes import FillMask, open_runtime
from yizhi.runtimes.base import Inputs

SHAPES = ((1, 32), (8, 128), (4, 512))
SENTENCE = "今天天气很[MASK]。"


def measure_shape(folder: Path, threads: int, rounds: int, batch: int, length: int) -> dict[str, float]:
    """Best milliseconds of each way at one shape, each in a runtime of its own: a waiting session's threads spin."""
    rng = np.random.default_rng(0)
    best: dict[str, float] = {}
    with open_runtime(folder, threads=threads) as whole, open_runtime(folder, threads=threads) as chosen:
        inputs = Inputs.of(rng.integers(0, whole.config.vocab_size, (batch, length)))
        positions = np.stack([np.arange(batch), rng.integers(1, length - 1, batch)], axis=1)
        ways: dict[str, Callable[[], object]] = {
            "logits of every token": lambda: whole.run(inputs, ["logits"]),
            "hidden states": lambda: whole.run(inputs, ["last_hidden_state"]),
            "logits_at, one mask a row": lambda: chosen.logits_at(inputs, positions),
        }
        for _ in range(rounds + 1):  # the first one warms up
            for name, run in ways.items():
                run()
                time.sleep(0.05)
                start = time.perf_counter()
                run()
                best[name] = min(best.get(name, np.inf), 1000 * (time.perf_counter() - start))
    return best


def answer_once(folder: Path, threads: int) -> None:
    """Open an artifact and answer, in a process that did nothing else; prints the seconds since it began to open."""
    start = time.perf_counter()
    with open_runtime(folder, threads=threads) as runtime:
        FillMask(runtime)(SENTENCE)
        print(time.perf_counter() - start)


def main() -> None:
    """Run it and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--once", action="store_true", help="only answer one sentence, and say how long it took")
    options = parser.parse_args()
    if options.once:
        answer_once(options.artifact, options.threads)
        return
    for batch, length in SHAPES:
        print(f"\n| {batch} × {length} | ms |\n|---|---|")
        for name, best in measure_shape(options.artifact, options.threads, options.rounds, batch, length).items():
            print(f"| {name} | {best:.1f} |")
    again = [sys.executable, __file__, str(options.artifact), "--threads", str(options.threads), "--once"]
    seconds = [float(subprocess.run(again, check=True, capture_output=True, text=True).stdout) for _ in range(3)]
    print(f"\nopening and first answer in a fresh process: {min(seconds):.2f} s (best of {len(seconds)})")


if __name__ == "__main__":
    main()

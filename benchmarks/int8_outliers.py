"""What int8's outlier channels cost, and what they gain: a checkpoint exported with them and without.

    taskset --cpu-list 1 python -m benchmarks.int8_outliers CHECKPOINT [--batch 8] [--length 128] [--openings 16]
                                                                       [--turns 8] [--text FILE]

The two take turns on one thread, in alternating order. Both are opened anew several times: where a session's memory
lies moves its time by 5 %. Time is the thread's own, so that a wait for the core does not count; a neighbour in the
caches still does, so repeat until the ratios agree. Prints milliseconds for one batch of random ids, at best and in the
median, and their ratios; then cosines with fp32 on everyday sentences, or on FILE's lines.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.artifacts import export_artifact
from yizhi.parity.sentence_quality import SentenceQuality, Sentences
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.sentences import everyday_rows, rows_of
from yizhi.runtimes import open_runtime
from yizhi.runtimes.base import Inputs, Runtime

STATES = "last_hidden_state"
MOST_ROWS = 256
NAMES = ("without", "with")


def measure_turns(folders: Sequence[Path], inputs: Inputs, openings: int, turns: int) -> NDArray[np.float64]:
    """Milliseconds [openings, turns, folders] of the thread's own time, after a pass of each that warms up."""
    found = np.zeros((openings, turns, len(folders)))
    for opening in range(openings):
        with ExitStack() as stack:
            opened = [(place, stack.enter_context(open_runtime(path, threads=1))) for place, path in enumerate(folders)]
            for turn in range(-1, turns):
                for place, runtime in opened if turn % 2 else reversed(opened):
                    start = time.thread_time()
                    runtime.run(inputs, [STATES])
                    found[opening, turn, place] = (time.thread_time() - start) * 1e3  # the first is overwritten
    return found


def compare(int8: Runtime, fp32: Runtime, rows: list[list[int]]) -> SentenceQuality | None:
    """The tokens' and sentences' vectors, each sentence run alone."""
    sentences = Sentences()
    for row in rows:
        inputs = Inputs.of([row])
        found, expected = (runtime.run(inputs, [STATES])[STATES][0] for runtime in (int8, fp32))
        sentences.add(inputs.attention_mask, found, expected)
    return sentences.measure(lead=0)


def describe(name: str, found: SentenceQuality) -> str:
    values = (found.token_lowest, found.token_p01, found.token_mean, found.vector_lowest, found.vector_mean)
    order = "–" if found.order is None else f"{found.order:.4f}"
    return f"| {name} | " + " | ".join(f"{value:.5f}" for value in values) + f" | {order} |"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--openings", type=int, default=16)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--text", type=Path)
    options = parser.parse_args(arguments)
    with Checkpoint.open(options.checkpoint) as checkpoint, tempfile.TemporaryDirectory() as folder:
        work, longest = Path(folder), checkpoint.config.longest
        without = export_artifact(checkpoint, "onnx-int8", work / "without", outlier_channels=False)
        folders = without, export_artifact(checkpoint, "onnx-int8", work / "with")
        fp32 = export_artifact(checkpoint, "onnx", work / "fp32")
        shape = options.batch, min(options.length, longest)
        ids = np.random.default_rng(0).integers(200, checkpoint.config.vocab_size, shape)
        found = measure_turns(folders, Inputs.of(ids), options.openings, options.turns)
        best, median = found.min(axis=(0, 1)), np.median(found, axis=(0, 1))
        for name, least, middle in zip(NAMES, best, median, strict=True):
            print(f"{name:8} {least:7.1f} ms at best, {middle:7.1f} in the median")
        medians = np.median(found, axis=1)  # [openings, 2]
        ratios = best[1] / best[0], median[1] / median[0], np.median(medians[:, 1] / medians[:, 0])
        print("ratio    {:.3f} at best, {:.3f} of medians, {:.3f} by opening".format(*ratios))
        rows = everyday_rows(checkpoint.text, longest)
        if options.text:
            rows, _ = rows_of(checkpoint.text, options.text.read_text().splitlines(), longest, MOST_ROWS)
        print("| | lowest token | 1st percentile | mean | lowest sentence | mean | order |\n" + "|---" * 7 + "|")
        for name, path in zip(NAMES, folders, strict=True):
            with open_runtime(path) as int8, open_runtime(fp32) as reference:
                if quality := compare(int8, reference, rows):
                    print(describe(name, quality), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

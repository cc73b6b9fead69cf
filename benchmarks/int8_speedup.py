"""int8 beside fp32 in one release: size of the weights, and milliseconds for one batch.

    python -m benchmarks.int8_speedup RELEASE [--batch 8] [--length 128] [--threads 1] [--rounds 5]
                                              [--plain] [--opening]

RELEASE holds `onnx` and `onnx-int8`. The two take turns, so that a slow minute of the machine falls on both; each
keeps its best round. --plain: the graph that processors without VNNI are given, and whoever loads `model.onnx` himself.
--opening: also the seconds until one token was answered, and the memory that this took, without pages of files.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from yizhi.runtimes import onnx_runtime, open_runtime
from yizhi.runtimes.base import Inputs, Runtime

NAMES = ("onnx", "onnx-int8")


def measure(runtime: Runtime, inputs: Inputs) -> float:
    start = time.perf_counter()
    runtime.run(inputs)
    return time.perf_counter() - start


def used() -> int:
    """Bytes of this process that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--opening", action="store_true")
    options = parser.parse_args()
    if options.plain:
        onnx_runtime.adds_signed_exactly = lambda: False
    runtimes = {name: open_runtime(options.release / name, threads=options.threads) for name in NAMES}
    first = runtimes["onnx"]
    length = min(options.length, first.config.longest)
    ids = np.random.default_rng(0).integers(200, first.config.vocab_size, (options.batch, length))
    opened = []
    for name in NAMES:
        before = used()
        seconds = measure(runtimes[name], Inputs.of(ids[:1, :1]))
        opened.append(f"{name} {seconds:.2f} s, {(used() - before) / 1e6:.0f} MB")
    best = dict.fromkeys(NAMES, float("inf"))
    for round_number in range(options.rounds + 1):
        for name in NAMES:
            seconds = measure(runtimes[name], Inputs.of(ids))
            best[name] = min(best[name], seconds) if round_number else best[name]  # the first one warms up
    sizes = {name: (options.release / name / "model.onnx.data").stat().st_size for name in NAMES}
    for name in NAMES:
        print(
            f"{name:10}  {sizes[name] / 1e6:6.1f} MB  {best[name] * 1e3:8.1f} ms for {options.batch} × {length} tokens"
        )
    ratio, speedup = sizes["onnx-int8"] / sizes["onnx"], best["onnx"] / best["onnx-int8"]
    print(f"int8 is {ratio:.3f} of the size and {speedup:.2f} times as fast, on {options.threads} thread(s)")
    if options.opening:
        print(f"opened: {'; '.join(opened)}")
    for runtime in runtimes.values():
        runtime.close()


if __name__ == "__main__":
    main()

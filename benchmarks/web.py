"""A release's ONNX artifacts in WebAssembly beside the native runtime: what is downloaded, opening, and milliseconds.

    python -m benchmarks.web RELEASE [--batch 1] [--length 32] [--rounds 5]

WebAssembly is onnxruntime-web's, in Node. Last hidden states; the two take turns, so that a slow minute of the machine
falls on both, and each keeps its best round. Opening: from nothing to the answer for one token; for WebAssembly with
Node's start, and with its engine read from npm's tarball, which a browser does not do.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from yizhi.choices import WASM
from yizhi.commands.options import positive
from yizhi.pipeline.environment import Environment
from yizhi.reports.tables import format_bytes
from yizhi.runtimes import open_runtime
from yizhi.runtimes.base import Inputs, Runtime

DEVICES = {"native": "cpu", "wasm": WASM}
OUTPUTS = ["last_hidden_state"]


def measure(runtime: Runtime, inputs: Inputs) -> float:
    start = time.perf_counter()
    runtime.run(inputs, OUTPUTS)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("--batch", type=positive, default=1)
    parser.add_argument("--length", type=positive, default=32)
    parser.add_argument("--rounds", type=positive, default=5)
    options = parser.parse_args()
    print(f"{Environment.here().processor}, one thread, {options.batch} × {options.length} tokens")
    for target in ("onnx", "onnx-int8"):
        folder = options.release / target
        opened, runtimes = {}, {}
        for name, device in DEVICES.items():
            start = time.perf_counter()
            runtimes[name] = open_runtime(folder, device=device, threads=1)
            measure(runtimes[name], Inputs.of([[1]]))
            opened[name] = time.perf_counter() - start
        config = runtimes["native"].config
        length = min(options.length, config.longest)
        ids = np.random.default_rng(0).integers(0, config.vocab_size, (options.batch, length))
        rounds: dict[str, list[float]] = {name: [] for name in DEVICES}
        for _ in range(options.rounds + 1):
            for name, runtime in runtimes.items():
                rounds[name].append(measure(runtime, Inputs.of(ids)))
        best = {name: min(seconds[1:]) for name, seconds in rounds.items()}  # the first one warms up
        size = (folder / "model.onnx").stat().st_size + (folder / "model.onnx.data").stat().st_size
        told = [f"{name} {best[name] * 1e3:.1f} ms, opened in {opened[name]:.2f} s" for name in DEVICES]
        print(f"{target}: {format_bytes(size)}; {'; '.join(told)}; ratio {best['wasm'] / best['native']:.1f}")
        for runtime in runtimes.values():
            runtime.close()


if __name__ == "__main__":
    main()

"""LiteRT artifacts beside ONNX Runtime's: size, milliseconds for one batch, and memory.

    python -m benchmarks.litert RELEASE [--shape 1x32 …] [--threads 1 2] [--rounds 10] [--builtin]

RELEASE holds some of `litert`, `litert-int8`, `onnx` and `onnx-int8`; `yizhi convert` makes one. `features` is what is
run. The artifacts take turns, so that a slow minute of the machine falls on all, and each keeps its best round. For
memory each is opened in a process of its own: what it holds that is no file's, after a token and the largest shape.
--builtin: also LiteRT's kernels without XNNPACK.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from yizhi.runtimes import open_runtime
from yizhi.runtimes.base import Inputs, Runtime

NAMES = ("litert", "litert-int8", "onnx", "onnx-int8")
BUILTIN = "builtin:"


def open_named(release: Path, name: str, threads: int) -> Runtime:
    runtime = open_runtime(release / name.removeprefix(BUILTIN), threads=threads)
    if name.startswith(BUILTIN):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        runtime._interpreter = Interpreter(
            str(runtime.artifact.folder / "model.tflite"),
            num_threads=threads,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    return runtime


def make_inputs(runtime: Runtime, shape: tuple[int, int]) -> Inputs:
    return Inputs.of(np.random.default_rng(0).integers(200, runtime.config.vocab_size, shape))


def run(runtime: Runtime, inputs: Inputs) -> float:
    start = time.perf_counter()
    runtime.run(inputs, runtime.signatures["features"])
    return time.perf_counter() - start


def own_memory() -> int:
    """Bytes of this process that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def measure_memory(release: Path, name: str, shapes: list[tuple[int, int]]) -> dict[str, float]:
    """In this process: seconds until one token was answered, and bytes added then, and after the largest shape."""
    with open_named(release, "litert" if "litert" in name else "onnx", 1):
        pass  # the framework itself is loaded
    before = own_memory()
    start = time.perf_counter()
    runtime = open_named(release, name, 1)
    run(runtime, make_inputs(runtime, (1, 1)))
    seconds, opened = time.perf_counter() - start, own_memory() - before
    run(runtime, make_inputs(runtime, max(shapes, key=lambda shape: shape[0] * shape[1])))
    return {"seconds": seconds, "opened": opened, "ran": own_memory() - before}


def read_shape(text: str) -> tuple[int, int]:
    batch, length = map(int, text.split("x"))
    return batch, length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("--shape", type=read_shape, nargs="+", default=[(1, 32), (1, 128), (8, 128)])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--builtin", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(measure_memory(options.release, options.memory_of, options.shape)))
        return
    names = [name for name in NAMES if (options.release / name).is_dir()]
    names += [f"{BUILTIN}{name}" for name in names if name.startswith("litert") and options.builtin]
    print(f"{'':20} {'weights':>9}  opened in  memory then  after {max(options.shape)}")
    for name in names:
        folder = options.release / name.removeprefix(BUILTIN)
        size = sum(path.stat().st_size for path in (*folder.glob("*.tflite"), *folder.glob("model.onnx.data")))
        shapes = ["x".join(map(str, shape)) for shape in options.shape]
        command = [sys.executable, "-m", "benchmarks.litert", str(options.release), "--memory-of", name]
        done = subprocess.run([*command, "--shape", *shapes], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        print(
            f"{name:20} {size / 1e6:6.1f} MB  {found['seconds']:7.2f} s  {found['opened'] / 1e6:8.0f} MB"
            f"  {found['ran'] / 1e6:8.0f} MB"
        )
    for threads in options.threads:
        runtimes = {name: open_named(options.release, name, threads) for name in names}
        for shape in options.shape:
            best = dict.fromkeys(names, float("inf"))
            for number in range(options.rounds + 1):
                for name, runtime in runtimes.items():
                    seconds = run(runtime, make_inputs(runtime, shape))
                    best[name] = min(best[name], seconds) if number else best[name]  # the first one warms up
            told = "  ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in best.items())
            print(f"{threads} thread(s), {shape[0]} x {shape[1]}, ms: {told}")
        for runtime in runtimes.values():
            runtime.close()


if __name__ == "__main__":
    main()

"""How fast a GPU encodes, and how fast it multiplies: one process per framework, for `benchmarks.gpu`.

    python -m benchmarks.gpu_speed encode RELEASE TARGET --device cuda --math strict tf32 bf16 fp16
    python -m benchmarks.gpu_speed multiply --device cuda

Prints one JSON list. A time is the median of whole calls of `Runtime.run`: ids go to the card and one pooled vector a
row comes back, so that what is timed is the encoder. The matrix rate is PyTorch's, of square matrices.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.gpu_report import MatrixRate, Speed
from yizhi.choices import MATH
from yizhi.errors import NotRun
from yizhi.model.config import EncoderConfig
from yizhi.runtimes import open_runtime
from yizhi.runtimes.base import Inputs
from yizhi.storage.codec import to_plain

# Rows × tokens, and the side of the square products: they fill a GPU. A CPU only rehearses.
SHAPES = {"cuda": ((32, 128), (32, 512)), "cpu": ((2, 128),)}
MATRIX_SIZE = {"cuda": 8192, "cpu": 256}
SECONDS = 2.0  # of timed calls a shape
WARM_UPS = 3


def count_operations(config: EncoderConfig, batch: int, length: int) -> int:
    """Floating-point operations of an encoder's matrix products; a multiplication and an addition are two."""
    h, i, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    per_token = 2 * (4 * h * h + 2 * h * i) + 4 * length * h  # projections and feed-forward; scores and context
    return batch * length * layers * per_token


def encode(release: Path, target: str, device: str, tiers: Sequence[str]) -> list[Speed]:
    """Every shape that the model has positions for, in every tier that the target has on this device."""
    found = []
    for math in tiers:
        try:
            runtime = open_runtime(release / target, device=device, math=math)
        except NotRun as why:
            print(f"{target} {math}: {why}", file=sys.stderr)
            continue
        with runtime:
            output = "pooler_output" if "pooler_output" in runtime.outputs else "last_hidden_state"
            for batch, length in SHAPES[device]:
                if length > runtime.config.longest:
                    continue
                ids = np.random.default_rng(0).integers(0, runtime.config.vocab_size, (batch, length))
                inputs = Inputs.of(ids)
                seconds = _median_seconds(partial(runtime.run, inputs, [output]))
                operations = count_operations(runtime.config, batch, length)
                speed = batch * length / seconds
                found.append(Speed(target, math, batch, length, seconds * 1e3, speed, operations / seconds / 1e12))
    return found


def multiply(device: str) -> list[MatrixRate]:
    """The rate of square products of random numbers in each tier, by PyTorch."""
    import torch

    from yizhi.runtimes.pytorch_runtime import PyTorchRuntime, set_arithmetic

    size, found = MATRIX_SIZE[device], []
    for math in PyTorchRuntime.tiers[device]:
        set_arithmetic(device, math)
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(math, torch.float32)
        a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))

        def products(a: torch.Tensor = a, b: torch.Tensor = b) -> None:
            for _ in range(10):
                a @ b
            if device == "cuda":
                torch.cuda.synchronize()

        found.append(MatrixRate(math, size, 10 * 2 * size**3 / _median_seconds(products) / 1e12))
    return found


def _median_seconds(call: Callable[[], object]) -> float:
    """The first calls compile and choose kernels; then as many as fit in SECONDS, at least three."""
    for _ in range(WARM_UPS):
        call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    encoding = commands.add_parser("encode")
    encoding.add_argument("release", type=Path)
    encoding.add_argument("target")
    encoding.add_argument("--math", nargs="+", choices=MATH, default=MATH)
    for command in (encoding, commands.add_parser("multiply")):
        command.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args(arguments)
    found: Sequence[Speed] | Sequence[MatrixRate]
    if options.what == "encode":
        found = encode(options.release, options.target, options.device, options.math)
    else:
        found = multiply(options.device)
    print(json.dumps(to_plain(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

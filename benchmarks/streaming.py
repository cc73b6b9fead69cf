"""Memory of conversions of a large checkpoint, written for this and removed again (docs/size.md).

    python -m benchmarks.streaming                          8 GB, as in docs/size.md
    python -m benchmarks.streaming --layers 8 --step onnx   one step, of a smaller checkpoint

The checkpoint is a BERT of random bfloat16 weights in shards. Each step runs as a process of its own, and what it wrote
is removed before the next. Exit code 1: a step took more memory than is allowed.
"""

import argparse
import math
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.processes import ROOT, Failed, run
from yizhi.model.architectures import full_spec
from yizhi.model.config import EncoderConfig
from yizhi.model.spec import EncoderSpec, Parameter
from yizhi.pipeline.synthesis import CENTRE, DEFAULT_CONFIG, SPREAD, make_vocab
from yizhi.reading.safetensors_file import write_safetensors
from yizhi.reading.weight_files import INDEX
from yizhi.storage.json_files import to_json

SHARD_BYTES = 2e9
_REPEATED = 4_194_301  # numbers, and no multiple of a width: a kernel's rows differ
_LIMIT_SECONDS = 3600
_BF16 = ("--precision", "bf16")
_CONVERSIONS = {
    **{name: ("--target", name) for name in ("pytorch", "flax", "onnx", "onnx-int8", "openvino", "litert")},
    **{f"{name}, bf16": ("--target", name, *_BF16) for name in ("pytorch", "flax", "onnx")},
}
_IMPORTS = {"import": (), "import, bf16": _BF16}
STEPS = (*_IMPORTS, *_CONVERSIONS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the checkpoint, measure each step, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.streaming", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=2048, help="of the hidden states (default: 2048)")
    parser.add_argument("--layers", type=int, default=70, help="default: 70")
    parser.add_argument("--vocab", type=int, default=250_000, help="rows of the embedding table (default: 250000)")
    parser.add_argument("--step", dest="steps", action="append", choices=STEPS, help="only this one (default: all)")
    parser.add_argument("--folder", type=Path, default=ROOT / "build", help="where the disk has space (default: build)")
    options = parser.parse_args(arguments)
    shape = {"hidden_size": options.width, "intermediate_size": 4 * options.width, "vocab_size": options.vocab}
    shape |= {"num_attention_heads": max(1, options.width // 128), "num_hidden_layers": options.layers}
    config = {**DEFAULT_CONFIG, **shape}
    numbers = sum(map(_size, full_spec(EncoderConfig.from_dict(config)).parameters()))
    options.folder.mkdir(parents=True, exist_ok=True)
    # 2 bytes a number, and beside them what is made of them: 4 at most.
    needed, free = 6.2 * numbers, shutil.disk_usage(options.folder).free
    if free < needed:
        print(f"{options.folder}: needs {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ctrl-C does, this removes the folder
    with tempfile.TemporaryDirectory(prefix="streaming-", dir=options.folder) as folder:
        return measure(config, Path(folder), options.steps or STEPS)


def measure(config: dict[str, object], folder: Path, steps: Sequence[str]) -> int:
    """Run the steps in this folder, and print a row for each. Returns the exit code."""
    source, out = folder / "checkpoint", folder / "out"
    spec = full_spec(EncoderConfig.from_dict(config))
    write_checkpoint(source, config, spec)
    largest = 4 * max(map(_size, spec.parameters()))
    allowed = 1.5 * largest + 500e6
    print(f"checkpoint: {_bytes_in(source) / 1e9:.2f} GB; largest tensor: {largest / 1e6:,.0f} MB as float32")
    print(f"allowed: 1.5 × that + 500 MB = {allowed / 1e6:,.0f} MB of anonymous memory\n")
    print("| step | written | seconds | anonymous memory | with pages of mapped files | verdict |")
    print("|---|---|---|---|---|---|", flush=True)
    passed = True
    for step in steps:
        shutil.rmtree(out, ignore_errors=True)
        try:
            found = run([_command(step, source, out)], folder / "log", threads=2, limit=_LIMIT_SECONDS)
        except Failed as error:
            print(f"| {step} | | | | | **FAIL**: {error} |", flush=True)
            passed = False
            continue
        fits = found["anonymous"] <= allowed
        memory = " | ".join(f"{found[kind] / 1e6:,.0f} MB" for kind in ("anonymous", "peak"))
        told = f"{_bytes_in(out) / 1e9:.2f} GB | {found['seconds']:.0f} | {memory} | {'pass' if fits else '**FAIL**'}"
        print(f"| {step} | {told} |", flush=True)
        passed &= fits
    return 0 if passed else 1


def write_checkpoint(folder: Path, config: dict[str, object], spec: EncoderSpec) -> None:
    """Random bfloat16 weights, in shards of SHARD_BYTES, from a few MB that are repeated."""
    folder.mkdir()
    normal = np.random.default_rng(0).standard_normal(_REPEATED, np.float32)
    kinds = {parameter.kind for parameter in spec.parameters()}
    repeated = {kind: _as_bf16(normal * SPREAD[kind] + CENTRE.get(kind, 0.0)) for kind in kinds}
    shards: list[list[Parameter]] = [[]]
    for parameter in spec.parameters():
        if 2 * sum(map(_size, [*shards[-1], parameter])) > SHARD_BYTES and shards[-1]:
            shards.append([])
        shards[-1].append(parameter)
    weight_map = {}
    for number, parameters in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {parameter.name: name for parameter in parameters}
        with open(folder / name, "wb") as file:
            header = {parameter.name: ("BF16", parameter.shape) for parameter in parameters}
            write_safetensors(file, header, (piece for one in parameters for piece in _pieces(repeated[one.kind], one)))
    (folder / INDEX).write_text(to_json({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    (folder / "config.json").write_text(to_json(config), encoding="utf-8")
    entries = make_vocab(spec.config.vocab_size)
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")


def _as_bf16(numbers: np.ndarray) -> memoryview:
    return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).data.cast("B")


def _pieces(repeated: memoryview, parameter: Parameter) -> Iterator[memoryview]:
    left = 2 * _size(parameter)
    while left:
        yield repeated[:left]
        left -= len(repeated[:left])


def _command(step: str, source: Path, out: Path) -> list[str]:
    if step in _IMPORTS:
        return [sys.executable, "-m", "yizhi", "import", str(source), "--out", str(out), *_IMPORTS[step]]
    return [sys.executable, "-m", "yizhi", "convert", str(source), "--out", str(out), *_CONVERSIONS[step]]


def _size(parameter: Parameter) -> int:
    return math.prod(parameter.shape)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())

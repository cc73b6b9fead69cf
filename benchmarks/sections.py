"""What `make bench` measures: a function for each section of docs/performance.md."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.aims import FLOAT32
from benchmarks.contestants import PRECISIONS
from benchmarks.models import FP32, INT8, PRODUCTS, Model
from benchmarks.processes import Contestant, Failed
from benchmarks.workbench import OURS, PEERS_5, VENVS, Rows, Workbench
from yizhi.converters.targets import TARGETS

Entry = Callable[[], dict[str, Any]]
BIG = {"layers": 50, "width": 1024}  # 652 million parameters, 2.6 GB


def exports(bench: Workbench) -> None:
    """Whole processes from checkpoint to artifact, ours and theirs; then all of ours, and the bytes alone."""
    checkpoint, out = bench.checkpoint(), bench.folder / "out"

    def ours(target: str) -> Entry:
        return lambda: bench.make(bench.convert(f"yizhi-{target}", checkpoint, out / target))

    def peer(kind: str) -> Entry:
        return lambda: bench.make(bench.convert(kind, checkpoint, out / f"peer-{kind}"))

    optimum = out / "peer-optimum"

    def quantize() -> dict[str, Any]:
        if not (optimum / "model.onnx").exists():
            raise Failed("optimum's export, which it begins with, failed")
        return bench.make(bench.optimum_quantize(optimum, out / "peer-optimum-int8"))

    def intel(weights: str) -> Entry:
        into = out / f"peer-optimum-intel-{weights}"
        return lambda: bench.make(bench.optimum_intel_export(checkpoint, into, "fill-mask", weights))

    def everything() -> dict[str, Any]:
        release = bench.folder / "release"
        shutil.rmtree(release, ignore_errors=True)
        command = (str(VENVS[OURS] / "python"), "-m", "yizhi", "export", str(checkpoint), "--out", str(release))
        return bench.make((*command, "--jobs", str(bench.threads)))

    entries: dict[str, Entry] = {
        "onnx optimum": lambda: bench.make(bench.optimum_export(checkpoint, optimum, "fill-mask")),
        "onnx-int8 optimum": quantize,
        "tensorflow transformers": peer("tensorflow"),
        "flax transformers": peer("flax"),
        "openvino optimum-intel": intel("fp32"),
        "openvino-int8 optimum-intel": intel("int8"),
        "litert litert-torch": peer("litert-torch"),
        **{f"{target} {OURS}": ours(target) for target in TARGETS},
        **({} if bench.quick else {f"all {OURS}": everything}),
        "all copy and hash": lambda: bench.make(bench.convert("copy", bench.folder / "copied", out / "copy")),
    }
    for target in TARGETS:  # what is copied; links, so that it costs no space
        bench.ours(target)
    shutil.rmtree(bench.folder / "copied", ignore_errors=True)
    shutil.copytree(bench.folder / f"ours-{bench.layers}", bench.folder / "copied", copy_function=_link)
    rows: Rows = {}
    for name, found in bench.take_turns("exports", entries, bench.rounds).items():
        row, _, contestant = name.partition(" ")
        rows.setdefault(row, {})[contestant] = found
    if bench.quick:
        rows["all"] = {OURS: {"not_run": "int8 misses a gate on 3 layers of random weights"}, **rows["all"]}
    rows["all"]["copy and hash"]["bytes"] = [_size(bench.folder / "copied")]
    bench.keep("exports", rows)
    for leftover in ("out", "release", "copied"):
        shutil.rmtree(bench.folder / leftover, ignore_errors=True)


def fp32(bench: Workbench) -> None:
    """Passes of each framework, ours and the same framework's usual way, and the matrix products alone."""
    rows: Rows = {}
    for framework, models in FP32.items():
        products = {} if bench.quick and rows else PRODUCTS  # in a quick run, beside the first framework alone
        rows |= passes(bench, framework, {**models, **products})
    bench.keep("fp32", rows)


def int8(bench: Workbench) -> None:
    """Passes of int8 models beside our float32; how near each is to that, and what a row's batch does to it."""
    reference = bench.folder / "float32.npy"
    with bench.contestant(OURS, bench.ours("pytorch")) as contestant:
        contestant.ask(do="save", path=str(reference))

    def judge(contestant: Contestant) -> dict[str, float]:
        states = bench.folder / "states.npy"
        contestant.ask(do="save", path=str(states))
        return {"cosine": _cosine(states, reference), "moved": contestant.ask(do="batch_dependence")}

    models = {**INT8["int8"], FLOAT32: Model.ours("onnx")}
    bench.keep("int8", passes(bench, "int8", models, judge=judge))


def _cosine(one: Path, other: Path) -> float:
    """The mean over tokens of the cosine of their states."""
    a, b = np.load(one), np.load(other)
    return float(((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean())


def passes(
    bench: Workbench,
    name: str,
    models: Mapping[str, Model],
    device: str = "cpu",
    shapes: Sequence[tuple[int, int]] = (),
    judge: Callable[[Contestant], dict[str, float]] | None = None,
) -> Rows:
    """Open every model in a process of its own, then let them take turns at each shape.

    judge: what to measure of each once, for a row named `quality`.
    """
    broken: dict[str, dict[str, str]] = {}
    rows: Rows = {}
    with ExitStack() as opened:
        contestants: dict[str, Contestant] = {}
        for contestant, model in models.items():
            if bench.quick and model.kind == "torch-compile":  # half a minute until it answers
                broken[contestant] = {"not_run": "left out of quick runs"}
                continue
            try:
                contestants[contestant] = opened.enter_context(
                    bench.contestant(model.kind, model.make(bench), model.venv, device)
                )
            except Failed as error:
                broken[contestant] = {"failed": str(error)}
                bench.say(f"{name}, {contestant}: failed: {error}")
        for batch, length in shapes or bench.shapes:
            row = f"{name} {batch}×{length}"
            repeats = max(1, min(20, 2048 // (batch * length)))

            def entry(contestant: str, batch: int = batch, length: int = length, repeats: int = repeats) -> Entry:
                def ask() -> dict[str, Any]:
                    found = contestants[contestant].ask(do="run", batch=batch, length=length, repeats=repeats)
                    return {"seconds": min(found)}

                return ask

            for contestant in contestants:  # compiles, allocates; not measured
                try:
                    contestants[contestant].ask(do="run", batch=batch, length=length, repeats=1)
                except Failed as error:
                    bench.say(f"{row}, {contestant}: failed: {error}")
            measured = bench.take_turns(row, {n: entry(n) for n in contestants}, 5)
            rows[row] = {n: broken.get(n) or measured[n] for n in models}
        if judge:
            entries = {n: partial(judge, contestant) for n, contestant in contestants.items()}
            measured = bench.take_turns(f"{name} quality", entries, 1)
            rows["quality"] = {n: broken.get(n) or measured[n] for n in models}
        for contestant, process in contestants.items():
            with suppress(Failed):
                found = {"seconds": [process.first], "peak": [process.ask(do="peak")]}
                bench.first_answers.setdefault(name, {})[contestant] = found
        bench.first_answers.setdefault(name, {}).update(broken)
    return rows


def first_answer(bench: Workbench) -> None:
    """Fresh processes: from the start to the first answer, and the largest memory after a pass of 8×128.

    A quick run takes them from the processes that ran the passes, where it has any.
    """
    if bench.quick and bench.first_answers:
        wanted = {**FP32, **INT8}
        known = bench.first_answers.items()
        bench.keep("first", {name: {n: found[n] for n in wanted[name] if n in found} for name, found in known})
        return

    def entry(model: Model) -> Entry:
        def ask() -> dict[str, Any]:
            with bench.contestant(model.kind, model.make(bench), model.venv) as contestant:
                contestant.ask(do="run", batch=8, length=128, repeats=1)
                return {"seconds": contestant.first, "peak": contestant.ask(do="peak")}

        return ask

    rows: Rows = {}
    for name, models in {**FP32, **INT8}.items():
        for model in models.values():
            try:
                model.make(bench)  # so that making it is not measured
            except Failed as error:
                bench.say(f"{name}: failed: {error}")
        rows[name] = bench.take_turns(name, {n: entry(model) for n, model in models.items()}, bench.rounds)
    bench.keep("first", rows)


def scale(bench: Workbench) -> None:
    """Exports of more and more bytes: time and memory of each."""
    sizes = [{"layers": 3}, {"layers": 12}, {"layers": 24}, BIG][: 2 if bench.quick else None]
    rows: Rows = {}
    for size in sizes:
        checkpoint, out = bench.checkpoint(**size), bench.folder / "out"

        def entry(target: str, checkpoint: Path = checkpoint, out: Path = out) -> Entry:
            def make() -> dict[str, Any]:
                found = bench.make(bench.convert(f"yizhi-{target}", checkpoint, out / target))
                return {**found, "bytes": _size(out / target)}

            return make

        name = f"{size['layers']} layers, {size.get('width', 768)} wide"
        rounds = 1 if size is BIG else bench.rounds
        rows[name] = bench.take_turns(name, {target: entry(target) for target in TARGETS}, rounds)
        shutil.rmtree(out, ignore_errors=True)
        if size["layers"] != bench.layers:
            shutil.rmtree(checkpoint)
    bench.keep("scale", rows)


def gpu(bench: Workbench) -> None:
    """PyTorch and JAX on a GPU, ours in strict float32 alone; where there is none, that."""
    import torch

    if not torch.cuda.is_available():
        bench.say("gpu: not run: no CUDA")
        bench.keep("gpu", {}, not_run="no CUDA")
        return
    rows: Rows = {}
    for precision in PRECISIONS:
        models: dict[str, Model] = {
            "transformers 5, SDPA": Model.of(f"transformers-{precision}", PEERS_5),
            "one product": Model.of(f"products-{precision}", OURS),
        }
        if precision == "fp32":
            models[OURS] = Model.ours("pytorch")
            models[f"{OURS}, JAX"] = Model.ours("flax")
        rows |= passes(bench, precision, models, "cuda", ((32, 128), (32, 512)))
    bench.keep("gpu", rows, card=torch.cuda.get_device_name())


def bulk(bench: Workbench) -> None:
    """Many sentences of many lengths."""
    from benchmarks.bulk import measure

    bench.keep("bulk", measure(bench))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


SECTIONS: Mapping[str, Callable[[Workbench], None]] = {
    "exports": exports,
    "fp32": fp32,
    "int8": int8,
    "first": first_answer,
    "scale": scale,
    "bulk": bulk,
    "gpu": gpu,
}

"""Embedding a file on Ray against the local engine, and how fast one process writes what a cluster answers.

    python -m benchmarks.scaling ARTIFACT [--sentences 1000] [--workers 2] [--rows 8192]

Workers have one thread each, as the local engine has here. Sentences are those of `benchmarks.bulk`. Processor
seconds are counted beside seconds, since they hardly depend on what else the machine does.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.bulk import make_sentences
from yizhi.bulk.job import Answers, Engine, Job, answer_here
from yizhi.bulk.operators import OperatorSpec
from yizhi.bulk.progress import Progress
from yizhi.bulk.ray_engine import RayEngine
from yizhi.bulk.run import run
from yizhi.cluster import QUIET
from yizhi.runtimes import Tokenizer
from yizhi.storage.records import Source

_TICKS = os.sysconf("SC_CLK_TCK")


class Workers(Progress):
    """Notes, at each window, when it was written and what the workers have used so far."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self.seconds: dict[int, float] = {}
        self.peaks: dict[int, int] = {}

    def advance(self, rows: int, done: float | None) -> None:
        """Read /proc."""
        self.times.append(time.monotonic())
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and "ray::MapWorker" in (folder / "cmdline").read_text(errors="replace"):
                    times = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
                    self.seconds[int(folder.name)] = sum(map(int, times)) / _TICKS
                    status = (folder / "status").read_text()
                    self.peaks[int(folder.name)] = int(status.partition("VmHWM:")[2].split()[0]) * 1024
            except OSError:  # it ended meanwhile
                continue


def measure(job: Job, engine: Engine) -> tuple[float, float, Workers]:
    """Seconds, this process's processor seconds, and what was noted of the workers."""
    progress = Workers()
    began, used = time.monotonic(), time.process_time()
    run(job, progress, lambda _: None, engine)
    return time.monotonic() - began, time.process_time() - used, progress


def write_only(rows: int, width: int) -> Engine:
    """An engine that answers at once."""
    vectors = np.random.default_rng(0).standard_normal((1024, width)).astype(np.float32)

    def answers(start: int) -> Answers:
        return Answers({start + i: {"embedding": vector} for i, vector in enumerate(vectors, 1)}, {}, None)

    @contextmanager
    def engine(job: Job, skip: int) -> Iterator[Iterator[Answers]]:
        yield map(answers, range(skip, rows, len(vectors)))

    return engine


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--rows", type=int, default=8192, help="that are written to measure the writing")
    options = parser.parse_args()
    os.environ.update(QUIET)
    tokenizer = Tokenizer.open(options.artifact)
    sentences = make_sentences(options.sentences, tokenizer.vocab)
    tokens = sum(len(row.ids) for row in tokenizer.tokenize(sentences))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "in.txt").write_text("\n".join(sentences), encoding="utf-8")
        settings = {"layers": [-1], "pooling": "mean", "normalize": False, "long": "error"}
        operator = OperatorSpec("embed", options.artifact, settings, threads=1)
        source = Source.of(str(folder / "in.txt"), None, "text", None)
        job = Job(source, folder / "local.npy", operator, window=options.window)
        print(f"{len(sentences):,} sentences, {tokens:,} tokens, windows of {options.window}")

        seconds, local, _ = measure(job, answer_here)
        print(f"local: {seconds:.1f} s, {local:.1f} processor seconds: {_rates(len(sentences), tokens, local)}")

        seconds, driver, workers = measure(replace(job, output=folder / "ray.npy"), RayEngine(workers=options.workers))
        used, windows = sum(workers.seconds.values()), workers.times[-1] - workers.times[0]
        print(
            f"ray, {len(workers.seconds)} workers: {seconds:.1f} s, of them {windows:.1f} s "
            f"from the first window to the last; {used:.1f} processor seconds of the workers "
            f"({used / local:.2f} of local) and {driver:.1f} of this process"
        )
        print(f"a worker's peak memory: {max(workers.peaks.values()) / 1e6:.0f} MB")
        if (folder / "ray.npy").read_bytes() != (folder / "local.npy").read_bytes():
            raise SystemExit("the outputs differ")

        for suffix in ("npy", "parquet", "jsonl"):
            written = replace(job, output=folder / f"written.{suffix}")
            seconds, used, _ = measure(written, write_only(options.rows, 768))
            size = written.output.stat().st_size / options.rows
            print(f".{suffix}: {options.rows / seconds:,.0f} rows of 768 a second, {size:,.0f} bytes a row")


def _rates(sentences: int, tokens: int, seconds: float) -> str:
    return f"{sentences / seconds:.1f} sentences and {tokens / seconds:,.0f} tokens a processor second"


if __name__ == "__main__":
    main()

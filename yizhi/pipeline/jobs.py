"""Run jobs that depend on each other, each in a process of its own, a few at a time.

A process of its own gives each framework a clean start (TensorFlow's names depend on it), its own
peak memory, and a crash that stays its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, get_type_hints

from yizhi.storage.codec import from_plain, to_plain

Answer = TypeVar("Answer")
GivenAnswer = TypeVar("GivenAnswer", covariant=True)


class Step(Protocol[GivenAnswer]):
    """What a job does: one of the dataclasses in `yizhi.pipeline.steps`."""

    def run(self, threads: int) -> GivenAnswer:
        """Do it, on so many threads. Its annotation says what the answer is read as."""


@dataclass(frozen=True)
class Job(Generic[Answer]):
    """A step to be done.

    after: names of the jobs that must succeed first. threads: so many, or as many as leave each job its share.
    """

    name: str
    step: Step[Answer]
    after: tuple[str, ...] = ()
    threads: int | None = None


@dataclass(frozen=True)
class Request:
    """What `yizhi.pipeline.worker` is asked for: the name of a step, and its fields. answer: where to write a Result.

    parent: the process that asks.
    """

    name: str
    step: str
    arguments: dict[str, Any]
    threads: int
    answer: Path
    parent: int


@dataclass(frozen=True)
class Result(Generic[Answer]):
    """How a job ended. `value` is what its step returned.

    faults: why it failed; empty when it did not. bad_input tells a user's mistake from a failure, and
    not_run that this machine lacks what the job needs.
    seconds: wall time of the whole process. peak_bytes: its largest resident memory, if it lived to say.
    """

    name: str
    value: Answer | None = None
    faults: list[str] = field(default_factory=list)
    bad_input: bool = False
    not_run: bool = False
    seconds: float = 0.0
    peak_bytes: int | None = None

    @property
    def succeeded(self) -> bool:
        """Whether it ran to its end."""
        return not self.faults


def run_jobs(
    jobs: list[Job[Answer]], parallel: int, started: Callable[[str], None], finished: Callable[[Result[Answer]], None]
) -> dict[str, Result[Answer]]:
    """Run all jobs, at most `parallel` at once, in the order given where dependencies allow.

    A job whose predecessor failed does not run; its result says so.
    """
    results: dict[str, Result[Answer]] = {}
    waiting = list(jobs)
    threads = max(1, (os.cpu_count() or 1) // parallel)
    with ThreadPoolExecutor(parallel) as pool:
        running: dict[Future[Result[Answer]], str] = {}
        while waiting or running:
            for job in list(waiting):
                failed = [results[name] for name in job.after if name in results and not results[name].succeeded]
                if failed:
                    waiting.remove(job)
                    results[job.name] = _not_run(job, failed)
                elif len(running) < parallel and all(name in results for name in job.after):
                    waiting.remove(job)
                    started(job.name)
                    running[pool.submit(_run, job, job.threads or threads)] = job.name
            if running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    running.pop(future)
                    result = future.result()
                    results[result.name] = result
                    finished(result)
    return results


def share_cores(jobs: int, parallel: int) -> int:
    """How many cores each of these jobs may use, at most `parallel` of them running at once."""
    return max(1, (os.cpu_count() or 1) // min(jobs, parallel))


def _not_run(job: Job[Answer], failed: list[Result[Answer]]) -> Result[Answer]:
    faults = [f"not run: {result.name} failed: {fault}" for result in failed for fault in result.faults]
    return Result(job.name, faults=faults, bad_input=all(result.bad_input for result in failed))


def _run(job: Job[Answer], threads: int) -> Result[Answer]:
    # One thread pool per job: two jobs that each start a thread per core only wait for each other.
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "GLOG_minloglevel": "2"}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        request = Request(job.name, type(job.step).__name__, to_plain(job.step), threads, answer, os.getpid())
        process = subprocess.run(
            [sys.executable, "-m", "yizhi.pipeline.worker"],
            input=json.dumps(to_plain(request)),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **limits, **quiet},
            errors="replace",
            check=False,
        )
        seconds = time.monotonic() - begin
        if answer.exists():
            result: Result[Any] = from_plain(Result, json.loads(answer.read_text(encoding="utf-8")))
            if not result.faults:
                result = replace(result, value=from_plain(get_type_hints(job.step.run)["return"], result.value))
            return replace(result, seconds=seconds)
    return Result(job.name, faults=[_explain_death(process)], seconds=seconds)


def _explain_death(process: subprocess.CompletedProcess[str]) -> str:
    last = [line for line in process.stdout.splitlines() if line.strip()][-12:]
    if process.returncode == -9:
        why = "killed (signal 9), most likely for want of memory"
    elif process.returncode < 0:
        why = f"killed by signal {-process.returncode}"
    else:
        why = f"failed with exit code {process.returncode}"
    return "\n    ".join([why, *last])

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
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, get_type_hints

from yizhi.parity.pace import Pace, Tell
from yizhi.storage.codec import from_plain, to_plain

Answer = TypeVar("Answer")
_LOOK_SECONDS = 0.2
GivenAnswer = TypeVar("GivenAnswer", covariant=True)


class Step(Protocol[GivenAnswer]):
    """The work of a job: one of the dataclasses in `yizhi.pipeline.steps`."""

    def run(self, threads: int, tell: Tell) -> GivenAnswer:
        """Do the work on `threads` threads, and report its pace. The return annotation is the type of the answer."""


@dataclass(frozen=True)
class Job(Generic[Answer]):
    """A step to be done.

    after: names of the jobs that must succeed first. threads: of the job; None: its share of the cores.
    """

    name: str
    step: Step[Answer]
    after: tuple[str, ...] = ()
    threads: int | None = None


@dataclass(frozen=True)
class Request:
    """A request to `yizhi.pipeline.worker`: the name of a step, and its fields.

    answer: where to write a Result. pace: where to append a line for each Pace. parent: the process that asks.
    """

    name: str
    step: str
    arguments: dict[str, Any]
    threads: int
    answer: Path
    pace: Path
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


class Watcher:
    """Gets the events of running jobs. This one ignores them."""

    def started(self, name: str) -> None:
        """A job began."""

    def moved(self, name: str, pace: Pace) -> None:
        """A job that counts its cases got so far."""

    def finished(self, result: Result[Any]) -> None:
        """A job ended."""


def run_jobs(jobs: list[Job[Answer]], parallel: int, watcher: Watcher) -> dict[str, Result[Answer]]:
    """Run all jobs, at most `parallel` at once, in the order given where dependencies allow.

    watcher: gets the events, partly from other threads.
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
                    watcher.started(job.name)
                    running[pool.submit(_run, job, job.threads or threads, watcher)] = job.name
            if running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    running.pop(future)
                    result = future.result()
                    results[result.name] = result
                    watcher.finished(result)
    return results


def share_cores(jobs: int, parallel: int) -> int:
    """How many cores each of these jobs may use, at most `parallel` of them running at once."""
    return max(1, (os.cpu_count() or 1) // min(jobs, parallel))


def _not_run(job: Job[Answer], failed: list[Result[Answer]]) -> Result[Answer]:
    faults = [f"not run: {result.name} failed: {fault}" for result in failed for fault in result.faults]
    return Result(job.name, faults=faults, bad_input=all(result.bad_input for result in failed))


def _run(job: Job[Answer], threads: int, watcher: Watcher) -> Result[Answer]:
    # One thread pool per job: two jobs that each start a thread per core only wait for each other.
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "GLOG_minloglevel": "2"}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        answer, pace = Path(scratch) / "answer.json", Path(scratch) / "pace"
        pace.touch()
        request = Request(job.name, type(job.step).__name__, to_plain(job.step), threads, answer, pace, os.getpid())
        with subprocess.Popen(
            [sys.executable, "-m", "yizhi.pipeline.worker"],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **limits, **quiet},
            errors="replace",
        ) as process:
            said = _attend(process, json.dumps(to_plain(request)), pace, partial(watcher.moved, job.name))
        seconds = time.monotonic() - begin
        if answer.exists():
            result: Result[Any] = from_plain(Result, json.loads(answer.read_text(encoding="utf-8")))
            if not result.faults:
                result = replace(result, value=from_plain(get_type_hints(job.step.run)["return"], result.value))
            return replace(result, seconds=seconds)
    return Result(job.name, faults=[_explain_death(process.returncode, said)], seconds=seconds)


def _attend(process: subprocess.Popen[str], request: str, pace: Path, moved: Tell) -> str:
    """Send a process its request and wait for its end, reporting each new last line of `pace`. Returns its output."""
    given: str | None = request
    said, told = None, ""
    while said is None:
        with suppress(subprocess.TimeoutExpired):
            said = process.communicate(given, timeout=_LOOK_SECONDS)[0]
        given = None
        lines = pace.read_text(encoding="ascii").split("\n")[:-1]  # after the last line end, one may be half written
        if lines and lines[-1] != told:
            told = lines[-1]
            moved(from_plain(Pace, json.loads(told)))
    return said


def _explain_death(code: int, said: str) -> str:
    last = [line for line in said.splitlines() if line.strip()][-12:]
    if code == -9:
        why = "killed (signal 9): most likely out of memory"
    elif code < 0:
        why = f"killed by signal {-code}"
    else:
        why = f"failed with exit code {code}"
    return "\n    ".join([why, *last])

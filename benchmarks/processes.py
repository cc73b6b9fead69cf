"""Commands and contestants as processes: how long, how much processor time, how much memory."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAMPLE_SECONDS = 0.02


class Failed(Exception):
    """A command or contestant that did not do what it was asked; its message is why."""


def environment(threads: int) -> dict[str, str]:
    """Equal threads for everyone, nothing fetched, and no GPU where the processor is measured."""
    libraries = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "PJRT_NPROC")
    return {
        **os.environ,
        **dict.fromkeys(libraries, str(threads)),
        "HF_HUB_OFFLINE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_USE_LEGACY_KERAS": "1",  # transformers' TensorFlow classes are written for Keras 2
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
    }


def run(commands: Sequence[Sequence[str]], log: Path, threads: int, limit: float = 900) -> dict[str, float]:
    """Run commands one after another, as whole processes.

    Returns `seconds` (wall), `cpu` (user and system seconds of the whole tree), `peak` (the largest sum of resident
    bytes over the tree, looked at every 20 ms) and `anonymous` (the same, without pages of mapped files). Raises
    Failed with the end of what it printed. A command that is still running when this is interrupted is killed.
    """
    found = {"seconds": 0.0, "cpu": 0.0, "peak": 0.0, "anonymous": 0.0}
    for command in commands:
        with open(log, "wb") as output:
            os.sync()  # or one who syncs would wait for what another left unwritten
            start = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(threads), stdout=output, stderr=output, start_new_session=True
            )
            watch = _PeakOfTree(process.pid)
            timer = threading.Timer(limit, _kill_group, [process.pid])
            timer.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                _kill_group(process.pid)
                raise
            finally:
                timer.cancel()
                watch.stop()
            seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)  # reaped here, so that Popen does not try
        if process.returncode:
            why = f"not done in {limit:.0f} s" if seconds >= limit else f"exit code {process.returncode}"
            raise Failed(f"{why}: {_last_lines(log)}")
        found["seconds"] += seconds
        found["cpu"] += usage.ru_utime + usage.ru_stime
        found["peak"] = max(found["peak"], watch.peak)
        found["anonymous"] = max(found["anonymous"], watch.anonymous)
    return found


class Contestant:
    """A process that has opened one model and runs it when asked: see `benchmarks.contestants`.

    `first` is the seconds from starting the process to its first answer.
    """

    def __init__(self, command: Sequence[str], log: Path, threads: int) -> None:
        """Start it and wait for the first answer. Raises Failed."""
        self._log = log
        start = time.perf_counter()
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        try:
            self._read()
        except BaseException:
            self.close()
            raise
        self.first = time.perf_counter() - start

    def ask(self, limit: float = 600, **request: Any) -> Any:
        """Send one request and wait for its answer. Raises Failed, also after `limit` seconds."""
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"it died: {_last_lines(self._log)}") from None
        return self._read(limit)["answer"]

    def _read(self, limit: float = 600) -> dict[str, Any]:
        timer = threading.Timer(limit, _kill_group, [self._process.pid])
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            self._process.wait()
            raise Failed(f"exit code {self._process.returncode}: {_last_lines(self._log)}")
        return json.loads(line)

    def close(self) -> None:
        """End the process and those it started."""
        _kill_group(self._process.pid)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _PeakOfTree:
    """Looks at the resident memory of a process and its descendants until stopped.

    peak: the largest sum seen, in bytes. anonymous: the same, without pages of mapped files.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peak = self.anonymous = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.is_set():
            resident, mapped = map(sum, zip(*map(_resident, _tree(self._pid)), strict=True))
            self.peak, self.anonymous = max(self.peak, resident), max(self.anonymous, resident - mapped)
            self._stopped.wait(_SAMPLE_SECONDS)


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [one for child in task.read_text().split() for one in _tree(int(child))]
    return found


def _resident(pid: int) -> tuple[int, int]:
    """Resident bytes, and how many of these are pages of mapped files (proc(5), statm)."""
    with suppress(OSError, ValueError):
        _, resident, mapped, *_ = Path(f"/proc/{pid}/statm").read_text().split()
        return int(resident) * _PAGE, int(mapped) * _PAGE
    return 0, 0


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " ".join(lines[-2:])[-300:] if lines else "it printed nothing"

"""One job in a process of its own: reads a request from standard input, writes its result to a file.

Started by `yizhi.pipeline.jobs`. An InputError or an operating-system error is a result; anything else is a
fault of ours and leaves its traceback.
"""

import ctypes
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from yizhi.errors import InputError, NotRun
from yizhi.parity.pace import Pace
from yizhi.pipeline.jobs import Request, Result, Step
from yizhi.pipeline.steps import STEPS
from yizhi.storage.codec import from_plain, to_plain

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Do what the request says."""
    request = from_plain(Request, json.load(sys.stdin))
    _die_with(request.parent)
    result = replace(_run(request), peak_bytes=_peak_bytes())
    request.answer.write_text(json.dumps(to_plain(result)), encoding="utf-8")


def _run(request: Request) -> Result[Any]:
    step: Step[Any] = from_plain(STEPS[request.step], request.arguments)

    def tell(pace: Pace) -> None:
        with open(request.pace, "a", encoding="ascii") as file:
            file.write(json.dumps(to_plain(pace)) + "\n")

    try:
        return Result(request.name, step.run(request.threads, tell))
    except InputError as error:
        return Result(request.name, faults=error.faults, bad_input=True, not_run=isinstance(error, NotRun))
    except MemoryError as error:
        return Result(request.name, faults=[f"out of memory {error}".rstrip()])
    except OSError as error:
        # Disk full, no permission: the user's to mend, and the folder was removed on the way here.
        return Result(request.name, faults=[f"{error.filename or request.name}: {error.strerror}"], bad_input=True)


def leave() -> NoReturn:
    """End the process at once: all is written, and taking a framework apart takes up to a second."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _die_with(parent: int) -> None:
    """Be killed when the parent is: its lock on the release goes with it, so nobody may go on writing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before this was set
        sys.exit("the export that started this job is gone")


def _peak_bytes() -> int:
    # Not getrusage: its maximum includes the parent's memory from before this program was started.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    main()
    leave()

"""One job in a process of its own: reads a request from standard input, writes its answer to a file.

Started by `yizhi.jobs`. An InputError or an operating-system error is an answer; anything else is a
fault of ours and leaves its traceback.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from converters.artifact import Artifact, ArtifactWriter, new_folder
from converters.checkpoint import Checkpoint
from converters.errors import InputError
from converters.targets import TARGETS


def convert(checkpoint: str, target: str, folder: str, description: dict[str, Any], threads: int) -> dict[str, Any]:
    """Export one target into its folder; the answer is its size in bytes."""
    chosen = TARGETS[target]
    converter = chosen.load_converter()
    with Checkpoint.open(checkpoint) as opened, new_folder(Path(folder)) as temporary:
        writer = ArtifactWriter(temporary)
        converter.convert(opened, writer)
        writer.write_config_and_tokenizer(opened)
        writer.describe(description)
    return {"size": Artifact.read(folder).size()}


def make_golden(checkpoint: str, folder: str, threads: int) -> None:
    """Run the oracle on every case and write `golden/`."""
    from parity_tests.golden import CASES, Golden

    with Checkpoint.open(checkpoint) as opened, new_folder(Path(folder), replaces=(CASES,)) as temporary:
        Golden.make(opened).write(temporary)


def verify(folder: str, golden: str, device: str, score_head: bool, threads: int) -> dict[str, Any]:
    """Run the cases through an artifact; the answer is the verdict.

    score_head: also look whether the masked-language-model head makes sense, as `head`.
    """
    from parity_tests import plausibility
    from parity_tests.golden import Golden
    from parity_tests.verify import verify as judge
    from runtimes import open_runtime

    with open_runtime(folder, device=device, threads=threads) as runtime:
        verdict = judge(runtime, Golden.read(Path(golden)), TARGETS[runtime.artifact.target].precision).as_dict()
        if score_head:
            verdict["head"] = plausibility.score_head(runtime).as_dict()
        return verdict


_PR_SET_PDEATHSIG = 1  # linux/prctl.h
TASKS = {"convert": convert, "make_golden": make_golden, "verify": verify}


def main() -> None:
    """Do what the request says."""
    request = json.load(sys.stdin)
    _die_with(request["parent"])
    answer: dict[str, Any] = {}
    try:
        answer["value"] = TASKS[request["task"]](**request["arguments"], threads=request["threads"])
    except InputError as error:
        answer |= {"faults": error.faults, "bad_input": True}
    except MemoryError as error:
        answer["faults"] = [f"out of memory {error}".rstrip()]
    except OSError as error:
        # Disk full, no permission: the user's to mend, and the folder was removed on the way here.
        answer |= {
            "faults": [f"{error.filename or request['arguments']['folder']}: {error.strerror}"],
            "bad_input": True,
        }
    answer["peak_bytes"] = _peak_bytes()
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


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

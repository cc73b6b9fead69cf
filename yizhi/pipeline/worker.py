"""One job in a process of its own: reads a request from standard input, writes its answer to a file.

Started by `yizhi.pipeline.jobs`. An InputError or an operating-system error is an answer; anything else is a
fault of ours and leaves its traceback.
"""

import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from yizhi.converters.shared_files import write_config_and_tokenizer
from yizhi.converters.targets import TARGETS
from yizhi.errors import InputError, NotRun
from yizhi.model.spec import Pooling
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import DESCRIPTION, Artifact, ArtifactWriter
from yizhi.storage.folders import new_folder

if TYPE_CHECKING:
    from yizhi.parity.golden import Golden
    from yizhi.parity.judge import Verdict
    from yizhi.runtimes.base import Runtime


def convert(checkpoint: str, target: str, folder: str, description: dict[str, Any], threads: int) -> dict[str, Any]:
    """Export one target into its folder; the answer is its size in bytes."""
    chosen = TARGETS[target]
    converter = chosen.load_converter()
    pooling = description.get("pooling")
    with (
        Checkpoint.open(checkpoint, Pooling(**pooling) if pooling else None) as opened,
        new_folder(Path(folder), replaces=(DESCRIPTION,)) as temporary,
    ):
        writer = ArtifactWriter(temporary)
        converter.convert(opened, writer, **description.get("options", {}))
        write_config_and_tokenizer(opened, writer)
        writer.describe(description)
    return {"size": Artifact.read(folder).size()}


def make_golden(checkpoint: str, folder: str, threads: int, pooling: dict[str, Any] | None = None) -> None:
    """Run the oracle on every case and write `golden/`. pooling: that of the artifacts."""
    from yizhi.parity.golden import CASES, Golden

    with (
        Checkpoint.open(checkpoint, Pooling(**pooling) if pooling else None) as opened,
        new_folder(Path(folder), replaces=(CASES,)) as temporary,
    ):
        Golden.make(opened).write(temporary)


def verify(
    folder: str,
    golden: str,
    device: str,
    score_head: bool,
    threads: int,
    known: str | None = None,
    bisect: str | None = None,
    math: str = "strict",
) -> dict[str, Any]:
    """Run the cases through an artifact; the answer is the verdict.

    score_head: also look whether the masked-language-model head makes sense, as `head`.
    known: the known checkpoint that the release was made from: also compare with what was published for it.
    bisect: the checkpoint it was made from, to say more of what fails. math: one of `yizhi.runtimes.base.MATH`.
    """
    from yizhi.parity import plausibility, published
    from yizhi.parity.golden import Golden
    from yizhi.parity.judge import verify as judge
    from yizhi.runtimes import open_runtime

    with open_runtime(folder, device=device, threads=threads, math=math) as runtime:
        expected = Golden.read(Path(golden))
        precision = TARGETS[runtime.artifact.target].precision if math == "strict" else math
        verdict = judge(runtime, expected, precision)
        answer = verdict.as_dict()
        if bisect and verdict.gates and not verdict.passed:
            answer |= _diagnose(runtime, bisect, expected, verdict)
        if known and precision == "fp32":  # int8 cannot be held to published digits
            check = published.check_published(runtime, known)
            answer["published"] = asdict(check)
            answer["faults"] = [*answer["faults"], *check.faults]
            answer["passed"] = answer["passed"] and not check.faults
        if score_head:
            answer["head"] = plausibility.score_head(runtime).as_dict()
        return answer


def _diagnose(runtime: "Runtime", checkpoint: str, golden: "Golden", verdict: "Verdict") -> dict[str, Any]:
    """What bisecting adds to a verdict: its lines after the first fault, and `diagnosis`."""
    from yizhi.parity.bisect import bisect  # needs scipy, which a machine that only verifies does not have

    with Checkpoint.open(checkpoint, runtime.pooling) as opened:
        diagnosis = bisect(runtime, opened, golden, verdict)
    if diagnosis is None:
        return {}
    return {
        "faults": [*verdict.faults[:1], *diagnosis.explain(), *verdict.faults[1:]],
        "diagnosis": diagnosis.as_dict(),
    }


def score(
    folder: str, data: str, columns: dict[str, str], skip_faulty: bool, device: str, threads: int
) -> dict[str, Any]:
    """Run an artifact on labelled data; the answer is its scores."""
    from yizhi.training.scoring import score_artifact

    return score_artifact(Path(folder), Path(data), columns, skip_faulty=skip_faulty, device=device, threads=threads)


_PR_SET_PDEATHSIG = 1  # linux/prctl.h
TASKS = {"convert": convert, "make_golden": make_golden, "verify": verify, "score": score}


def main() -> None:
    """Do what the request says."""
    request = json.load(sys.stdin)
    _die_with(request["parent"])
    answer: dict[str, Any] = {}
    try:
        answer["value"] = TASKS[request["task"]](**request["arguments"], threads=request["threads"])
    except InputError as error:
        answer |= {"faults": error.faults, "bad_input": True, "not_run": isinstance(error, NotRun)}
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

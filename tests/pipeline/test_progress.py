"""What is seen while jobs run: counts and expected time on a terminal, a line per finished job in a log."""

import json
import os
import pty
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console

from tests.checkpoints import write_variant
from yizhi.cli import main
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.parity.pace import Pace
from yizhi.pipeline.jobs import Job, Result, Watcher, run_jobs
from yizhi.pipeline.progress import Progress
from yizhi.pipeline.steps import MakeGolden


def show(*paces, seconds):
    """What a terminal shows of a job that got so far, after so many seconds each."""
    clock = iter([0.0, *seconds])
    console = Console(file=StringIO(), force_terminal=True, width=120)
    progress = Progress(console)
    now = 0.0
    progress._bar.get_time = lambda: now
    progress.begin(["verify onnx"])
    progress.started("verify onnx")
    next(clock)
    for pace, now in zip(paces, clock, strict=True):  # noqa: B007, read by get_time
        progress.moved("verify onnx", pace)
    console.print(progress._bar.get_renderable())
    return " ".join(console.file.getvalue().split())


def test_expected_time_is_that_of_the_tokens_so_far():
    shown = show(Pace(0, 17, 0.0), Pace(7, 17, 0.25), seconds=[4.0, 10.0])
    assert "verify onnx" in shown
    assert "7/17 cases" in shown
    assert "of about 0:00:28" in shown  # 4 s before the first, and 6 s for each quarter


@pytest.mark.parametrize("pace", [Pace(0, 17, 0.0), Pace(3, 17, 0.05)])
def test_no_time_is_expected_of_too_little(pace):
    shown = show(Pace(0, 17, 0.0), pace, seconds=[4.0, 10.0])
    assert f"{pace.done}/17 cases" in shown
    assert "about" not in shown


def test_a_log_has_one_line_per_finished_job():
    console = Console(file=StringIO(), force_terminal=False, width=120)
    with Progress(console) as progress:
        progress.note("hashing")
        progress.begin(["oracle", "export onnx"])
        for name, faults in (("oracle", []), ("export onnx", ["no space"])):
            progress.started(name)
            progress.moved(name, Pace(1, 2, 0.5))
            progress.finished(Result(name, faults=faults, seconds=1.25))
    assert console.file.getvalue().splitlines() == [
        "  done oracle (1.2 s), 1 to go",
        "  failed export onnx (1.2 s), 0 to go",
    ]


def test_a_job_tells_how_far_it_is(tmp_path):
    heard: list[tuple[str, Pace]] = []

    class Ear(Watcher):
        def moved(self, name, pace):
            heard.append((name, pace))

    checkpoint = write_variant(tmp_path / "checkpoint", "bert")
    result = run_jobs([Job("oracle", MakeGolden(checkpoint, tmp_path / "golden"))], 1, Ear())["oracle"]
    assert result.faults == []
    cases = len(Golden.read(tmp_path / "golden").cases)
    assert heard
    for name, pace in heard:
        assert (name, pace.total) == ("oracle", cases)
        assert 0 <= pace.share <= 1


def test_every_run_of_a_case_is_counted(open_artifact):
    checkpoint, runtime = open_artifact("bert", "onnx")
    paces: list[Pace] = []
    verify(runtime, Golden.make(checkpoint), "fp32", tell=paces.append)
    assert [pace.done for pace in paces] == [*range(paces[0].total + 1)]
    assert (paces[0].share, paces[-1].share) == (0.0, 1.0)


@pytest.mark.slow
def test_a_terminal_shows_cases_and_a_pipe_shows_no_control(tmp_path, capfd):
    checkpoint = write_variant(tmp_path / "checkpoint", "bert")
    command = ["export", str(checkpoint), "--target", "onnx", "--json", "--out"]
    assert main([*command, str(tmp_path / "piped")]) == 0
    piped = capfd.readouterr()
    assert json.loads(piped.out)["onnx"]["passed"]
    assert "\x1b" not in piped.err
    assert [line.split(" (")[0] for line in piped.err.splitlines()] == [
        "  done export onnx",
        "  done oracle",
        "  done verify onnx",
    ]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen(
        [sys.executable, "-m", "yizhi", *command, str(tmp_path / "seen")],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        seen += read
    os.close(ours)
    assert process.wait() == 0
    assert b" cases" in seen

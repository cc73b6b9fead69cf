"""`python -m benchmarks.streaming`, of a small checkpoint: measured, judged, and removed again."""

import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from functools import partial

import pytest

from benchmarks import streaming
from benchmarks.processes import ROOT
from benchmarks.streaming import main

pytestmark = pytest.mark.slow

SMALL = ["--width", "64", "--layers", "2", "--vocab", "700"]


def test_every_step_is_measured_and_everything_removed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(streaming, "SHARD_BYTES", 100_000)  # several shards
    steps = ["import, bf16", "pytorch, bf16", "onnx-int8"]
    assert main([*SMALL, "--folder", str(tmp_path), *(word for step in steps for word in ("--step", step))]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row[0].strip() for row in rows] == steps
    for *_, anonymous, resident, verdict in rows:
        assert 10 < int(anonymous.split()[0]) <= int(resident.split()[0])
        assert verdict.strip() == "pass"
    assert not list(tmp_path.iterdir())


def test_too_much_memory_and_a_failed_step_are_no_pass(tmp_path, monkeypatch, capsys):
    found = {"seconds": 1.0, "cpu": 1.0, "peak": 1e12, "anonymous": 1e12}
    monkeypatch.setattr(streaming, "run", lambda *_, **__: found)
    assert main([*SMALL, "--folder", str(tmp_path), "--step", "onnx"]) == 1

    def fail(*_, **__):
        raise streaming.Failed("exit code 1: no")

    monkeypatch.setattr(streaming, "run", fail)
    assert main([*SMALL, "--folder", str(tmp_path), "--step", "onnx"]) == 1
    assert "**FAIL**: exit code 1: no" in capsys.readouterr().out


def test_a_disk_that_is_too_small_is_refused(tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(streaming.shutil, "disk_usage", lambda _: usage(24e9))
    assert main(["--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path}: needs 25.1 GB; 24.0 GB are free\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_where_it_is_stopped(tmp_path, number):
    command = [sys.executable, "-m", "benchmarks.streaming", *SMALL, "--folder", str(tmp_path)]
    # A shell's background jobs, and what they start, ignore SIGINT. A user's command does not.
    restore = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, preexec_fn=restore) as process:
        while not list(tmp_path.glob("*/log")):  # the first step has begun
            time.sleep(0.05)
        os.kill(process.pid, number)
        process.communicate()
    assert process.returncode != 0
    assert not list(tmp_path.iterdir())

"""A command that is killed (-9) at a given request, which comes nearer to every moment than a clock does."""

import os
import signal
import threading
import time

import pytest

from tests.kills import start


def run_killed_at(server, number: int, arguments: list[str]) -> bool:
    """Run a command in a fork that is killed at its nth request; whether it ended by itself, and well, before."""
    child = start(arguments)
    count, lock = 0, threading.Lock()

    def kill(request) -> bool:
        nonlocal count
        with lock:
            count += 1
            if count == number:
                os.kill(child, signal.SIGKILL)
            return count >= number

    server.fault = kill
    try:
        status = wait(child)
    finally:
        server.fault = None
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return not os.WIFSIGNALED(status)


def wait(child: int, seconds: float = 60) -> int:
    """Its status; fails, and ends it, where it does not end by itself."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail(f"did not end in {seconds} s")

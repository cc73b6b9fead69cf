"""Commands that are killed (-9) at moments spread over the time that they take."""

import os
import random
import signal
import time
from collections.abc import Iterator

from yizhi.cli import main


def start(arguments: list[str]) -> int:
    """A fork, so that no kill falls into the imports of a fresh interpreter."""
    child = os.fork()
    if not child:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os._exit(main(arguments))
    return child


def run_killed(arguments: list[str], times: int) -> Iterator[bool]:
    """Run the command whole once, then again and again, killed later each time; whether each came to its end."""
    chance = random.Random(20_211)
    begin = time.monotonic()
    status = os.waitpid(start(arguments), 0)[1]
    took = time.monotonic() - begin
    assert os.waitstatus_to_exitcode(status) in (0, 1)
    yield True
    for number in range(times):
        child = start(arguments)
        time.sleep(took * (number + chance.random()) / times)
        os.kill(child, signal.SIGKILL)
        yield not os.WIFSIGNALED(os.waitpid(child, 0)[1])

"""Advisory locks on files and folders. A lock goes with the process, however the process ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yizhi.errors import InputError


@contextmanager
def hold(path: Path, in_use: str) -> Iterator[None]:
    """Hold the lock of an existing file or folder. Raises InputError(path, in_use) if another process holds the lock.

    Raises InputError, too, if the path cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(path, f"cannot be opened: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(path, in_use) from None
        yield
    finally:
        os.close(descriptor)

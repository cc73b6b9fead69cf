"""Small text files from anywhere: policies, lists, signatures. Reading one never hangs, and never fills the memory."""

import stat
from pathlib import Path

from yizhi.errors import InputError

MOST_BYTES = 1 << 24


def read_small(path: Path) -> str:
    """The text of a file of at most MOST_BYTES.

    Raises InputError if the file is missing, not a regular file, larger, unreadable, or not UTF-8.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise InputError(path, "is not a file")
        if found.st_size > MOST_BYTES:
            raise InputError(path, f"expected at most {MOST_BYTES} bytes; found {found.st_size}")
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(path, "the file is missing") from None
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 (byte {error.start})") from None

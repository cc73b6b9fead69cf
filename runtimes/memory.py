"""Gives memory back to the system when a library keeps more than it uses."""

import ctypes
import sys


def return_freed() -> None:
    """Give freed memory back to the system. glibc keeps it for later requests. Without glibc, does nothing."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim:
            trim(0)

"""The process's memory, where a library leaves more of it than it uses."""

import ctypes
import sys


def return_freed() -> None:
    """Give memory that was freed back to the system: glibc keeps it for what may be asked for next. Else, nothing."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim:
            trim(0)

"""Yizhi (一致): one checkpoint, every runtime, proven identical.

The library is what can be imported from here: the names of `yizhi.runtimes`, and the errors they raise. The packages
below are the rooms it is built in, and may change.
"""

import os as _os
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from yizhi.errors import InputError as InputError
from yizhi.errors import NotRun as NotRun

__version__ = "0.1.0"

# Official builds of ONNX Runtime report to Microsoft unless this is set before they start.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from yizhi.runtimes import *  # noqa: F403  (its __all__ is the list)
else:
    # When asked for: a command that opens no artifact need not wait for the tokenizers.
    def __getattr__(name: str) -> object:
        runtimes = None if name.startswith("_") else _import_module("yizhi.runtimes")
        if runtimes is None or name not in runtimes.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(runtimes, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_import_module("yizhi.runtimes").__all__})

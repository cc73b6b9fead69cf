"""The machine and the packages that a verification ran with: for the report, never for the manifest."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from yizhi import __version__
from yizhi.converters.targets import TARGETS
from yizhi.pipeline.hardware import describe_int8_kernels


def describe_environment() -> dict[str, Any]:
    """Plain values: processor, how it multiplies int8, cores, memory in bytes, system, and package versions."""
    cpu = _read_cpuinfo()
    return {
        "processor": cpu.get("model name") or platform.processor() or platform.machine(),
        "int8_kernels": describe_int8_kernels(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "yizhi": __version__,
        "packages": _versions(),
    }


def _read_cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _versions() -> dict[str, str]:
    names = {"numpy", "tokenizers", *(name for target in TARGETS.values() for name in target.runs_with)}
    found = {}
    for name in sorted(names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

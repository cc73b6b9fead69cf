"""The machine and the packages that a verification ran with: for the report, never for the manifest."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from yizhi import __version__
from yizhi.converters.targets import TARGETS
from yizhi.runtimes.processor import describe_int8_kernels


@dataclass(frozen=True)
class Environment:
    """int8_kernels: how the processor multiplies int8. packages: versions of those that are installed."""

    processor: str
    int8_kernels: str
    cores: int | None
    memory_bytes: int
    system: str
    python: str
    yizhi: str
    packages: dict[str, str]

    @classmethod
    def here(cls) -> "Environment":
        """This machine, and what this process can import."""
        cpu = _read_cpuinfo()
        return cls(
            processor=cpu.get("model name") or platform.processor() or platform.machine(),
            int8_kernels=describe_int8_kernels(),
            cores=os.cpu_count(),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            yizhi=__version__,
            packages=_versions(),
        )


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

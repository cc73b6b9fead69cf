"""The processor's instructions for products of integers. They decide how fast int8 is."""

import platform
from pathlib import Path

_X86 = ("x86_64", "amd64", "i686")
_VNNI = ("amx_int8", "avx512_vnni", "avx_vnni")
_CPUINFO = Path("/proc/cpuinfo")


def describe_int8_kernels() -> str:
    """The processor's own name for its products of bytes, such as `avx512_vnni` or `avx2 without VNNI`.

    ONNX Runtime does not say which kernels it uses.
    """
    if platform.machine().lower() not in _X86:
        return platform.machine()
    flags = _flags()
    found = [name for name in _VNNI if name in flags]
    if found:
        return ", ".join(found)
    if not flags:
        return "unknown"
    return f"{next((name for name in ('avx512bw', 'avx2', 'sse4_1') if name in flags), 'x86')} without VNNI"


def lacks_vnni() -> bool:
    """Whether this is an x86 processor without VNNI. int8 then saves size, and little time."""
    return describe_int8_kernels().endswith("without VNNI")


def _flags() -> set[str]:
    if not _CPUINFO.exists():
        return set()
    for line in _CPUINFO.read_text().splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()

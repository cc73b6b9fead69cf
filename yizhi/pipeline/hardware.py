"""What this processor multiplies integers with, which decides whether int8 results can saturate."""

import platform
from pathlib import Path

_X86 = ("x86_64", "amd64", "i686")
_EXACT = ("amx_int8", "avx512_vnni", "avx_vnni")
_CPUINFO = Path("/proc/cpuinfo")


def describe_int8_kernels() -> str:
    """The instructions that ONNX Runtime's uint8 × int8 products can use here, and whether they are exact.

    Only x86 without VNNI is not: vpmaddubsw adds two products in 16 bits and saturates (docs/int8.md).
    """
    if platform.machine().lower() not in _X86:
        return f"{platform.machine()}: exact"
    flags = _flags()
    exact = [name for name in _EXACT if name in flags]
    if exact:
        return f"{', '.join(exact)}: exact"
    if not flags:
        return "unknown: may saturate, unless exported with --int8-reduced-range"
    widest = next((name for name in ("avx512bw", "avx2", "sse4_1") if name in flags), "x86")
    return f"{widest} without VNNI: may saturate, unless exported with --int8-reduced-range"


def _flags() -> set[str]:
    if not _CPUINFO.exists():
        return set()
    for line in _CPUINFO.read_text().splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()

"""The machines that were measured, and where the results of each kind are: benchmarks/results/NAME.json.

A kind of machine is the best instructions that its processor has for products of integers, and the processor's name.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from yizhi.pipeline.environment import Environment

RESULTS = Path(__file__).with_name("results")
# For products of integers, the fastest first -> which processors have them.
INTEGER_INSTRUCTIONS = {
    "amx_int8": "x86 with AMX: Intel Xeon since Sapphire Rapids",
    "avx512_vnni": "x86 with AVX-512 VNNI: Intel Xeon since Cascade Lake, AMD since Zen 4",
    "avx_vnni": "x86 with AVX-VNNI: Intel Core since Alder Lake",
    "avx2": "x86 with AVX2 alone",
    "i8mm": "ARM with i8mm: Neoverse V1 and N2, Apple M2",
    "asimddp": "ARM with dot products: Neoverse N1, Apple M1",
}
# Besides these, what matters to matrix products.
INSTRUCTIONS = (*INTEGER_INSTRUCTIONS, "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")


def describe_machine() -> dict[str, Any]:
    """This machine, as in a release's report, with its processor's instruction sets as `instructions`."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return {**asdict(Environment.here()), "instructions": [name for name in INSTRUCTIONS if name in words]}


def best_instructions(machine: Mapping[str, Any]) -> str:
    """The fastest of `INTEGER_INSTRUCTIONS` that the machine has, or `other`."""
    return next((name for name in INTEGER_INSTRUCTIONS if name in machine["instructions"]), "other")


def kind_of(machine: Mapping[str, Any]) -> str:
    """Such as `avx512_vnni-amd-epyc`: the name of the results of such machines."""
    processor = re.sub(r"\([^)]*\)", "", machine["processor"].lower())  # (R) and (TM)
    return f"{best_instructions(machine)}-{'-'.join(re.findall('[a-z0-9]+', processor))}"


def read_results(folder: Path) -> dict[str, Any]:
    """What `Workbench.keep` wrote, by kind: those with the fastest integer products first."""
    order = (*INTEGER_INSTRUCTIONS, "other")
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    return dict(sorted(found.items(), key=lambda item: order.index(best_instructions(item[1]["machine"]))))

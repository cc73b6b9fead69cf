"""`precision`: how the artifacts of float32 targets store the weights. They compute in float32 either way."""

from typing import Any

from yizhi.choices import PRECISIONS
from yizhi.converters.targets import KEEP_BF16, TARGETS, Target
from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint


def choose_float_options(checkpoint: Checkpoint, targets: list[Target], precision: str) -> dict[str, Any]:
    """The arguments of the float32 targets' converters.

    precision: fp32 stores every number as float32. bf16 leaves the checkpoint's bfloat16 tensors in bfloat16, which
    changes no number. Raises InputError, listing every fault: a target that cannot hold bfloat16, or a checkpoint
    without it, whose numbers bfloat16 would change.
    """
    if precision not in PRECISIONS:
        raise InputError("`precision`", f"expected {' or '.join(PRECISIONS)}; found {precision!r}")
    if precision == "fp32":
        return {}
    floats = [target for target in targets if target.precision == "fp32"]
    able = ", ".join(target.name for target in TARGETS.values() if target.keeps_bf16)
    unable = [target.name for target in floats if not target.keeps_bf16]
    faults = [f"bf16: {', '.join(unable)} cannot hold bfloat16: `targets` may be {able}"] if unable else []
    if not floats:
        faults.append(f"bf16: is for {able}; none of them is a target")
    faults += checkpoint.find_bf16_faults()
    if faults:
        raise InputError("`precision`", faults)
    return {KEEP_BF16: True}

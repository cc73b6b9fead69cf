"""Verification records for tests of what reads them."""

from dataclasses import replace
from math import inf

from yizhi.parity.compare import Difference
from yizhi.parity.record import VerificationRecord, WeightAudit
from yizhi.parity.tolerances import FloatTolerance

TOLERANCE = FloatTolerance(1e-5, 1e-5, "because <it> was measured")


def make_difference(output: str, excess: float | None) -> Difference:
    """None is an excess that is not finite."""
    fault, excess = ("3 of 9 values are NaN or Inf", inf) if excess is None else (None, excess)
    return Difference("masks", "hidden_states", output, excess * 1e-5, excess, (0,), fault, passed=excess <= 1)


def make_record(excesses: list[float | None], **changes: object) -> VerificationRecord:
    """One hidden state for each excess; passed where none is above 1. changes: of the record's fields."""
    names = [f"hidden_states.{index}" for index in range(len(excesses))]
    worst = {name: make_difference(name, excess) for name, excess in zip(names, excesses, strict=True)}
    faults = [] if all(found.passed for found in worst.values()) else ["hidden_states.1 (masks): off & <away>"]
    record = VerificationRecord(
        passed=not faults,
        not_judged=False,
        precision="fp32",
        device="cpu",
        settings={},
        faults=faults,
        first_bad_layer=None,
        worst=worst,
        change_alone=0.0,
        quality=None,
        cosine={},
        cosine_mean={},
        label_error=None,
        sentences=None,
        integers=None,
        weights=WeightAudit(),
        tolerance=TOLERANCE,
    )
    return replace(record, **changes)

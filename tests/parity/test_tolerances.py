"""yizhi/parity/tolerances.py."""

import pytest

from yizhi.parity.tolerances import FloatTolerance, QuantizedGates, describe_requirement, find_gates


def test_strict_float32_has_one_tolerance_on_every_device():
    assert find_gates("fp32", "cuda") == find_gates("fp32", "cpu")
    assert find_gates("fp32", "cpu").absolute == 1e-5


@pytest.mark.parametrize("tier", ["tf32", "bf16", "fp16"])
def test_a_tier_has_one_tolerance_on_every_device_and_it_is_wider(tier):
    found = find_gates(tier, "cuda")
    assert isinstance(found, FloatTolerance)
    assert found == find_gates(tier, "cpu")
    assert found.absolute == found.relative > 100 * find_gates("fp32", "cuda").absolute


def test_int8_is_judged_on_the_cpu_alone():
    assert isinstance(find_gates("int8", "cpu"), QuantizedGates)
    assert find_gates("int8", "cuda") is None
    assert find_gates("fp8", "cuda") is None


def test_a_requirement_names_where_it_comes_from_and_the_cards_that_met_it(monkeypatch):
    monkeypatch.setattr("yizhi.parity.tolerances.HARDWARE_SEEN", {"bf16": ("A card", "Another")})
    assert describe_requirement("bf16") == "requirement from simulation; hardware seen: A card, Another"
    assert describe_requirement("tf32") == "requirement from simulation; hardware seen: none"
    assert describe_requirement("fp32") == "the common float32 tolerance; hardware seen: none"

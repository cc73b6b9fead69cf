"""What a policy makes of a release: one function, by table."""

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from yizhi.release.policy import AcceptedSigner, Policy
from yizhi.release.policy_verdict import judge
from yizhi.release.revocation import Withdrawal
from yizhi.release.statements import Signature

NOW = datetime(2026, 11, 29, tzinfo=UTC)
SHA256 = "a" * 64
SIGNED = Signature("key 1", NOW - timedelta(days=30), proven=False)
ANYTHING = Policy(Path("policy.toml"), (AcceptedSigner(Path("release.pub")),))
QUALITY = {"top1": 0.99, "top5": 1.0, "kl_mean": 0.01}
MANIFEST = {
    "source": {"license": "apache-2.0"},
    "artifacts": {
        "onnx": {
            "parity": {
                "passed": True,
                "precision": "fp32",
                "weights": {"exact": 3, "requantized": 0, "rounded": 0, "graphs": 4},
                "head": {"verdict": "trained"},
                "published": {"values": 5, "faults": []},
            }
        },
        "onnx-int8": {
            "parity": {
                "passed": True,
                "precision": "int8",
                "weights": {"exact": 1, "requantized": 2, "rounded": 0, "graphs": 10},
                "integers": {"digest": SHA256},
                "quality": QUALITY,
                "label_error": None,
                "sentences": {
                    "token_p01": 0.97,
                    "vector_mean": 0.999,
                    "order": None,
                    "masked": {**QUALITY, "top1": 0.95, "kl_mean": 0.03},
                },
            }
        },
    },
}


def change(*path, to):
    """The manifest with another value at this place, or without it."""
    manifest = deepcopy(MANIFEST)
    *parents, last = path
    place = manifest
    for name in parents:
        place = place[name]
    place.pop(last) if to is None else place.update({last: to})
    return manifest


def in_parity(target, name, to):
    return change("artifacts", target, "parity", name, to=to)


def with_no_graph_compared(target):
    parity = {"passed": True, "precision": "fp32", "weights": {"exact": 3, "graphs": 0}}
    return change("artifacts", target, to={"parity": parity})


def find_outcomes(manifest=MANIFEST, signature=SIGNED, withdrawn=None, now=NOW, **demands):
    verdict = judge(replace(ANYTHING, **demands), manifest, SHA256, signature, withdrawn or {}, now)
    return {finding.demand: finding.outcome for finding in verdict.findings}, verdict


@pytest.mark.parametrize(
    ("demands", "manifest", "outcome"),
    [
        ({"licenses": ("mit", "apache-2.0")}, MANIFEST, "met"),
        ({"licenses": ("apache-2.0",)}, change("source", "license", to="Apache-2.0"), "met"),
        ({"licenses": ("mit",)}, MANIFEST, "unmet"),
        ({"licenses": ("apache-2.0",)}, change("source", "license", to=None), "unmet"),
        ({"licenses": ("unknown",)}, change("source", "license", to=None), "met"),
        ({"targets": ("onnx",)}, MANIFEST, "met"),
        ({"targets": ("flax",)}, MANIFEST, "unmet"),
        ({"targets": ("onnx",)}, in_parity("onnx", "passed", to=False), "unmet"),
        ({"gates": ("weights",)}, MANIFEST, "met"),
        ({"gates": ("weights",)}, in_parity("onnx", "weights", to={"exact": 0}), "not run"),
        ({"gates": ("weights",)}, in_parity("onnx", "weights", to=None), "not run"),
        ({"gates": ("weights",)}, in_parity("onnx", "weights", to={"exact": 0, "graphs": 4}), "not run"),
        ({"gates": ("graphs",)}, MANIFEST, "met"),
        ({"gates": ("graphs",)}, in_parity("onnx", "weights", to={"exact": 3, "graphs": 0}), "not run"),
        ({"gates": ("graphs",)}, {**MANIFEST, "artifacts": {}}, "not run"),
        ({"gates": ("graphs",)}, with_no_graph_compared("openvino-int8"), "not run"),
        ({"gates": ("graphs",)}, with_no_graph_compared("litert"), "not run"),
        ({"gates": ("graphs",)}, with_no_graph_compared("flax"), "met"),  # which has none
        ({"gates": ("head",)}, MANIFEST, "met"),
        ({"gates": ("head",)}, in_parity("onnx", "head", to=None), "not run"),
        ({"gates": ("head",)}, in_parity("onnx", "head", to={"verdict": "not judged"}), "not run"),
        ({"gates": ("head",)}, in_parity("onnx", "head", to={"verdict": "untrained"}), "unmet"),
        ({"gates": ("head",)}, in_parity("onnx", "head", to={"verdict": "absent"}), "unmet"),
        ({"gates": ("published",)}, MANIFEST, "met"),
        ({"gates": ("published",)}, in_parity("onnx", "published", to=None), "not run"),
        ({"gates": ("published",)}, in_parity("onnx", "published", to={"values": 0, "faults": []}), "not run"),
        ({"gates": ("published",)}, in_parity("onnx", "published", to={"values": 5, "faults": ["x"]}), "unmet"),
        ({"gates": ("integers",)}, MANIFEST, "met"),
        ({"gates": ("integers",)}, in_parity("onnx-int8", "integers", to=None), "not run"),
        ({"gates": ("integers",)}, change("artifacts", "onnx-int8", to=None), "not run"),
        ({"gates": ("sentences",)}, MANIFEST, "met"),
        ({"gates": ("sentences",)}, in_parity("onnx-int8", "sentences", to=None), "not run"),
        ({"int8": {"min_top1": 0.95}}, MANIFEST, "met"),
        ({"int8": {"min_top1": 0.96}}, MANIFEST, "unmet"),  # the worse of two places counts
        ({"int8": {"min_top1": 0.96}}, in_parity("onnx-int8", "sentences", to=None), "met"),
        ({"int8": {"max_kl_mean": 0.03}}, MANIFEST, "met"),
        ({"int8": {"max_kl_mean": 0.02}}, MANIFEST, "unmet"),
        ({"int8": {"min_token_cosine": 0.98}}, MANIFEST, "unmet"),
        ({"int8": {"min_vector_cosine": 0.99}}, MANIFEST, "met"),
        ({"int8": {"min_order": 0.5}}, MANIFEST, "not run"),
        ({"int8": {"max_label_error": 0.5}}, MANIFEST, "not run"),
        ({"int8": {"max_label_error": 0.5}}, in_parity("onnx-int8", "label_error", to=0.6), "unmet"),
        ({"int8": {"min_order": 0.5}}, in_parity("onnx-int8", "sentences", to={"order": "high"}), "not run"),
        ({"int8": {"min_top1": 0.5}}, change("artifacts", "onnx-int8", to=None), "not run"),
    ],
)
def test_a_demand_on_the_manifest(demands, manifest, outcome):
    found, verdict = find_outcomes(manifest, **demands)
    assert found.pop("signers") == "met"
    assert list(found.values()) == [outcome]
    assert (verdict.passed, verdict.not_run) == (outcome == "met", outcome == "not run")
    assert verdict.may_run


@pytest.mark.parametrize(("days", "outcome"), [(29, "unmet"), (30, "met"), (31, "met")])
def test_age_is_the_signatures(days, outcome):
    assert find_outcomes(max_age_days=days)[0]["max_age_days"] == outcome


@pytest.mark.parametrize(("ahead", "outcome"), [(timedelta(minutes=9), "met"), (timedelta(minutes=11), "unmet")])
def test_a_signature_from_a_time_to_come(ahead, outcome):
    found, verdict = find_outcomes(signature=replace(SIGNED, signed_at=NOW + ahead), max_age_days=1)
    assert found["max_age_days"] == outcome
    assert ("in the future" in "".join(verdict.faults)) == (outcome == "unmet")


def test_what_nobody_vouches_for_is_not_run_and_has_no_age():
    found, verdict = find_outcomes(signature="is not signed", max_age_days=30, licenses=("mit",))
    assert found == dict.fromkeys(("signers", "max_age_days", "licenses"), "unmet")
    assert not verdict.may_run
    assert len(verdict.faults) == 3


def test_what_was_withdrawn_is_not_run():
    withdrawn = {SHA256: Withdrawal("labels swapped", "2026-11-28")}
    found, verdict = find_outcomes(withdrawn=withdrawn)
    assert found["revoked"] == "unmet"
    assert not verdict.may_run
    assert "withdrawn on 2026-11-28: labels swapped" in verdict.faults[0]
    assert find_outcomes(withdrawn={"b" * 64: withdrawn[SHA256]})[0]["revoked"] == "met"
    assert find_outcomes(revoked=Path("empty"))[0]["revoked"] == "met"


def test_unmet_outweighs_not_run():
    _, verdict = find_outcomes(licenses=("mit",), int8={"min_order": 0.5})
    assert not verdict.not_run
    assert [fault.split(":")[0] for fault in verdict.faults] == ["licenses", "int8"]

"""report/: the results of a verification, for programs (parity.json), CI (parity.xml) and people (parity.html)."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yizhi.pipeline.environment import Environment
from yizhi.pipeline.results import Row, rows_as_dict
from yizhi.release.policy_verdict import PolicyVerdict
from yizhi.reports.report_page import render_page
from yizhi.storage.codec import to_plain
from yizhi.storage.json_files import to_json

SCHEMA_VERSION = 1


def write_report(folder: Path, name: str, rows: list[Row], policy: PolicyVerdict | None = None) -> None:
    """Write `parity.json`, `parity.xml` and `parity.html` into this folder.

    name: the model's, for the page. policy: the verdict of a policy on the release.
    """
    environment = Environment.here()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "parity.json").write_text(to_json(describe(rows, environment, policy)), encoding="utf-8")
    (folder / "parity.xml").write_bytes(render_junit(rows, policy))
    (folder / "parity.html").write_text(render_page(name, rows, environment, policy), encoding="utf-8")


def describe(rows: list[Row], environment: Environment, policy: PolicyVerdict | None = None) -> dict[str, Any]:
    """All results, and the machine. Within one schema version, keys are added and never removed."""
    return {
        "schema_version": SCHEMA_VERSION,
        "passed": all(row.passed for row in rows) and (policy is None or policy.passed),
        "environment": to_plain(environment),
        "targets": rows_as_dict(rows),
        **({"policy": policy.as_dict()} if policy else {}),
    }


def render_junit(rows: Sequence[Row], policy: PolicyVerdict | None = None) -> bytes:
    """JUnit XML: a suite per target, a case per output; one case for faults of the whole target.

    A policy is a suite too, with a case per demand.

    The form that CI servers agree on: https://github.com/testmoapp/junitxml.
    """
    root = ET.Element("testsuites", name="yizhi")
    totals = [0, 0, 0]
    for row in rows:
        elsewhere = f" on {row.verdict.device}" if row.verdict and row.verdict.device != "cpu" else ""
        suite = ET.SubElement(root, "testsuite", name=f"{row.target}{elsewhere}")
        counts = _add_cases(suite, row)
        _set_counts(suite, counts)
        suite.set("time", f"{row.verification.seconds if row.verification else 0.0:.3f}")
        totals = [one + other for one, other in zip(totals, counts, strict=True)]
    if policy:
        suite = ET.SubElement(root, "testsuite", name="policy", time="0.000")
        counts = _add_demands(suite, policy)
        _set_counts(suite, counts)
        totals = [one + other for one, other in zip(totals, counts, strict=True)]
    _set_counts(root, totals)
    ET.indent(root)
    page: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return page


def _add_cases(suite: ET.Element, row: Row) -> list[int]:
    """Tests, failures and skipped of one suite."""
    whole = ET.SubElement(suite, "testcase", classname=row.target, name="verdict")
    if row.not_run:
        ET.SubElement(whole, "skipped", message=_clean("; ".join(row.faults)))
        return [1, 0, 1]
    failures = 0
    if not row.passed:
        failure = ET.SubElement(whole, "failure", message=_clean(row.faults[0]))
        failure.text = _clean("\n".join(row.faults))
        failures += 1
    outputs = row.verdict.worst if row.verdict else {}
    for name, worst in outputs.items():
        case = ET.SubElement(suite, "testcase", classname=row.target, name=name)
        if not worst.passed:
            reason = worst.fault or f"error {worst.error:.2e}, {worst.excess:.1f} times what is allowed"
            ET.SubElement(case, "failure", message=_clean(f"{worst.case}: {reason}"))
            failures += 1
    return [1 + len(outputs), failures, 0]


def _add_demands(suite: ET.Element, policy: PolicyVerdict) -> list[int]:
    """Tests, failures and skipped of a policy's suite."""
    kinds = {"unmet": "failure", "not run": "skipped"}
    for finding in policy.findings:
        case = ET.SubElement(suite, "testcase", classname="policy", name=finding.demand)
        if finding.outcome in kinds:
            ET.SubElement(case, kinds[finding.outcome], message=_clean(finding.found))
    outcomes = [finding.outcome for finding in policy.findings]
    return [len(outcomes), outcomes.count("unmet"), outcomes.count("not run")]


def _set_counts(element: ET.Element, counts: list[int]) -> None:
    for name, count in zip(("tests", "failures", "skipped"), counts, strict=True):
        element.set(name, str(count))
    element.set("errors", "0")


def _clean(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return "".join(char if char in "\t\n" or char >= " " else "\ufffd" for char in text)

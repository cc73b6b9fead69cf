"""`make export-all`, once, at real size: five passes on the embedded default, within its memory."""

import json
import shutil
from pathlib import Path

import pytest

from yizhi.cli import main
from yizhi.converters.targets import TARGETS
from yizhi.pipeline.jobs import Job, Watcher, run_jobs
from yizhi.pipeline.steps import Convert
from yizhi.release.artifact import Artifact

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "build" / "synthetic-bert-base"
RELEASE = ROOT / "dist" / "synthetic-bert-base"
# The data section of the default's weights is the same everywhere; so is its header.
SHA256 = "8ff8e86fc25be1717c8cd37a43aad6acac3d099a7f44d880482b9ea8d8b2dc95"


@pytest.fixture(scope="module")
def report():
    missing = [name for name, target in TARGETS.items() if target.missing()]
    if missing:
        pytest.skip(f"not installed: what {', '.join(missing)} needs")
    assert main(["synthesize", "--out", str(CHECKPOINT), "--if-missing"]) == 0
    assert main(["export", str(CHECKPOINT), "--out", str(RELEASE)]) == 0
    return json.loads((RELEASE / "report" / "parity.json").read_text())


def test_the_default_is_the_same_bytes_everywhere(report):
    manifest = json.loads((RELEASE / "manifest.json").read_text())
    assert manifest["source"]["files"]["model.safetensors"] == SHA256


def test_all_five_pass(report):
    manifest = json.loads((RELEASE / "manifest.json").read_text())
    assert set(manifest["artifacts"]) == set(TARGETS)
    assert all(entry["parity"]["passed"] for entry in manifest["artifacts"].values())


def test_int8_is_a_quarter(report):
    manifest = json.loads((RELEASE / "manifest.json").read_text())
    sizes = {name: manifest["artifacts"][name]["files"]["model.onnx.data"]["size"] for name in ("onnx", "onnx-int8")}
    assert sizes["onnx-int8"] <= 0.27 * sizes["onnx"]


@pytest.mark.parametrize("target", TARGETS)
def test_no_process_takes_two_gigabytes(report, target):
    peaks = [
        step["peak_bytes"]
        for step in (report["targets"][target]["export"], report["targets"][target]["verification"])
        if step
    ]
    if not peaks:
        pytest.skip("everything was up to date: nothing ran to be measured")
    assert max(peaks) < 2e9


def test_onnx_export_streams(report):
    if not report["targets"]["onnx"]["export"]:
        pytest.skip("everything was up to date: nothing ran to be measured")
    assert report["targets"]["onnx"]["export"]["peak_bytes"] < 600e6


def test_a_second_build_has_the_same_bytes(report, tmp_path):
    """Each artifact converted again, in another folder and process; its artifact.json has every file's digest."""
    written = {name: Artifact.read(RELEASE / name).description for name in TARGETS}
    plan = [
        Job(
            name,
            Convert(
                CHECKPOINT,
                name,
                tmp_path / name,
                {key: found[key] for key in found.keys() - {"files", "schema_version"}},
            ),
        )
        for name, found in written.items()
    ]
    results = run_jobs(plan, 1, Watcher())
    assert not any(result.faults for result in results.values())
    again = {name: Artifact.read(tmp_path / name).description for name in TARGETS}
    shutil.rmtree(tmp_path)  # 1.7 GB, which pytest would keep
    assert again == written

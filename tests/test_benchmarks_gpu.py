"""benchmarks/gpu*.py, as far as a machine without a GPU can tell."""

import json
import os
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import gpu_report
from benchmarks.gpu import main, measure
from benchmarks.gpu_report import (
    BEGIN,
    DOCUMENT,
    END,
    FAIL,
    NOT_RUN,
    PASS,
    TIERS,
    MatrixRate,
    Need,
    Report,
    Speed,
    Verified,
    fill,
    most_needed,
    read_needs,
    read_reports,
    render,
    render_measured,
    tolerance_of,
)
from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
from yizhi.errors import InputError
from yizhi.parity.golden import Golden
from yizhi.parity.tolerances import HARDWARE_SEEN, find_gates
from yizhi.pipeline.environment import Environment
from yizhi.pipeline.jobs import Result
from yizhi.pipeline.results import Row
from yizhi.reading.checkpoint import Checkpoint
from yizhi.release.artifact import Artifact
from yizhi.runtimes import open_runtime

ROOT = DOCUMENT.parents[1]
ENVIRONMENT = Environment("a processor", "VNNI", 16, 128, "Linux", "3.12", "0.1", {"torch": "2.11"})
MET = Verified("pytorch", "tf32", PASS, "hidden 1.0e-03", 1.5e-3, 4e-2, "from", {"allow_tf32": "True"})
MISSED = replace(MET, math="bf16", verdict=FAIL, faults=["off by 3"])
NOT = Verified("tensorflow", "all", NOT_RUN, faults=["needs tensorflow"])
REPORT = Report(
    "cuda",
    "A card, 580.1, 81559 MiB",
    "2026-11-26",
    "synthetic",
    ENVIRONMENT,
    [MET, NOT],
    [MatrixRate("tf32", 8192, 400.0)],
    [Speed("pytorch", "tf32", 32, 128, 4.0, 1024000.0, 200.0), Speed("flax", "bf16", 32, 512, 40.0, 409600.0, 80.0)],
)


# --- the report


def test_tables_say_what_passed_what_was_not_run_and_how_fast():
    text = render(REPORT)
    assert text.startswith("A card, 580.1, 81559 MiB; a processor, 16 cores; Python 3.12; torch 2.11. synthetic, ")
    assert "| pytorch | tf32 | hidden 1.0e-03 | 1.5e-03 | 4.0e-02 | pass | allow_tf32 True |" in text
    assert "| tensorflow | all | - |  |  | not run | needs tensorflow |" in text
    assert "| pytorch | tf32 | 32 × 128 | 1,024,000 | 4.0 | 200 | 400 | 50% |" in text
    assert "| flax | bf16 | 32 × 512 | 409,600 | 40.0 | 80 | not measured |  |" in text


@pytest.mark.parametrize(
    ("verified", "faults", "targets", "tiers", "code"),
    [
        ([MET, NOT], [], [], [], 0),
        ([MET, NOT], [], ["pytorch"], ["tf32"], 0),
        ([MET, NOT], [], ["pytorch", "tensorflow"], [], 2),
        ([MET, NOT], [], [], ["fp16"], 2),
        ([NOT], [], [], [], 2),
        ([], [], [], [], 2),
        ([MET, MISSED, NOT], [], [], [], 1),
        ([MET], ["flax: no memory"], [], [], 1),
    ],
)
def test_exit_codes(verified, faults, targets, tiers, code):
    assert replace(REPORT, verified=verified, faults=faults).exit_code(targets, tiers) == code


def test_a_requirement_is_met_where_something_passed_and_nothing_failed():
    strict = replace(MET, math="strict")
    assert replace(REPORT, verified=[MET, strict, MISSED, replace(MISSED, verdict=PASS), NOT]).met() == {"tf32", "fp32"}
    assert replace(REPORT, device="cpu").met() == set()


def test_what_a_run_wrote_is_kept_by_its_card_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_report, "MEASURED", tmp_path)
    written = tmp_path / "written"
    written.write_text(gpu_report.to_json(gpu_report.to_plain(REPORT)))
    assert gpu_report.keep(written).name == "a-card-synthetic.json"
    (tmp_path / gpu_report.SIMULATED).write_text("[]")
    assert read_reports() == [REPORT]
    written.write_text(json.dumps({"rows": []}))
    with pytest.raises(InputError, match="verified: missing"):
        gpu_report.keep(written)


def test_the_document_is_filled_between_its_marks():
    assert fill(f"a\n{BEGIN}old\n{END}b\n", "new\n") == f"a\n{BEGIN}\nnew\n\n{END}b\n"
    needs = [Need("m", "tf32, rounded", tier, 1e-3, "logits") for tier in TIERS]
    assert "No card has been measured yet." in render_measured(needs, [])
    assert "### A card: synthetic\n" in render_measured(needs, [REPORT])


# --- what is committed


def test_document_is_what_the_results_render_to():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == fill(text, render_measured(read_needs(), read_reports()))


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_is_required_to_meet_twice_what_the_simulation_needed(tier):
    most, _ = most_needed(tier, read_needs())
    assert 2 <= tolerance_of(tier) / most < 3
    mantissa, _, exponent = f"{most:.1e}".partition("e")
    assert f"{mantissa}e{int(exponent)}" in find_gates(tier, "cuda").reason


def test_the_cards_named_are_those_that_were_measured():
    seen = {}
    for report in read_reports():
        for precision in report.met():
            seen.setdefault(precision, set()).add(report.card_name)
    assert {precision: set(cards) for precision, cards in HARDWARE_SEEN.items()} == seen


# --- the simulation


def test_rounding_is_that_of_the_types_bit_for_bit():
    torch = pytest.importorskip("torch")
    from benchmarks.gpu_tolerances import to_bf16, to_fp16, to_tf32, to_tf32_cut_off

    random = np.random.default_rng(0)
    bits = random.integers(0, 1 << 32, 200_000, np.uint32).view(np.float32)
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 65519.9, 65520, -65520, 2**-25, 3e-8, 0, -0.0], np.float32)
    x = np.concatenate([bits[np.isfinite(bits)], random.normal(0, 1, 100_000).astype(np.float32), ties])
    for round_to, dtype in ((to_bf16, torch.bfloat16), (to_fp16, torch.float16)):
        expected = torch.from_numpy(x).to(dtype).float().numpy()
        np.testing.assert_array_equal(round_to(x).view(np.uint32), expected.view(np.uint32))
    # TF32 has no type here: its values are those 2^13 float32 steps apart.
    x = x[np.abs(x) < 2.0**127]
    cut = to_tf32_cut_off(x)
    away = (cut.view(np.uint32) + np.uint32(1 << 13)).view(np.float32)
    past, short = np.abs(away.astype(float) - x), np.abs(x.astype(float) - cut)
    even = (cut.view(np.uint32) >> np.uint32(13)) % 2 == 0
    np.testing.assert_array_equal(to_tf32(x), np.where((short < past) | ((short == past) & even), cut, away))
    assert not (cut.view(np.uint32) & np.uint32(0x1FFF)).any()
    assert (np.abs(cut) <= np.abs(x)).all()


def test_the_simulation_is_exact_unrounded_and_near_the_real_thing_rounded(tmp_path):
    pytest.importorskip("torch")
    from benchmarks.gpu_tolerances import SIMULATIONS, Arithmetic, SimulatedRuntime, find_need

    with Checkpoint.open(write_variant(tmp_path / "checkpoint", "bert")) as checkpoint:
        every = Golden.make(checkpoint)
        cases = [replace(case, alone=(), signatures=("hidden_states",)) for case in every.cases[:7]]
        golden = replace(every, cases=cases)  # the last is a row of nothing but padding
        folder = export_artifact(checkpoint, "pytorch", tmp_path / "pytorch")

    def need(runtime):
        with runtime:
            return find_need("bert", "", "", runtime, golden).needs

    simulated = {name: need(SimulatedRuntime(Artifact.read(folder), one)) for name, one in SIMULATIONS.items()}
    assert need(SimulatedRuntime(Artifact.read(folder), Arithmetic("none", lambda x: x))) < 1e-6
    for tier in ("bf16", "fp16"):
        assert 0.3 < need(open_runtime(folder, math=tier)) / simulated[tier] < 3
    assert simulated["bf16"] > 4 * simulated["fp16"]  # three bits of mantissa
    assert 1e-5 < simulated["tf32, rounded"] < simulated["tf32, cut off"]


def test_operations_are_those_of_the_published_shape():
    pytest.importorskip("torch")
    from benchmarks.gpu_speed import count_operations
    from yizhi.model.config import EncoderConfig
    from yizhi.pipeline.synthesis import DEFAULT_CONFIG

    config = EncoderConfig.from_dict(DEFAULT_CONFIG)
    # 85 million weights, twice each, and at 128 tokens 4 x 128 x 768 a layer beside them.
    assert count_operations(config, 1, 1) == 12 * (2 * 7_077_888 + 4 * 768)
    assert count_operations(config, 32, 128) == 32 * 128 * 12 * (2 * 7_077_888 + 4 * 128 * 768)


# --- the command


@pytest.mark.slow
def test_without_a_gpu_nothing_is_run_and_the_exit_code_says_so(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    checkpoint = write_variant(tmp_path / "checkpoint", "bert")
    arguments = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--target", "pytorch"]
    assert main([*arguments, "--math", "strict"]) == 2
    assert "| pytorch | strict | - |  |  | not run | PyTorch finds no CUDA device |" in capsys.readouterr().out
    found = gpu_report.from_plain(Report, json.loads((tmp_path / "out" / "gpu.json").read_text()))
    assert [row.verdict for row in found.verified] == [NOT_RUN]
    assert found.speeds == found.faults == []


@pytest.mark.slow
def test_a_rehearsal_on_the_cpu_runs_what_the_cpu_has(tmp_path):
    pytest.importorskip("torch")
    checkpoint = write_variant(tmp_path / "checkpoint", "bert")
    report, release = measure(checkpoint, tmp_path, "cpu", ["pytorch"], ["strict", "tf32", "bf16"])
    assert (release / "manifest.json").exists()
    written = json.loads((tmp_path / "gpu.json").read_text())["verified"]
    assert {row["math"]: row["verdict"] for row in written} == {row.math: row.verdict for row in report.verified}
    assert [(row.math, row.verdict) for row in report.verified] == [("strict", PASS), ("tf32", NOT_RUN), ("bf16", PASS)]
    strict, tf32, bf16 = report.verified
    assert strict.needs < strict.allowed == 1e-5
    assert strict.requirement is None
    assert "it has strict, bf16, fp16" in tf32.faults[0]
    assert strict.needs < bf16.needs < bf16.allowed == tolerance_of("bf16")
    assert bf16.requirement.startswith("requirement from simulation")
    assert report.met() == set()  # a CPU is no card


def test_what_is_wrong_on_the_cpu_fails_and_is_not_run_on_the_gpu(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    broken = [Row("pytorch", export=Result("pytorch", faults=["off by 3"]))]
    monkeypatch.setattr("benchmarks.gpu.export", lambda *arguments: broken)
    report, _ = measure(tmp_path / "checkpoint", tmp_path, "cpu", ["pytorch"], ["strict"])
    assert report.verified == [Verified("pytorch", "all", FAIL, faults=["on the CPU: off by 3"])]
    assert report.exit_code() == 1


@pytest.mark.parametrize(
    ("venv", "arguments", "python"),
    [(False, [], "python3"), (True, [], ".venv/bin/python"), (True, ["PYTHON=python3.12"], "python3.12")],
)
def test_make_gpu_installs_nothing_and_takes_what_is_there(tmp_path, venv, arguments, python):
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    if venv:
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "python").touch()
    command = ["make", "-n", "gpu", "GPU_OUT=out", *arguments]
    # These tests run under make too, which hands on its own flags.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment)
    words = [word for word in found.stdout.split() if word != "\\"]
    assert words == [python, "-m", "benchmarks.gpu", "--out", "out", "--device", "cuda"]

"""`make bench`: the document says what was measured and what was not, and a failing peer is never left out."""

import json
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bulk
from benchmarks.aims import AIMS, judge
from benchmarks.charts import bar_chart
from benchmarks.contestants import KINDS, products
from benchmarks.document import make_document
from benchmarks.machines import INTEGER_INSTRUCTIONS, RESULTS, describe_machine, kind_of, read_results
from benchmarks.models import FP32, INT8, PRODUCTS
from benchmarks.performance import main, render, summarize
from benchmarks.processes import Failed, run
from benchmarks.sections import exports
from benchmarks.servers import only_features
from benchmarks.workbench import VENVS, Workbench
from tests.checkpoints import small_config
from yizhi.converters.targets import TARGETS
from yizhi.pipeline.synthesis import synthesize
from yizhi.release.artifact import Artifact

GB = 10**9


def section(rows, **more):
    return {
        "measured": "2026-01-01",
        "quick": False,
        "layers": 12,
        "threads": 2,
        "versions": {"peers": {"optimum": "2.1"}},
        "rows": rows,
        **more,
    }


def make_machine(processor="P", instructions=("avx2",)):
    about = {"cores": 2, "memory_bytes": GB, "system": "S", "python": "3.11"}
    return {"processor": processor, "instructions": list(instructions), **about}


def make_results(**sections):
    return {"machine": make_machine(), "sections": sections}


def document_of(results, explanations=None):
    """The files for one machine; explanations: by aim."""
    return make_document({"avx2-p": results}, {"avx2": explanations or {}})


def exported(seconds, peak):
    return {"seconds": [seconds, seconds * 1.1, seconds * 0.9], "cpu": [seconds] * 3, "peak": [peak] * 3}


def verdicts(results):
    return {aim.key: judge(aim, results["sections"]) for aim in AIMS}


@pytest.fixture
def results():
    rows = {
        "onnx": {"yizhi": exported(1.0, GB // 20), "optimum": exported(25.0, 3 * GB)},
        "onnx-int8": {"yizhi": exported(2.0, GB // 20), "optimum": exported(10.0, 2 * GB)},
        "tensorflow": {"yizhi": exported(8.0, GB), "transformers": {"failed": "exit code 1: no | TensorFlow"}},
        "flax": {"yizhi": exported(4.0, GB), "transformers": exported(16.0, 3 * GB)},
        "pytorch": {"yizhi": exported(1.0, GB // 20)},
        "all": {"yizhi": exported(30.0, GB), "copy and hash": exported(2.0, GB // 50)},
    }
    passes = {
        "onnx 1×32": {"yizhi": {"seconds": [0.04]}, "optimum O1": {"seconds": [0.05]}},
        "onnx 8×128": {
            "yizhi": {"seconds": [1.0]},
            "optimum O1": {"seconds": [1.1]},
            "products, numpy": {"seconds": [0.95]},
        },
    }
    return make_results(exports=section(rows), fp32=section(passes), gpu=section({}, not_run="no CUDA"))


def test_aims_are_judged_from_the_medians(results):
    found = verdicts(results)
    assert found["export-onnx"].met
    assert found["export-onnx"].found == "25.0×; 0.02 of the memory"
    assert found["export-onnx-int8"].found == "17.5×"  # optimum quantizes what it exported: 25 + 10 seconds
    assert found["export-flax"].met is False
    assert found["fp32-onnx"].met
    assert found["products-onnx"].found == "0.95"
    assert found["export-copy"].met is None


def test_the_slowest_shape_decides(results):
    results["sections"]["fp32"]["rows"]["onnx 1×32"]["optimum O3"] = {"seconds": [0.03]}
    verdict = verdicts(results)["fp32-onnx"]
    assert verdict.met is False
    assert "1×32: 0.75× optimum O3" in verdict.found


def test_what_int8_buys_is_held_against_our_float32_and_told(results, tmp_path):
    """And that float32 is no peer of int8."""
    passes = {
        "int8 1×32": {"yizhi": {"seconds": [0.02]}, "yizhi, fp32": {"seconds": [0.01]}, "P": {"seconds": [0.04]}},
        "int8 8×128": {"yizhi": {"seconds": [0.2]}, "yizhi, fp32": {"seconds": [0.5]}, "P": {"seconds": [0.3]}},
    }
    results["sections"]["int8"] = section(passes)
    found = verdicts(results)
    assert found["int8-gain"].met is False
    assert found["int8-gain"].found == "1×32: 0.50×; 8×128: 2.50×"
    assert found["int8"].met
    (tmp_path / "bench.json").write_text(json.dumps(results), encoding="utf-8")
    assert summarize(tmp_path / "bench.json", "int8")[:3] == [
        "on P (avx2):",
        "int8 passes, against the best peer: 1×32: 2.00× P; 8×128: 1.50× P",
        "int8 passes on this processor, against fp32: 1×32: 0.50×; 8×128: 2.50×",
    ]
    assert summarize(tmp_path / "bench.json", "scale")[1].endswith("not run")


def test_a_peer_that_failed_decides_nothing_and_is_told(results):
    verdict = verdicts(results)["export-tensorflow"]
    assert verdict.met is None
    assert "no | TensorFlow" in verdict.found
    files = document_of(results)
    assert "failed: exit code 1: no \\| TensorFlow" in files["performance.md"]
    assert ">failed<" in files["performance/avx2-p/exports-seconds.svg"]


def test_what_was_not_run_is_told_and_not_met(results):
    assert {verdict.met for key, verdict in verdicts(results).items() if key.startswith(("int8", "scale"))} == {None}
    document = document_of(results)["performance.md"]
    assert "Not run: no CUDA." in document
    assert "## int8 passes" in document.split("Not run.")[0]


def test_an_explanation_is_quoted_only_where_its_aim_is_missed(results):
    said = {"export-flax": "Because of the transposes.", "export-onnx": "Never to be read."}
    document = document_of(results, said)["performance.md"]
    assert "Because of the transposes." in document
    assert "Never to be read." not in document
    results["sections"]["exports"]["rows"]["flax"]["yizhi"] = exported(1.0, GB // 10)
    assert "Because of the transposes." not in document_of(results, said)["performance.md"]


def test_each_kind_of_machine_has_its_own_verdicts_figures_and_charts(results, tmp_path):
    """The faster instructions for integers come first."""
    vnni = {
        **make_results(fp32=section(results["sections"]["fp32"]["rows"])),
        "machine": make_machine("Q", ["avx_vnni"]),
    }
    slow = json.loads(json.dumps(results))
    slow["sections"]["fp32"]["rows"]["onnx 1×32"]["yizhi"]["seconds"] = [0.1]
    for found in (slow, vnni):
        (tmp_path / f"{kind_of(found['machine'])}.json").write_text(json.dumps(found), encoding="utf-8")
    machines = read_results(tmp_path)
    assert list(machines) == ["avx_vnni-q", "avx2-p"]
    files = make_document(machines, {"avx2": {"fp32-onnx": "Because of AVX2."}})
    document = files["performance.md"]
    assert "| what | aim | Q, avx_vnni | P, avx2 |" in document
    assert "| met: 1×32: 1.25× optimum O1; 8×128: 1.10× optimum O1 | **missed**: 1×32: 0.50× optimum O1;" in document
    passes = document.split("## float32 passes")[1].split("\n## ")[0]
    assert passes.index("### Q, avx_vnni") < passes.index("### P, avx2") < passes.index("Because of AVX2.")
    assert {"performance/avx_vnni-q/fp32-rate.svg", "performance/avx2-p/fp32-rate.svg"} <= files.keys()
    assert "performance/avx_vnni-q/exports-memory.svg" not in files


def test_an_explanation_is_of_the_processor_that_missed(results):
    said = {"export-flax": "Because of AVX-512."}
    document = make_document({"avx2-p": results}, {"avx512_vnni": said})["performance.md"]
    assert "Because of AVX-512." not in document
    assert "This result is not explained yet." in document


def test_kinds_that_nobody_measured_are_told(results):
    unmeasured = (
        document_of(results)["performance.md"].split("No machine of these kinds was measured:")[1].split("P, ")[0]
    )
    assert [name for name in INTEGER_INSTRUCTIONS if f"- `{name}`:" not in unmeasured] == ["avx2"]


@pytest.mark.parametrize(
    ("processor", "instructions", "kind"),
    [
        ("AMD EPYC", ["avx2", "avx512f", "avx512_vnni"], "avx512_vnni-amd-epyc"),
        ("Intel(R) Xeon(R) Platinum 8480+", ["avx2", "avx512_vnni", "amx_int8"], "amx_int8-intel-xeon-platinum-8480"),
        ("AMD EPYC 7B12", ["avx2"], "avx2-amd-epyc-7b12"),
        ("aarch64", ["asimd", "asimddp", "i8mm"], "i8mm-aarch64"),
        ("../x", [], "other-x"),
    ],
)
def test_a_kind_is_the_best_integer_instructions_and_the_processor(processor, instructions, kind):
    assert kind_of(make_machine(processor, instructions)) == kind


def test_results_are_of_the_machine_that_their_file_names():
    for kind, results in read_results(RESULTS).items():
        assert kind == kind_of(results["machine"])
        assert not any(section["quick"] for section in results["sections"].values())


def test_charts_of_an_older_document_go(results, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "avx2-p.json").write_text(json.dumps(results), encoding="utf-8")
    old = tmp_path / "docs" / "performance" / "gone" / "fp32-rate.svg"
    old.parent.mkdir(parents=True)
    old.touch()
    render(tmp_path / "results", tmp_path / "docs")
    assert not old.exists()
    assert (tmp_path / "docs" / "performance" / "avx2-p" / "fp32-rate.svg").exists()


def test_every_contestant_has_a_kind_and_a_venv():
    models = [model for row in (*FP32.values(), *INT8.values(), PRODUCTS) for model in row.values()]
    assert [model for model in models if model.kind not in KINDS or model.venv not in VENVS] == []
    of_bulk = bulk.CONTESTANTS.values()
    assert [kind for kind, venv, *_ in of_bulk if kind not in bulk.KINDS or venv not in VENVS] == []


def test_frameworks_of_peers_are_those_of_ours():
    """Else a ratio is of two frameworks, and not of two programs."""
    root = Path(__file__).parent.parent

    def pins(path):
        lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
        return dict(line.split("==") for line in lines if "==" in line)

    ours = pins(root / "constraints.txt")
    frameworks = ("torch", "onnx", "onnxruntime", "openvino", "tensorflow", "tf_keras", "jax", "flax", "safetensors")
    for path in sorted((root / "benchmarks").glob("peers*.txt")):
        theirs = pins(path)
        assert {name: theirs[name] for name in frameworks if name in theirs} == {
            name: ours[name] for name in frameworks if name in theirs
        }, path.name


def test_a_section_measured_with_older_versions_says_so(results):
    older = section({}, measured="2025-12-31", versions={"peers": {"optimum": "2.0", "nncf": "3"}}, not_run="no CUDA")
    results["sections"]["gpu"] = older
    document = document_of(results)["performance.md"]
    assert "- peers: nncf 3, optimum 2.1\n" in document
    assert "2025-12-31, 12 layers, 2 threads. With optimum 2.0 (peers).\n" in document
    assert document.count(". With ") == 1


def test_what_else_the_machine_did_is_told(results):
    results["sections"]["fp32"]["beside"] = "the tests"
    assert ", 12 layers, 2 threads, beside the tests.\n" in document_of(results)["performance.md"]


def test_a_quick_run_is_not_for_quoting(results):
    assert "not for quoting" not in document_of(results)["performance.md"]
    results["sections"]["fp32"]["quick"] = True
    assert "not for quoting" in document_of(results)["performance.md"]


def test_every_chart_is_shown_and_well_formed(results):
    files = document_of(results)
    charts = [name for name in files if name.endswith(".svg")]
    assert "performance/avx2-p/exports-memory.svg" in charts
    for name in charts:
        ET.fromstring(files[name])
        assert f"({name})" in files["performance.md"]


def test_bars_are_to_scale_and_names_are_escaped():
    chart = ET.fromstring(bar_chart("a < b", {"group": {"yizhi": 2.0, "p & q": 1.0, "r": "failed"}}, "{:.1f}"))
    widths = [float(bar.get("width")) for bar in chart.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.1)
    assert widths[2] == 0


def test_growing_exports_are_held_to_a_line():
    def rows(*seconds):
        sizes = (1, 4, 8, 20)
        return {
            f"{n} layers": {target: {**exported(s, GB), "bytes": [n * GB] * 3} for target in TARGETS}
            for n, s in zip(sizes, seconds, strict=True)
        }

    assert verdicts(make_results(scale=section(rows(2, 5, 9, 21))))["scale-time"].met
    assert verdicts(make_results(scale=section(rows(2, 17, 65, 401))))["scale-time"].met is False


def test_bulk_is_held_to_the_fastest_of_each_kind():
    rows = {"yizhi": {"rate": [150.0]}, "CTranslate2 int8, sorted": {"rate": [140.0]}}
    rows |= {f"optimum pipeline, batches of {size}": {"rate": [rate]} for size, rate in ((1, 100.0), (8, 60.0))}
    found = verdicts(make_results(bulk=section({"bulk": rows})))
    assert found["bulk-ctranslate2"].met
    assert not found["bulk-pipeline"].met
    assert found["bulk-pipeline"].found == "1.50× optimum pipeline, batches of 1"


def test_every_explanation_belongs_to_an_aim():
    import tomllib

    from benchmarks.performance import EXPLANATIONS

    for instructions, explanations in tomllib.loads(EXPLANATIONS.read_text(encoding="utf-8")).items():
        assert instructions in INTEGER_INSTRUCTIONS
        assert set(explanations) <= {aim.key for aim in AIMS}


def test_a_command_is_measured_with_its_children(tmp_path):
    child = "x = bytearray(90_000_000); import time; time.sleep(0.3)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    found = run([[sys.executable, "-c", code]], tmp_path / "log", threads=1)
    assert found["peak"] > 95_000_000
    assert 0.3 < found["seconds"] < 10
    assert found["cpu"] > 0


def test_a_command_that_fails_says_why_and_one_that_hangs_is_ended(tmp_path):
    with pytest.raises(Failed, match=r"exit code 3: the reason"):
        run([[sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]], tmp_path / "log", threads=1)
    with pytest.raises(Failed, match="not done in"):
        run([[sys.executable, "-c", "import time; time.sleep(60)"]], tmp_path / "log", threads=1, limit=0.3)


@pytest.fixture
def bench(tmp_path):
    bench = Workbench(tmp_path / "bench", tmp_path / "bench.json", threads=1, quick=True, say=lambda line: None)
    synthesize(tmp_path / "bench" / "checkpoint-3x768", small_config(vocab_size=300, max_position_embeddings=128))
    return bench


def test_our_conversion_is_a_whole_artifact(bench, tmp_path):
    found = bench.make(bench.convert("yizhi-onnx", bench.checkpoint(), tmp_path / "out"))
    assert Artifact.read(tmp_path / "out").find_altered_files() == []
    assert found["peak"] > 10_000_000


def test_a_contestant_opens_answers_and_ends(bench):
    with bench.contestant("yizhi", bench.ours("onnx")) as contestant:
        assert contestant.first > 0
        assert len(contestant.ask(do="run", batch=2, length=16, repeats=3)) == 3
        assert contestant.ask(do="peak") > 10_000_000
        assert contestant.ask(do="batch_dependence") < 1e-4


def test_a_contestant_that_cannot_start_says_why(bench, tmp_path):
    with pytest.raises(Failed, match="is no artifact"):
        bench.contestant("yizhi", tmp_path)


def test_one_that_fails_takes_no_further_turns(bench):
    turns = []

    def fails():
        turns.append("fails")
        raise Failed("no")

    measured = bench.take_turns("row", {"a": lambda: {"seconds": 1.0}, "b": fails}, 3)
    assert measured == {"a": {"seconds": [1.0] * 3}, "b": {"failed": "no"}}
    assert turns == ["fails"]


def test_sections_measured_before_are_kept(bench):
    bench.keep("fp32", {"z": {}, "a": {}})
    bench.keep("int8", {})
    kept = json.loads(bench.results.read_text())["sections"]
    assert list(kept) == ["fp32", "int8"]
    assert list(kept["fp32"]["rows"]) == ["z", "a"]  # in the order measured


def test_results_are_kept_with_the_machine_and_its_versions(bench):
    bench.results.write_text(json.dumps({"machine": make_machine(), "sections": {}}), encoding="utf-8")
    bench.beside = "the tests"
    bench.keep("fp32", {})
    kept = json.loads(bench.results.read_text(encoding="utf-8"))
    assert kept["sections"]["fp32"]["beside"] == "the tests"
    assert kept["machine"] == describe_machine()
    assert kept["sections"]["fp32"]["versions"]["yizhi"]["onnxruntime"] == version("onnxruntime")


@pytest.mark.parametrize(("suffix", "default"), [(".onnx", "model.onnx"), (".xml", "openvino_model.xml")])
def test_peers_get_one_graph_by_the_name_that_they_look_for(tmp_path, suffix, default):
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    for name in (f"features{suffix}", f"logits_at{suffix}", default, "vocab.txt"):
        (artifact / name).write_text(name)
    only_features(artifact, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {default, "vocab.txt"}
    assert (tmp_path / "out" / default).read_text() == f"features{suffix}"


def test_products_are_those_of_a_pass(bench):
    inputs = {"input_ids": np.zeros((2, 16), int)}
    for library in ("numpy", "torch"):
        products(bench.checkpoint(), 1, "cpu", library)(inputs)


def test_what_the_exports_section_keeps_can_be_shown(bench, results, monkeypatch):
    def pretend(_, *commands):
        for *_, out in commands:
            (bench.folder / out).mkdir(parents=True, exist_ok=True)
        return {"seconds": 2.0, "cpu": 2.0, "peak": GB}

    monkeypatch.setattr(Workbench, "make", pretend)
    (bench.folder / "out" / "peer-optimum").mkdir(parents=True)
    (bench.folder / "out" / "peer-optimum" / "model.onnx").touch()
    exports(bench)
    kept = json.loads(bench.results.read_text())["sections"]
    document = document_of(make_results(**kept))["performance.md"]
    assert "| onnx | optimum | 2 |" in document
    assert "| all | yizhi | not run: int8 misses a gate" in document
    assert "|  | copy and hash | 2 |" in document


def test_rendering_needs_a_measurement(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["--render-only", "--results", str(tmp_path)])
    assert left.value.code == 2
    assert "nothing was measured yet" in capsys.readouterr().err


def test_rendering_again_gives_the_same_files(tmp_path, results):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "avx2-p.json").write_text(json.dumps(results))
    for folder in ("one", "two"):
        main(["--render-only", "--results", str(tmp_path / "results"), "--docs", str(tmp_path / folder)])
    written = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert Path("performance.md") in written
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in written)

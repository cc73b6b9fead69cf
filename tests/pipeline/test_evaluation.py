"""`verify --eval`: scores of every artifact on labelled data, and the gate that they may have to pass."""

import json

import numpy as np
import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import VOCAB
from yizhi.cli import main
from yizhi.parity.golden import Golden
from yizhi.reading.checkpoint import Checkpoint

pytest.importorskip("seqeval")
pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

pytestmark = pytest.mark.slow

SENTENCES = ["北京很好", "山水不好", "房间干净", "天地快"]


@pytest.fixture
def release(make_checkpoint, tmp_path):
    """A tagger that knows its characters: the PyTorch artifact is right, the ONNX one has another head."""
    known = {"北": 1, "山": 1, "天": 1, "京": 2, "水": 2, "地": 2}

    def teach(tensors):
        # Embeddings alone decide: what a layer adds is small beside them.
        for name, array in tensors.items():
            if ".layer." in name and name.endswith("dense.weight"):
                array *= 0.01
        size = array_of(tensors, "word_embeddings.weight").shape[1]
        directions = np.random.default_rng(0).normal(size=(3, size)).astype(np.float32)
        for index, token in enumerate(VOCAB):
            array_of(tensors, "word_embeddings.weight")[index] = 8 * directions[known.get(token, 0)]
        array_of(tensors, "classifier.weight")[:] = 0
        array_of(tensors, "classifier.weight")[:3] = directions
        array_of(tensors, "classifier.bias")[:] = 0
        array_of(tensors, "classifier.bias")[3:] = -99

    def array_of(tensors, end):
        return next(array for name, array in tensors.items() if name.endswith(end))

    folder = tmp_path / "release"
    with Checkpoint.open(make_checkpoint("bert-tagger", alter=teach)) as checkpoint:
        for target in ("pytorch", "onnx"):
            export_artifact(checkpoint, target, folder / target)
        (folder / "golden").mkdir()
        Golden.make(checkpoint).write(folder / "golden")
    return folder


def write_tags(path, sentences=SENTENCES, wrong=0):
    tag = {**dict.fromkeys("北山天", "B-人"), **dict.fromkeys("京水地", "I-人")}
    path.write_text("\n".join("".join(f"{c}\t{tag.get(c, 'O')}\n" for c in s) for s in sentences), encoding="utf-8")
    return path


def verify(*arguments):
    return main(["verify", *map(str, arguments), "--jobs", "1"])


def test_scores_are_told_and_equal_ones_pass(release, tmp_path, capsys):
    data = write_tags(tmp_path / "test.txt")
    assert verify(release / "onnx", "--eval", data, "--min-relative-f1", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)["onnx"]["evaluation"]
    assert found["scores"]["f1"] == 1.0
    assert (found["relative"], found["best"], found["examples"], found["minimum"]) == (1.0, "f1", 4, 1.0)
    assert found["faults"] == []


def test_an_artifact_that_falls_short_closes_the_gate(release, tmp_path, capsys, monkeypatch):
    from yizhi.pipeline.jobs import Result
    from yizhi.training.tasks.scores import Scores

    scores = {"pytorch": 0.8, "onnx": 0.75}

    def run_jobs(plan, *_):
        return {job.name: Result(job.name, Scores({"f1": scores[job.name.split()[1]]}, "f1", 4)) for job in plan}

    monkeypatch.setattr("yizhi.pipeline.evaluation.run_jobs", run_jobs)
    data = write_tags(tmp_path / "test.txt")
    assert verify(release / "onnx", "--eval", data, "--min-relative-f1", "0.9") == 0
    capsys.readouterr()
    assert verify(release / "onnx", "--eval", data, "--min-relative-f1", "0.95") == 1
    out = capsys.readouterr().out
    assert "f1 on test.txt" in out
    assert "0.7500 (93.8%)" in out
    assert "f1 0.7500 is 93.8% of pytorch's 0.8000; expected 95.0% or more" in out.replace("\n", " ")
    scores["pytorch"] = 0.0
    assert verify(release / "onnx", "--eval", data) == 0
    assert verify(release / "onnx", "--eval", data, "--min-relative-f1", "0.5") == 1


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--min-relative-f1", "0.9"], "--min-relative-f1: needs --eval"),
        (["--column", "text"], "--column: needs --eval"),
        (["--eval", "DATA", "--min-relative-f1", "95"], "expected more than 0, at most 1; found 95.0"),
        (["--eval", "none.txt"], "none.txt: cannot be read: No such file or directory"),
        (["--eval", "BAD"], "line 1: tag 'B-LOC' is unknown: expected one of O, B-人"),
        (["--eval", "DATA", "--column", "text"], "--column: needs a classifier"),
    ],
)
def test_bad_use_is_told_before_anything_runs(release, tmp_path, capsys, monkeypatch, arguments, fault):
    monkeypatch.setattr("yizhi.pipeline.recheck.run_jobs", None)
    (tmp_path / "bad.txt").write_text("北 B-LOC\n")
    files = {"DATA": str(write_tags(tmp_path / "test.txt")), "BAD": str(tmp_path / "bad.txt")}
    assert verify(release / "onnx", *[files.get(argument, argument) for argument in arguments]) == 2
    assert fault in capsys.readouterr().err


def test_a_release_without_the_reference_or_without_labels(release, make_checkpoint, tmp_path, capsys):
    data = write_tags(tmp_path / "test.txt")
    with Checkpoint.open(make_checkpoint("bert-no-head")) as checkpoint:
        export_artifact(checkpoint, "pytorch", tmp_path / "plain" / "pytorch")
    (tmp_path / "plain" / "golden").mkdir()
    assert verify(tmp_path / "plain" / "pytorch", "--eval", data) == 2
    assert "has no labels to be scored: its task is features" in capsys.readouterr().err
    (release / "pytorch").rename(tmp_path / "elsewhere")
    assert verify(release / "onnx", "--eval", data) == 2
    assert "has no pytorch artifact, which scores are compared with" in capsys.readouterr().err

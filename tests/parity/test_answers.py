"""What a user gets for a text: each artifact answers as the oracle does, from its own files."""

import json
from dataclasses import replace

import pytest

from tests.artifacts import EVERY_TARGET, export_artifact
from tests.checkpoints import write_variant
from yizhi.model.spec import Pooling
from yizhi.parity import oracle
from yizhi.parity.answers import Said, check_answers, make_answers
from yizhi.parity.oracle_runtime import OracleRuntime
from yizhi.parity.text_faults import swap_tokens
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import Tokenizer, open_runtime

TASKS = ["bert", "bert-classifier", "bert-multi-label", "bert-regression", "bert-tagger", "bert-reader", "bert-no-head"]


def answers_of(checkpoint):
    tokenizer = Tokenizer.of(checkpoint.text, checkpoint.config)
    return make_answers(OracleRuntime(checkpoint, oracle.Parameters(checkpoint)), tokenizer)


@pytest.fixture
def subject(tmp_path):
    def make(variant="bert", target="pytorch", pooling=None, **changes):
        folder = write_variant(tmp_path / "checkpoint", variant, **changes)
        with Checkpoint.open(folder, pooling) as checkpoint:
            return export_artifact(checkpoint, target, tmp_path / "artifact"), answers_of(checkpoint)

    return make


def check(folder, expected, precision="fp32"):
    with open_runtime(folder) as runtime:
        return check_answers(runtime, expected, precision)


@pytest.mark.parametrize("variant", [*TASKS, "electra-discriminator", "albert", "bert-untied"])
def test_a_sound_artifact_gives_the_oracle_s(subject, variant):
    folder, expected = subject(variant)
    assert len(expected) >= 5
    assert check(folder, expected) == []


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_every_target_gives_them(subject, target):
    folder, expected = subject("bert", target)
    assert check(folder, expected, "int8" if target.endswith("int8") else "fp32") == []


def test_the_oracle_s_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = write_variant(tmp_path / "checkpoint", "bert")
    with Checkpoint.open(folder) as checkpoint:
        expected = answers_of(checkpoint)
    fill = transformers.pipeline("fill-mask", str(folder), framework="pt", top_k=5)
    for one in expected:
        found = {candidate["token_str"]: candidate["score"] for candidate in fill(one.text[0])}
        assert found == pytest.approx(dict(one.said[0].scores), abs=1e-5)


def test_a_tokenizer_that_does_not_fit_the_weights_is_told(subject):
    folder, expected = subject()
    swap_tokens(folder, None)
    faults = check(folder, expected)
    assert faults[0].startswith("text: '今天[MASK]午三点")
    assert ": at mask 0: expected '" in faults[0]
    assert "; found '" in faults[0]


@pytest.mark.parametrize("variant", ["bert-classifier", "bert-tagger"])
def test_labels_under_other_numbers_are_told(subject, variant):
    folder, expected = subject(variant)
    for name, key in (("config.json", "id2label"), ("artifact.json", "labels")):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        labels = content[key]
        values = list(labels.values()) if key == "id2label" else labels
        turned = [*values[1:], values[0]]
        content[key] = dict(zip(labels, turned, strict=True)) if key == "id2label" else turned
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert check(folder, expected)


@pytest.mark.parametrize("pooling", [Pooling("cls"), Pooling("mean", normalize=True), Pooling("max")])
def test_vectors_are_pooled_as_the_checkpoint_says(subject, pooling):
    folder, expected = subject("bert-no-head", pooling=pooling)
    assert check(folder, expected) == []
    content = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    del content["pooling"]
    (folder / "artifact.json").write_text(json.dumps(content), encoding="utf-8")
    faults = check(folder, expected)
    assert len(faults) == 4 or pooling == Pooling("mean")
    assert "vector: expected within 0.0001 of its length; found " in faults[0]
    assert faults[-1] == "text: and 3 more answers"


def test_answers_elsewhere_and_of_another_size_are_told(subject):
    folder, expected = subject("bert-tagger")
    moved = replace(expected[0], said=(Said("word 9", {"O": 1.0}), *expected[0].said[1:]))
    assert "expected answers at ['word 9', " in check(folder, [moved])[0]
    folder, expected = subject("bert-no-head", "onnx")
    (fault,) = check(folder, [replace(expected[0], vector=expected[0].vector[:-1])])
    assert "expected a vector of 31; found 32" in fault


def test_texts_that_do_not_fit_are_left_out(subject):
    folder, expected = subject("bert", config={"max_position_embeddings": 12})
    assert expected == () or all(len(one.text[0]) < 20 for one in expected)
    assert check(folder, expected) == []

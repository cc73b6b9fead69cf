"""Labels of whole texts are those of transformers' pipelines, by every problem type."""

import numpy as np
import pytest
from transformers import pipeline

from yizhi.errors import InputError
from yizhi.runtimes import Classifier, Tokenizer
from yizhi.runtimes.scores import sigmoid

TEXTS = ["这个酒店的服务很好。", "你", ("我去说", "你来！"), "Hello world"]


@pytest.mark.parametrize("variant", ["bert-classifier", "electra-multi-label", "albert-regression"])
def test_scores_are_those_of_transformers(open_variant, variant):
    runtime = open_variant(variant)
    folder = str(runtime.artifact.folder)
    # For one label and no `problem_type` the pipeline takes a sigmoid, though transformers trains it as a regression.
    apply = "none" if variant == "albert-regression" else None
    oracle = pipeline(
        "text-classification", model=folder, tokenizer=folder, top_k=None, function_to_apply=apply, device="cpu"
    )
    classify = Classifier(runtime)
    for text, found in zip(TEXTS, classify.many(TEXTS, tokens=24), strict=True):
        given = {"text": text[0], "text_pair": text[1]} if isinstance(text, tuple) else [text]
        expected = oracle(given)
        expected = expected[0] if isinstance(expected[0], list) else expected
        assert [label.label for label in found] == [entry["label"] for entry in expected]
        np.testing.assert_allclose(
            [s.score for s in found], [entry["score"] for entry in expected], rtol=1e-5, atol=1e-6
        )


def test_top_k(open_variant):
    everything = Classifier(open_variant("bert-classifier"))(TEXTS[0])
    assert [label.label for label in everything] != ["差", "中", "好"]  # sorted by score, not by id
    assert Classifier(open_variant("bert-classifier"), top_k=2)(TEXTS[0]) == everything[:2]
    for top_k in (0, 4, True, "1"):
        with pytest.raises(InputError, match="top_k:\n  - expected 1 … 3; found"):
            Classifier(open_variant("bert-classifier"), top_k=top_k)


def test_a_regression_keeps_the_order_of_its_labels(open_variant):
    config = {"num_labels": 4, "problem_type": "regression"}
    runtime = open_variant("bert-classifier", config={**config, "id2label": dict(zip("0123", "甲乙丙丁", strict=True))})
    values = Classifier(runtime, top_k=1)(TEXTS[0])
    assert [value.label for value in values] == list("甲乙丙丁")
    assert [value.score for value in values] != sorted((value.score for value in values), reverse=True)


def test_long_texts(open_variant):
    runtime = open_variant("bert-classifier")
    with pytest.raises(InputError, match=r"expected at most 64 tokens .* found 82"):
        Classifier(runtime)("的" * 80)
    cut = Classifier(runtime, long="truncate")("的" * 62 + "好" * 18)
    assert cut == Classifier(runtime)("的" * 62)
    for long in ("windows", 10, "cut"):
        with pytest.raises(InputError, match="long:\n  - expected error or truncate; found"):
            Classifier(runtime, long=long)


@pytest.mark.parametrize(
    ("variant", "advice"),
    [
        ("bert", "is a masked-language model: it gives words; use `yizhi fill-mask`"),
        ("bert-tagger", "is a tagger: it gives labels of words; use `yizhi tag`"),
        ("bert-no-head", "is a bare encoder: it gives hidden states; use `yizhi embed`"),
    ],
)
def test_another_head_is_refused(open_variant, variant, advice):
    with pytest.raises(InputError, match=f"cannot classify texts: the checkpoint {advice}"):
        Classifier(open_variant(variant))


def test_sigmoid_keeps_its_footing():
    found = sigmoid(np.array([-1e4, -1, 0, 1, 1e4], np.float32))
    np.testing.assert_allclose(found, [0, 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1], rtol=1e-15)


def test_raw_scores_are_the_logits(open_variant):
    runtime = open_variant("bert-classifier", "onnx")
    tokenizer = Tokenizer.open(runtime.artifact.folder)
    logits = runtime.run(tokenizer.encode(["北京"]).inputs, ["logits"])["logits"][0]
    found = Classifier(runtime, tokenizer, raw=True)("北京")
    assert {one.label: one.score for one in found} == dict(
        zip(Classifier(runtime).labels, logits.tolist(), strict=True)
    )
    assert [one.score for one in found] == sorted(logits.tolist(), reverse=True)

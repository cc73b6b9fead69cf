"""`make demo`'s sentences, and what is left of a small trained model in int8."""

import re

import numpy as np
import pytest

from tests.artifacts import export_artifact
from tests.imports import ROOT
from yizhi.cli import main
from yizhi.demo import CONFIG, TEXTS, TRAINING, make_vocab, read_questions
from yizhi.parity.cloze import CLOZE
from yizhi.pipeline.synthesis import synthesize
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import FillMask, Tokenizer, open_runtime

SENTENCES = [line for path in TEXTS for line in path.read_text(encoding="utf-8").splitlines()]


def test_sentences_are_there_once():
    assert 300 <= len(SENTENCES) <= 400
    assert len(set(SENTENCES)) == len(SENTENCES)
    assert max(map(len, SENTENCES)) <= 30
    # What tells a trained head from an untrained one must not be learnt by heart.
    assert not {text.replace("[MASK]", answer) for text, answers in CLOZE for answer in answers} & set(SENTENCES)


def test_questions_are_no_sentences_and_can_be_spelled():
    vocab = set(make_vocab())
    for question, answer in read_questions():
        assert question.count("[MASK]") == 1
        sentence = question.replace("[MASK]", answer)
        assert sentence not in SENTENCES
        assert set(sentence) <= vocab


def test_the_first_example_of_the_guide_can_be_spelled():
    """It names the demo's model, which refuses targets that its vocabulary cannot spell."""
    example = (ROOT / "docs" / "using.md").read_text(encoding="utf-8").split("```")[1]
    assert 'open_runtime("dist/demo/' in example
    chinese = set(re.findall("[\u4e00-\u9fff]", example))
    assert chinese
    assert chinese <= set(make_vocab())


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Float32 and int8 ONNX artifacts of the demo's model after fewer steps than it takes."""
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("demo")
    vocab = make_vocab()
    synthesize(folder / "random", {**CONFIG, "vocab_size": len(vocab)}, vocab=vocab, untrained=True)
    texts = [str(path) for path in TEXTS]
    out = str(folder / "trained")
    command = ["pretrain", str(folder / "random"), "--text", *texts, "--out", out]
    assert main([*command, *TRAINING, "--max-steps", "1000"]) == 0
    with Checkpoint.open(folder / "trained") as checkpoint:
        return {target: export_artifact(checkpoint, target, folder / target) for target in ("onnx", "onnx-int8")}


@pytest.mark.slow
def test_a_trained_model_answers_in_float32_and_in_int8(artifacts):
    questions = read_questions()
    right = {}
    for target, folder in artifacts.items():
        with open_runtime(folder) as model:
            fill = FillMask(model, top_k=1)
            right[target] = sum(fill(question)[0][0].token == answer for question, answer in questions)
    assert min(right.values()) >= len(questions) / 3, right


@pytest.mark.slow
def test_int8_says_first_what_float32_says_first(artifacts):
    """Each character of the sentences that were asked hidden in turn: as many as 300 first answers."""
    sentences = [question.replace("[MASK]", answer) for question, answer in read_questions()]
    hidden = [s[:place] + "[MASK]" + s[place + 1 :] for s in sentences for place in range(len(s))]
    first = {}
    for target, folder in artifacts.items():
        with open_runtime(folder) as model:
            tokenizer = Tokenizer.open(folder)
            inputs = tokenizer.encode(hidden).inputs
            logits = model.run(inputs, ["logits"])["logits"][inputs.input_ids == tokenizer.mask_id]
            first[target] = logits.argmax(-1)
    assert np.mean(first["onnx"] == first["onnx-int8"]) >= 0.98

"""Answers are the best spans of the context, by a brute force over every span of every window."""

import math

import numpy as np
import pytest
from transformers import pipeline

from tests.checkpoints import VOCAB
from yizhi.errors import InputError
from yizhi.runtimes import Reader
from yizhi.runtimes.tokenization import Tokenizer

QUESTION = "首都是哪里？"
CONTEXT = "北京是中国的首都，上海 hello worlds 来。"


def random_text(length, seed):
    return "".join(VOCAB[5:55][index] for index in np.random.default_rng(seed).integers(0, 50, length))


def brute_force(runtime, question, context, longest, shared=None, threshold=None):
    """Every (start, end, probability), best first; and that of no answer, shifted by the threshold."""
    tokenizer = Tokenizer.open(runtime.artifact.folder)
    asked, given = tokenizer.tokenize([question, context])
    offsets = given.offsets[1:-1].tolist()
    ids = given.ids[1:-1].tolist()
    room = 64 - len(asked.ids) - 1
    step = room if shared is None else room - shared
    begins = [0] if len(ids) <= room else range(0, len(ids) - shared, step)
    spans, nulls = {}, []
    for begin in begins:
        window = ids[begin : begin + room]
        inputs = {
            "input_ids": [[*asked.ids, *window, 3]],
            "token_type_ids": [[0] * len(asked.ids) + [1] * (len(window) + 1)],
        }
        logits = runtime.run(inputs, ["logits"])["logits"][0].astype(float)
        nulls.append(logits[0].sum())
        for i in range(len(window)):
            for j in range(i, min(i + longest, len(window))):
                place = (offsets[begin + i][0], offsets[begin + j][1])
                worth = logits[len(asked.ids) + i, 0] + logits[len(asked.ids) + j, 1]
                spans[place] = max(spans.get(place, -math.inf), worth)
    null = [] if threshold is None else [min(nulls) - threshold]
    total = sum(math.exp(value) for value in [*spans.values(), *null])
    ranked = sorted(spans, key=lambda place: -spans[place])
    return [(*place, math.exp(spans[place]) / total) for place in ranked], [math.exp(value) / total for value in null]


@pytest.mark.parametrize("variant", ["bert-reader", "electra-reader"])
@pytest.mark.parametrize("longest", [1, 5, 30])
def test_a_short_context(open_variant, variant, longest):
    runtime = open_variant(variant)
    expected, _ = brute_force(runtime, QUESTION, CONTEXT, longest)
    answers = Reader(runtime, top_k=1000, max_answer_tokens=longest)((QUESTION, CONTEXT))
    assert [(a.start, a.end) for a in answers] == [place[:2] for place in expected]
    np.testing.assert_allclose([a.score for a in answers], [place[2] for place in expected], rtol=1e-4)
    assert sum(a.score for a in answers) == pytest.approx(1)
    assert all(a.text == CONTEXT[a.start : a.end] for a in answers)
    assert Reader(runtime, max_answer_tokens=longest)((QUESTION, CONTEXT)) == answers[:1]


@pytest.mark.parametrize("shared", [0, 7, 40, None])
def test_a_long_context_is_read_in_windows(open_variant, shared):
    runtime = open_variant("bert-reader")
    context = random_text(150, 1) + " helloing  world " + random_text(30, 2)
    room = 64 - 3 - len(QUESTION)
    long = "windows" if shared is None else shared
    expected, (null,) = brute_force(runtime, QUESTION, context, 12, room // 4 if shared is None else shared, 0.5)
    answers = Reader(runtime, top_k=40, max_answer_tokens=12, no_answer=0.5, long=long)((QUESTION, context))
    nothing = [a for a in answers if a.start is None]
    assert [(a.text, a.end, pytest.approx(a.score, rel=1e-4)) for a in nothing] == [("", None, null)]
    assert len(answers) == 41
    assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
    spans = [a for a in answers if a.start is not None]
    assert [(a.start, a.end) for a in spans] == [place[:2] for place in expected[:40]]
    np.testing.assert_allclose([a.score for a in spans], [place[2] for place in expected[:40]], rtol=1e-4)


def test_the_order_is_that_of_transformers(open_variant):
    runtime = open_variant("albert-reader")
    folder = str(runtime.artifact.folder)
    oracle = pipeline("question-answering", model=folder, tokenizer=folder, device="cpu")
    context = "".join(np.random.default_rng(3).permutation(VOCAB[5:45]))  # the pipeline adds up spans of equal text
    expected = oracle(question=QUESTION, context=context, top_k=20, max_answer_len=8)
    answers = Reader(runtime, top_k=20, max_answer_tokens=8)((QUESTION, context))
    assert [(a.text, a.start, a.end) for a in answers] == [(e["answer"], e["start"], e["end"]) for e in expected]
    # The pipeline's probabilities also count spans that are not allowed: the two differ by a factor.
    ratios = [a.score / e["score"] for a, e in zip(answers, expected, strict=True)]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)


@pytest.mark.parametrize(
    "context", ["😀北 京\u2028İ", "e\u0301的\u3000ﬁ", "[UNK] 魑魅zz", "가\x00나", "[SEP] 的 [CLS] [MASK]"]
)
def test_answers_are_inside_the_context(open_variant, context):
    reader = Reader(open_variant("bert-reader"), top_k=1000)
    for question in ("", "[SEP] 的", context):
        answers = reader((question, context))
        assert answers
        for answer in answers:
            assert answer.text == context[answer.start : answer.end] != ""


def test_no_answer_ranks_by_its_threshold(open_variant):
    runtime = open_variant("bert-reader")
    first, last = (Reader(runtime, no_answer=by, top_k=2)((QUESTION, CONTEXT)) for by in (-50, 50))
    assert [a.text for a in first] == ["", *(a.text for a in last[:2])]
    assert last[2].text == ""
    assert last[2].score < 1e-9
    assert first[0].score > 1 - 1e-9


def test_what_cannot_be_asked(open_variant):
    runtime = open_variant("bert-reader")
    reader = Reader(runtime)
    for context in ("", " \u200b"):
        with pytest.raises(InputError, match="expected a context with words"):
            reader((QUESTION, context))
    for bad in (QUESTION, (QUESTION,), (QUESTION, CONTEXT, CONTEXT), [QUESTION, CONTEXT]):
        with pytest.raises(InputError, match="expected a question and a context"):
            reader(bad)
    assert reader(("的" * 60, CONTEXT))  # one token of the context at a time
    with pytest.raises(InputError, match="at most 60 tokens, to leave room for its pair; found 61"):
        reader(("的" * 61, CONTEXT))
    with pytest.raises(InputError, match="expected at most 64 tokens"):
        Reader(runtime, long="error")((QUESTION, "的" * 80))
    with pytest.raises(InputError, match=r"`stride`:\n  - expected 0 … 54; found 55"):
        Reader(runtime, long=55)((QUESTION, "的" * 80))
    with pytest.raises(InputError) as caught:
        Reader(runtime, top_k=0, max_answer_tokens=True, no_answer=math.nan)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["top_k", "max_answer_tokens", "no_answer"]
    with pytest.raises(InputError, match=r"cannot answer questions: .* use `yizhi classify`"):
        Reader(open_variant("bert-classifier"))

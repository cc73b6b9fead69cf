"""What users see is judged on everyday sentences, where a vocabulary has their words."""

from dataclasses import replace

import numpy as np
import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import VOCAB
from yizhi.errors import InputError
from yizhi.parity.cases import MASKED, SENTENCES, make_cases
from yizhi.parity.golden import Golden
from yizhi.parity.judge import verify
from yizhi.parity.sentence_quality import Sentences, judge_sentences, order_kept
from yizhi.parity.tolerances import find_gates
from yizhi.reading.checkpoint import Checkpoint
from yizhi.reading.sentences import CHINESE, ENGLISH, everyday_rows
from yizhi.runtimes import open_runtime

SPECIAL = VOCAB[:5]
OF_CHINESE = [*SPECIAL, *sorted(set("".join(CHINESE)))]
LETTERS = sorted(set("".join(ENGLISH).lower()) - {" "})
OF_ENGLISH = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
GATES = find_gates("int8", "cpu")


@pytest.fixture
def open_checkpoint(make_checkpoint):
    def make(variant, vocab, longest=128):
        config = {"vocab_size": len(vocab), "max_position_embeddings": longest}
        return Checkpoint.open(make_checkpoint(variant, vocab=vocab, config=config))

    return make


@pytest.mark.parametrize("vocab", [OF_CHINESE, OF_ENGLISH], ids=["Chinese", "English"])
def test_a_vocabularys_language_is_found(open_checkpoint, vocab):
    with open_checkpoint("bert", vocab) as checkpoint:
        rows = everyday_rows(checkpoint.text, 128)
    assert len(rows) == 40
    assert not any(SPECIAL.index("[UNK]") in row for row in rows)


def test_a_vocabulary_of_neither_has_none(open_checkpoint):
    with open_checkpoint("bert", VOCAB) as checkpoint:
        assert everyday_rows(checkpoint.text, 128) == []
        assert {case.kind for case in make_cases(checkpoint)} == {"ids"}
    with open_checkpoint("bert-no-head", OF_CHINESE, longest=8) as short:
        assert len(everyday_rows(short.text, 8)) < 30


@pytest.mark.parametrize(
    ("variant", "kinds", "signature"),
    [
        ("bert", {SENTENCES, MASKED}, "features"),
        ("bert-no-head", {SENTENCES}, "features"),
        ("bert-classifier", {SENTENCES}, "serving_default"),
    ],
)
def test_sentences_go_through_what_a_user_calls(open_checkpoint, variant, kinds, signature):
    with open_checkpoint(variant, OF_CHINESE) as checkpoint:
        cases = [case for case in make_cases(checkpoint) if case.kind != "ids"]
        mask = checkpoint.text.mask_id
    assert {case.kind for case in cases} == kinds
    assert {case.signatures for case in cases if case.kind == SENTENCES} == {(signature,)}
    assert len({case.inputs.input_ids.shape for case in cases}) == 1
    for case in cases:
        if case.kind == MASKED:
            np.testing.assert_array_equal(case.logit_positions, np.argwhere(case.inputs.input_ids == mask))
            assert len(case.logit_positions) > 40


@pytest.mark.parametrize("target", ["onnx-int8", "pytorch"])
def test_they_are_judged_and_kept(open_checkpoint, tmp_path, target):
    with open_checkpoint("bert", OF_CHINESE) as checkpoint:
        golden = Golden.make(checkpoint)
        artifact = export_artifact(checkpoint, target, tmp_path / target)
    golden.write(tmp_path)
    read = Golden.read(tmp_path)
    assert [case.kind for case in read.cases] == [case.kind for case in golden.cases]
    with open_runtime(artifact) as runtime:
        verdict = verify(runtime, read, runtime.artifact.description["precision"])
    assert verdict.passed, verdict.faults
    if target == "onnx-int8":
        assert (verdict.sentences.sentences, verdict.sentences.masked.positions) == (40, 101)
        assert 0.995 < verdict.sentences.token_p01 < verdict.sentences.token_mean < 1
    else:
        assert verdict.sentences is None


def test_a_golden_case_without_an_output_is_refused(open_checkpoint, tmp_path):
    with open_checkpoint("bert", OF_CHINESE) as checkpoint:
        golden = Golden.make(checkpoint)
        artifact = export_artifact(checkpoint, "pytorch", tmp_path / "pytorch")
    del golden.reference["sentences-0"]["last_hidden_state"]
    with open_runtime(artifact) as runtime, pytest.raises(InputError) as caught:
        verify(runtime, golden, "fp32")
    assert caught.value.faults == ["sentences-0: last_hidden_state: missing in the golden outputs"]


def _measure(rows, noise, lost=()):
    """The quality of vectors with so much noise; of the rows in `lost` nothing is left."""
    random = np.random.default_rng(0)
    expected = random.normal(size=(rows * 5, 64)).astype(np.float32)
    found = expected + noise * random.normal(size=expected.shape).astype(np.float32)
    found[list(lost)] = random.normal(size=(len(lost), 64))
    collected = Sentences()
    collected.add(np.ones((rows, 5), np.int64), found, expected)
    return collected.measure(lead=0.5)


def test_the_gates_on_sentences():
    assert judge_sentences(_measure(40, 0.01), GATES) == []
    faults = judge_sentences(_measure(40, 0.2), GATES)
    assert [fault.split(": ")[1] for fault in faults] == [
        "1st percentile of the tokens' cosines",
        "mean cosine of the sentences' vectors",
        "order of the sentences' similarities (Spearman)",
    ]
    few_tokens = judge_sentences(_measure(400, 0.01, lost=range(40)), GATES)
    assert any("1st percentile" in fault for fault in few_tokens)
    one_token = judge_sentences(_measure(400, 0.01, lost=[7]), replace(GATES, vector_mean=0, order=0))
    assert one_token == []


def test_an_order_that_is_chance_is_not_judged():
    vectors = np.random.default_rng(0).normal(size=(40, 64))
    assert order_kept(vectors, vectors) == pytest.approx(1)
    assert abs(order_kept(vectors[::-1], vectors)) < 0.2
    alike = 1 + 1e-4 * vectors
    assert order_kept(alike[::-1], alike) is None

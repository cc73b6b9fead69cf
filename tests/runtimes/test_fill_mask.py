"""Fill-mask answers every [MASK] of a text, and says why where it cannot."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, BertTokenizer

from tests.artifacts import export_artifact
from tests.checkpoints import VOCAB
from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime
from yizhi.runtimes.fill_mask import FillMask
from yizhi.runtimes.scores import softmax
from yizhi.runtimes.tokenization import Tokenizer


@pytest.fixture
def make_fill_mask(tmp_path, request):
    """Export a checkpoint folder to PyTorch and open it."""

    def make(folder) -> FillMask:
        with Checkpoint.open(folder) as checkpoint:
            artifact = export_artifact(checkpoint, "pytorch", tmp_path / "artifact")
        runtime = open_runtime(artifact)
        request.addfinalizer(runtime.close)
        return FillMask(runtime, Tokenizer.open(artifact))

    return make


def test_scores_are_those_of_transformers(make_checkpoint, make_fill_mask):
    folder = make_checkpoint(pooler=False)
    text = "北京是[MASK]国的首[MASK]。"
    answers = make_fill_mask(folder)(text, top_k=len(VOCAB))

    inputs = BertTokenizer(str(folder / "vocab.txt"))(text, return_tensors="pt")
    model = AutoModelForMaskedLM.from_pretrained(folder).double().eval()
    with torch.inference_mode():
        logits = model(**inputs).logits[0][inputs["input_ids"][0] == 4]
    assert len(answers) == len(logits) == 2
    for answer, expected in zip(answers, torch.softmax(logits, -1).numpy(), strict=True):
        found = {prediction.token_id: prediction.score for prediction in answer}
        assert sorted(found) == list(range(len(VOCAB)))
        np.testing.assert_allclose([found[index] for index in sorted(found)], expected, rtol=2e-5)
        assert [prediction.token_id for prediction in answer] == np.argsort(-expected, kind="stable").tolist()
        assert all(VOCAB[prediction.token_id] == prediction.token for prediction in answer)
        assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)


def test_each_mask_has_its_own_answers_and_sentences(make_checkpoint, make_fill_mask):
    fill = make_fill_mask(make_checkpoint())
    answers = fill("Play[MASK]  的[MASK]！", top_k=len(VOCAB))
    first = {prediction.token: prediction.sentence for prediction in answers[0]}
    second = {prediction.token: prediction.sentence for prediction in answers[1]}
    assert first["天"] == "Play天  的[MASK]！"
    assert first["##ing"] == "Playing  的[MASK]！"  # the text keeps its case and its spaces
    assert second["天"] == "Play[MASK]  的天！"
    assert [p.score for p in answers[0]] != [p.score for p in answers[1]]


def test_top_k(make_checkpoint, make_fill_mask):
    fill = make_fill_mask(make_checkpoint())
    everything = fill("[MASK]", top_k=len(VOCAB))[0]
    assert [prediction.score for prediction in everything] == sorted((p.score for p in everything), reverse=True)
    assert len(fill("[MASK]")[0]) == 5
    assert fill("[MASK]", top_k=3)[0] == everything[:3]
    for top_k in (0, -1, len(VOCAB) + 1, True, 2.0):
        with pytest.raises(InputError, match="top_k:\n  - expected 1 … 116; found"):
            fill("[MASK]", top_k=top_k)


@pytest.mark.parametrize("text", ["", "的", "[mask]", "[ MASK ]"])
def test_a_text_without_a_mask(make_checkpoint, make_fill_mask, text):
    with pytest.raises(InputError, match=r"has no \[MASK\] to fill"):
        make_fill_mask(make_checkpoint())(text)


def test_a_text_that_is_too_long(make_checkpoint, make_fill_mask):
    with pytest.raises(InputError, match=r"expected at most 64 tokens .* found 102"):
        make_fill_mask(make_checkpoint())("[MASK]" * 100)


@pytest.mark.parametrize(
    ("variant", "reason"),
    [("bert-no-head", "a bare encoder: it gives hidden states"), ("electra-discriminator", "a discriminator")],
)
def test_artifacts_without_the_head_say_so(make_checkpoint, make_fill_mask, variant, reason):
    with pytest.raises(InputError, match=f"cannot fill masks: the checkpoint (is )?{reason}"):
        make_fill_mask(make_checkpoint(variant))


@pytest.mark.parametrize("variant", ["albert-groups", "electra-generator", "bert-untied", "megatron-bert"])
def test_other_families_fill_masks_too(make_checkpoint, make_fill_mask, variant):
    (answer,) = make_fill_mask(make_checkpoint(variant))("这个酒店的服务很[MASK]。")
    assert len({prediction.token for prediction in answer}) == 5
    assert 0 < sum(prediction.score for prediction in answer) < 1


def test_softmax_keeps_its_footing():
    logits = np.array([[1000, 999], [-1e30, 0], [3, 3]], np.float32)
    expected = [[1 / (1 + math.exp(-1)), 1 / (1 + math.e)], [0, 1], [0.5, 0.5]]
    found = softmax(logits)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_a_trained_model_knows_the_word(shared_data, make_fill_mask):
    folder = shared_data / "checkpoints" / "zh-mini"
    (answer,) = make_fill_mask(folder)("这个酒店的服务很[MASK]。")
    assert [(prediction.token, round(prediction.score, 3)) for prediction in answer[:2]] == [
        ("好", 0.58),
        ("快", 0.162),
    ]
    assert answer[0].sentence == "这个酒店的服务很好。"


def probabilities(folder, text, *pair):
    """Float64 probabilities [T, V] by transformers, and the positions of the masks."""
    inputs = BertTokenizer(str(folder / "vocab.txt"))(text, *pair, return_tensors="pt")
    model = AutoModelForMaskedLM.from_pretrained(folder).double().eval()
    with torch.inference_mode():
        scores = torch.softmax(model(**inputs).logits[0], -1).numpy()
    return scores, np.flatnonzero(inputs["input_ids"][0] == 4)


def test_targets_of_one_token_keep_their_probability(make_checkpoint, make_fill_mask):
    fill = make_fill_mask(make_checkpoint())
    everything = {p.token: p for p in fill("这个[MASK]很好。", top_k=len(VOCAB))[0]}
    (answer,) = fill("这个[MASK]很好。", targets=["酒", "天", "##ing", "酒"])
    assert {p.token for p in answer} == {"酒", "天", "##ing"}
    assert [p.score for p in answer] == sorted((p.score for p in answer), reverse=True)
    for prediction in answer:
        assert prediction.score == pytest.approx(everything[prediction.token].score, rel=1e-5)
        assert prediction.sentence == everything[prediction.token].sentence
    assert len(fill("这个[MASK]很好。", targets=["酒", "天"], top_k=1)[0]) == 1


def test_targets_of_several_tokens(make_checkpoint, make_fill_mask):
    folder = make_checkpoint(pooler=False)
    fill = make_fill_mask(folder)
    ids = [VOCAB.index(char) for char in "酒店"]

    scores, positions = probabilities(folder, "这个[MASK][MASK]很[MASK]。")
    joint = scores[positions[0], ids[0]] * scores[positions[1], ids[1]]
    first, second = fill("这个[MASK]很[MASK]。", targets=["好", "酒店"])
    found = {p.token: p for p in first}
    assert found["酒店"].score == pytest.approx(joint, rel=1e-4)
    assert found["酒店"].sentence == "这个酒店很[MASK]。"
    assert found["酒店"].token_id is None
    assert found["好"].token_id == VOCAB.index("好")
    assert {p.sentence for p in second} == {"这个[MASK]很酒店。", "这个[MASK]很好。"}

    left, (hidden, _) = probabilities(folder, "这个[MASK]店很[MASK]。")
    right, (other, _) = probabilities(folder, "这个酒[MASK]很[MASK]。")
    pseudo = left[hidden, ids[0]] * right[other, ids[1]]
    answers = fill("这个[MASK]很[MASK]。", targets=["好", "酒店"], scoring="pseudo")[0]
    assert {p.token: p.score for p in answers}["酒店"] == pytest.approx(pseudo, rel=1e-4)


def test_targets_that_cannot_be_spelled(make_checkpoint, make_fill_mask):
    fill = make_fill_mask(make_checkpoint())
    for bad in (["魑"], [""], [], "酒店", [1]):
        with pytest.raises(InputError, match="targets:"):
            fill("[MASK]", targets=bad)
    with pytest.raises(InputError, match="scoring:"):
        fill("[MASK]", targets=["酒"], scoring="best")


def test_sentence_pairs(make_checkpoint, make_fill_mask):
    folder = make_checkpoint(pooler=False)
    pair = ("这个[MASK]好", "服务[MASK]好")
    answers = make_fill_mask(folder)(pair, top_k=3)
    scores, positions = probabilities(folder, *pair)
    for answer, position in zip(answers, positions, strict=True):
        assert [p.token_id for p in answer] == np.argsort(-scores[position], kind="stable")[:3].tolist()
    assert answers[0][0].sentence == (f"这个{answers[0][0].token.removeprefix('##')}好", "服务[MASK]好")
    assert answers[1][0].sentence == ("这个[MASK]好", f"服务{answers[1][0].token.removeprefix('##')}好")


def test_long_texts_cut_or_read_in_windows(make_checkpoint, make_fill_mask):
    fill = make_fill_mask(make_checkpoint())
    text = "的" * 10 + "[MASK]" + "是" * 80 + "[MASK]" + "不" * 20
    (cut,) = fill(text, long="truncate")
    assert [p.score for p in cut] == pytest.approx([p.score for p in fill(text[: 10 + 6 + 51])[0]], rel=1e-4)
    first, second = fill(text, long=20)
    assert first[0].sentence == text.replace("[MASK]", first[0].token.removeprefix("##"), 1)
    assert second[0].sentence.startswith(text[:90])
    # Windows begin at 0, 42 and 84: the second mask, number 91, has most context in the second.
    tail = text.replace("[MASK]", "~")[42:104].replace("~", "[MASK]")
    assert [p.score for p in second] == pytest.approx([p.score for p in fill(tail)[0]], rel=1e-4)
    with pytest.raises(InputError, match=r"no \[MASK\] to fill after it was cut"):
        fill("的" * 100 + "[MASK]", long="truncate")
    with pytest.raises(InputError, match="long:"):
        fill(text, long="cut")


def test_many_texts_at_once(make_checkpoint, make_fill_mask):
    fill = make_fill_mask(make_checkpoint())
    texts = ["[MASK]", "这个[MASK]很[MASK]。", ("[MASK]", "的"), "你" * 20 + "[MASK]"]
    for together, text in zip(fill.many(texts, tokens=40), texts, strict=True):
        for answer, alone in zip(together, fill(text), strict=True):
            assert [p.token_id for p in answer] == [p.token_id for p in alone]
            assert [p.score for p in answer] == pytest.approx([p.score for p in alone], rel=1e-4)

"""The cloze score: a trained head is told from an untrained one, and both from what cannot be judged."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import VOCAB
from yizhi.errors import InputError
from yizhi.parity.cloze import CLOZE
from yizhi.parity.plausibility import ABSENT, NOT_JUDGED, TRAINED, UNTRAINED, needed, score_head
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import open_runtime

CHARACTERS = sorted({character for text, answers in CLOZE for character in text.replace("[MASK]", "") + answers})
SPECIAL = VOCAB[:5]


class Guesser:
    """A runtime that is right about the sentences whose numbers it knows, and answers the rest by seeded chance."""

    def __init__(self, folder, knows: int):
        self.artifact = SimpleNamespace(folder=folder, description={"task": "fill-mask"})
        self._knows, self._asked = knows, 0

    def logits_at(self, inputs, positions):
        vocab = (self.artifact.folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
        logits = np.random.default_rng(self._asked).normal(size=(len(positions), len(vocab)))
        if self._asked < self._knows:
            logits[..., vocab.index(CLOZE[self._asked][1][0])] = 30.0
        self._asked += 1
        return logits.astype(np.float32)


@pytest.fixture
def folder(make_checkpoint):
    fillers = [f"[unused{number}]" for number in range(2000)]  # so that chance is low, as it is in a real vocabulary
    vocab = [*SPECIAL, *CHARACTERS, *fillers]
    return make_checkpoint("bert", config={"vocab_size": len(vocab)}, vocab=vocab)


def test_sentences_are_fit_for_the_purpose():
    assert 20 <= len(CLOZE) <= 40
    assert all(text.count("[MASK]") == 1 for text, _ in CLOZE)
    firsts = [answers[0] for _, answers in CLOZE]
    assert len(set(firsts)) == len(firsts), "one frequent guess must not be right twice"


def test_head_that_knows_the_answers_is_trained(folder):
    score = score_head(Guesser(folder, len(CLOZE)))
    assert (score.verdict, score.hits, score.scored, score.skipped) == (TRAINED, len(CLOZE), len(CLOZE), 0)
    assert score.log_probability == pytest.approx(0.0, abs=1e-3)


def test_threshold_decides(folder):
    least = score_head(Guesser(folder, 0)).needed
    assert 2 <= least <= 5
    assert score_head(Guesser(folder, 0)).verdict == UNTRAINED
    assert score_head(Guesser(folder, least)).verdict == TRAINED
    assert score_head(Guesser(folder, least - 2)).verdict == UNTRAINED


def test_random_checkpoint_is_untrained(folder, tmp_path):
    artifact = export_artifact(Checkpoint.open(folder), "onnx", tmp_path / "onnx")
    with open_runtime(artifact) as runtime:
        score = score_head(runtime)
    assert (score.verdict, score.scored) == (UNTRAINED, len(CLOZE))
    assert score.log_probability < math.log(1 / 500)


def test_sentences_with_unknown_characters_are_skipped_and_counted(make_checkpoint):
    some = sorted({character for text, answers in CLOZE[:12] for character in text.replace("[MASK]", "") + answers})
    vocab = [*SPECIAL, *some, *(f"[unused{number}]" for number in range(2000))]
    score = score_head(Guesser(make_checkpoint("bert", config={"vocab_size": len(vocab)}, vocab=vocab), 12))
    assert 12 <= score.scored < len(CLOZE)
    assert score.scored + score.skipped == len(CLOZE)
    assert score.verdict == TRAINED


def test_small_vocabulary_is_not_judged(make_checkpoint):
    score = score_head(Guesser(make_checkpoint("bert"), len(CLOZE)))
    assert (score.verdict, score.hits) == (NOT_JUDGED, 0)


@pytest.mark.parametrize("variant", ["bert-no-head", "electra-discriminator"])
def test_absent_head(make_checkpoint, tmp_path, variant):
    artifact = export_artifact(Checkpoint.open(make_checkpoint(variant)), "onnx", tmp_path / "onnx")
    with open_runtime(artifact) as runtime:
        assert score_head(runtime).verdict == ABSENT


def test_sentence_without_one_mask_is_refused(folder):
    with pytest.raises(InputError, match="expected one"):
        score_head(Guesser(folder, 0), [("今天天气很好。", "气")] * 12)


@pytest.mark.parametrize(("sentences", "chance", "expected"), [(30, 10 / 21128, 3), (1, 1e-7, 1), (5, 1.0, 6)])
def test_needed_against_the_binomial_tail(sentences, chance, expected):
    def tail(hits):
        terms = range(hits, sentences + 1)
        return sum(math.comb(sentences, k) * chance**k * (1 - chance) ** (sentences - k) for k in terms)

    assert needed(sentences, chance) == expected
    assert tail(expected) <= 1e-6
    assert tail(expected - 1) > 1e-6


def test_really_trained_checkpoint_and_the_same_under_a_random_head(shared_data, tmp_path, make_checkpoint):
    """What RoBERTa-wwm-ext-large was published as: a trained encoder under a head that was never trained."""
    from safetensors.numpy import load_file, save_file

    trained = shared_data / "checkpoints" / "zh-mini"
    headless = tmp_path / "random-head"
    headless.mkdir()
    for name in ("config.json", "vocab.txt"):
        (headless / name).symlink_to(trained / name)
    tensors = load_file(trained / "model.safetensors")
    shape = tensors["cls.predictions.transform.dense.weight"].shape
    random = np.random.default_rng(0).normal(0, 0.02, shape).astype(np.float32)
    save_file({**tensors, "cls.predictions.transform.dense.weight": random}, headless / "model.safetensors")
    verdicts = {}
    for folder in (trained, headless):
        artifact = export_artifact(Checkpoint.open(folder), "onnx", tmp_path / f"{folder.name}-onnx")
        with open_runtime(artifact) as runtime:
            verdicts[folder.name] = score_head(runtime)
    assert verdicts["zh-mini"].verdict == TRAINED
    assert verdicts["zh-mini"].hits >= 12  # 16 measured
    assert (verdicts["random-head"].verdict, verdicts["random-head"].hits) == (UNTRAINED, 0)


def test_the_mask_is_the_tokenizers_own(open_variant):
    """XLM-R's is <mask>, and the sentences say [MASK]."""
    runtime = open_variant("xlm-roberta-own-fill-mask", "onnx")
    cloze = [("北京是[MASK]国的首都", "中"), ("天[MASK]好", "地")] * 5
    assert score_head(runtime, cloze).scored == 10

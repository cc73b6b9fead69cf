"""Pretraining on: what is learnt, what is kept, and what is refused."""

import json

import numpy as np
import pytest

from tests.checkpoints import small_config, write_checkpoint, write_variant
from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.model.spec import parameters_of
from yizhi.reading.checkpoint import Checkpoint
from yizhi.training.masking import IGNORED
from yizhi.training.settings import Settings

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from yizhi.training.pretrain import Objective, prepare, pretrain  # noqa: E402

pytestmark = pytest.mark.slow

# Words of VOCAB, with spaces between; two documents.
TEXT = """我 在 北京 学习 机器 语言
他们 在 首都 学习 语言 模型
酒店 的 服务 很 好
房间 很 干净
早餐 很 好

山水 花月 春风
天地 的 风雨
我 说 你 在 中国
"""
SETTINGS = Settings(epochs=2, batch_size=4, learning_rate=1e-3, device="cpu", evaluate_every=1000)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 3, encoding="utf-8")
    return path


def objective(text, **changes):
    return Objective(**{"text": (text,), "segmenter": "spaces", "max_length": 24, **changes})


def train(base, text, out, settings=SETTINGS, new_head=False, **changes):
    return pretrain(base, objective(text, **changes), out, settings, new_head)


FAMILIES = (
    "bert",
    "bert-no-pooler",
    "bert-untied",
    "albert",
    "electra-generator",
    "megatron-bert",
    "ernie",
    "nezha",
    "roberta",
)


@pytest.mark.parametrize("variant", [*FAMILIES, "bert-splade"])
def test_the_result_is_the_checkpoint_trained_on(make_checkpoint, tmp_path, text, variant):
    base, out = make_checkpoint(variant), tmp_path / "out"
    outcome = train(base, text, out)
    assert outcome.new == ()
    with Checkpoint.open(base) as before, Checkpoint.open(out) as after:
        assert after.spec.task == "fill-mask"
        assert [p.name for p in after.parameters()] == [p.name for p in before.parameters()]
        same = {p.name for p in after.parameters() if (after.array(p.name) == before.array(p.name)).all()}
        # Masked language modelling does not reach the pooler; all else has moved.
        assert same == {p.name for p in parameters_of(before.spec.pooler)}
        assert after.vocab == before.vocab
        assert after.sentence == before.sentence
    record = json.loads((out / "metrics.json").read_text())
    assert record["masked"][0]["what"] == "words chosen"
    assert (out / "training.svg").exists()


def test_the_loss_falls_on_text_that_repeats(make_checkpoint, tmp_path, text):
    base = make_checkpoint("bert")
    settings = Settings(epochs=30, batch_size=8, learning_rate=3e-3, device="cpu", evaluate_every=1000)
    started = train(base, text, tmp_path / "start", evaluation=(text,), line_by_line=True).scores
    trained = train(base, text, tmp_path / "out", settings, evaluation=(text,), line_by_line=True).scores
    assert trained["loss"] < started["loss"] - 1
    assert trained["accuracy"] > started["accuracy"]


@pytest.mark.parametrize("variant", ["bert", "albert", "megatron-bert"])
@pytest.mark.parametrize("pairs", ["nsp", "sop"])
def test_a_head_over_pairs_is_trained_kept_and_trained_on(make_checkpoint, tmp_path, text, variant, pairs):
    base = make_checkpoint(variant)
    first = train(base, text, tmp_path / "first", pairs=pairs, evaluation=(text,))
    assert all("seq_relationship" in name or "sop_classifier" in name for name in first.new)
    assert len(first.new) == 2
    assert 0 <= first.scores["pair_accuracy"] <= 1
    with Checkpoint.open(tmp_path / "first") as checkpoint, Checkpoint.open(base) as before:
        kept = dict(checkpoint.ignored)
        assert set(first.new) == set(kept)
        heads = {name: checkpoint.ignored_array(name) for name in kept}
        pooler = checkpoint.spec.pooler.linear.weight
        assert (checkpoint.array(pooler) != before.array(pooler)).any()
    # One tiny step from there: the head is the stored one, not a new one.
    still = Settings(max_steps=1, batch_size=4, learning_rate=1e-9, device="cpu", evaluate_every=1000)
    assert train(tmp_path / "first", text, tmp_path / "second", still, pairs=pairs).new == ()
    with Checkpoint.open(tmp_path / "second") as checkpoint:
        for name, head in heads.items():
            assert checkpoint.ignored_array(name) == pytest.approx(head, abs=1e-6)


def test_two_runs_are_one(make_checkpoint, tmp_path, text):
    base = make_checkpoint("bert")
    for out in ("one", "other"):
        train(base, text, tmp_path / out, masking="ngram")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "other/model.safetensors").read_bytes()


def test_every_epoch_is_masked_anew_and_every_seed_differs(make_checkpoint, text):
    with Checkpoint.open(make_checkpoint("bert")) as checkpoint:
        sequences, again, other = (prepare(checkpoint, objective(text), seed).train for seed in (1, 1, 2))
    one, next_epoch = sequences[0, 1], sequences[1, 1]
    assert (one.row.ids == again[0, 1].row.ids).all()
    for different in (next_epoch, other[0, 1]):
        assert (one.token_targets["labels"] != different.token_targets["labels"]).any()


def test_segments_of_pairs(make_checkpoint, text):
    """In order or not, both make the text again; what comes from elsewhere is of another document."""
    text.write_text(TEXT, encoding="utf-8")
    with Checkpoint.open(make_checkpoint("bert")) as checkpoint:
        vocab = checkpoint.vocab
        found = {pairs: prepare(checkpoint, objective(text, pairs=pairs), 0).train for pairs in ("nsp", "sop")}
    documents = ["".join(part.split()) for part in TEXT.split("\n\n")]

    def segments(sequences, epoch, index):
        row, _, targets, _ = sequences.draw((epoch, index))
        assert len(row.ids) <= 24
        spelled = "".join(vocab[i] for i in row.ids)
        first, second, nothing = spelled.removeprefix("[CLS]").split("[SEP]")
        assert nothing == ""
        assert row.types.tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
        return first, second, targets["next_sentence_label"]

    orders = []
    for epoch in range(40):
        for index in range(len(found["sop"])):
            first, second, order = segments(found["sop"], epoch, index)
            orders.append(order)
            text_again = second + first if order else first + second
            assert any(text_again in document for document in documents)
        first, second, order = segments(found["nsp"], epoch, index)
        if order:
            assert not any(first in document and second in document for document in documents)
        else:
            assert any(first + second in document for document in documents)
    assert np.mean(orders) == pytest.approx(0.5, abs=0.1)


def test_macbert_puts_similar_words_in_place(make_checkpoint, tmp_path, text):
    similar = tmp_path / "similar.txt"
    similar.write_text("北京 首都 中国\n好 大\n学习 说\n", encoding="utf-8")
    with Checkpoint.open(make_checkpoint("bert")) as checkpoint:
        prepared = prepare(checkpoint, objective(text, masking="macbert", similar_words=similar), 0)
        ids = {token: index for index, token in enumerate(checkpoint.vocab)}
    train_set = prepared.train
    replaced = set()
    for epoch in range(60):
        for index in range(len(train_set)):
            feature = train_set[epoch, index]
            chosen = feature.token_targets["labels"] != IGNORED
            assert ids["[MASK]"] not in feature.row.ids
            labels, shown = feature.token_targets["labels"], feature.row.ids
            for place in np.flatnonzero(chosen[:-1]):
                if labels[place] == ids["北"]:
                    replaced.add((prepared.tokenizer.vocab[shown[place]], prepared.tokenizer.vocab[shown[place + 1]]))
    assert {("首", "都"), ("中", "国"), ("北", "京")} <= replaced
    assert {what: share for what, share, _ in train_set.statistics.rows()}["random, no similar word known"] > 0.5


def test_macbert_from_vectors(make_checkpoint, tmp_path, text):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("4 2\n北京 1 0\n首都 1 0.1\n酒店 -1 0\n房间 -1 0.1\n", encoding="utf-8")
    outcome = train(make_checkpoint("bert"), text, tmp_path / "out", masking="macbert", word_vectors=vectors)
    assert {what for what, share, _ in outcome.statistics.rows() if share > 0} > {"similar word"}


def test_a_bare_encoder_may_begin_a_head(make_checkpoint, tmp_path, text):
    outcome = train(make_checkpoint("bert-no-head"), text, tmp_path / "out", new_head=True)
    assert "cls.predictions.transform.dense.weight" in outcome.new
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.spec.task == "fill-mask"
        assert checkpoint.spec.pooler


@pytest.mark.parametrize(
    ("variant", "changes", "fault"),
    [
        ("bert-no-head", {}, "no masked-LM head; `new_head`"),
        ("bert-tagger", {}, "expected a masked-LM head; found one for token-classification"),
        ("electra-discriminator", {}, "found one for replaced-token-detection"),
        ("electra-generator", {"pairs": "sop"}, "electra has no place for a head over pairs"),
        ("bert", {"max_length": 65}, "`max_length`: expected 8 … 64; found 65"),
        ("bert", {"masking": "macbert"}, "expected either `similar_words` or `word_vectors`"),
        ("bert", {"masking": "mac"}, "expected one of bert, wwm, ngram, macbert"),
    ],
)
def test_what_cannot_be_trained(make_checkpoint, tmp_path, text, variant, changes, fault):
    with pytest.raises(InputError, match=fault):
        train(make_checkpoint(variant), text, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*partial*"))


def test_nsp_needs_documents(make_checkpoint, tmp_path):
    (tmp_path / "one.txt").write_text("北京 好\n早餐 好\n", encoding="utf-8")
    with pytest.raises(InputError, match="nsp needs at least two documents"):
        train(make_checkpoint("bert"), tmp_path / "one.txt", tmp_path / "out", pairs="nsp")


def test_the_command(tmp_path, text, capsys):
    base = write_variant(tmp_path / "base", "bert")
    command = ["pretrain", str(base), "--text", str(text), "--segmenter", "spaces"]
    assert main([*command, "--show-masking", "2"]) == 0
    shown = capsys.readouterr().out
    assert "[CLS] 我 在 北 ##京 学 ##习" in shown
    assert "15%" in shown
    assert main([*command, "--out", str(tmp_path / "out"), "--max-steps", "2", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    assert main([*command, "--out", str(tmp_path / "out"), "--max-steps", "2", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: up to date\n"
    assert main(command) == 2
    assert "--out" in capsys.readouterr().err
    assert main([*command, "--text", str(tmp_path / "none.txt"), "--show-masking", "1"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_it_exports(tmp_path, text, capsys):
    base = write_checkpoint(tmp_path / "base", small_config())
    train(base, text, tmp_path / "out", pairs="sop")
    assert main(["export", str(tmp_path / "out"), "--out", str(tmp_path / "release"), "--target", "onnx"]) == 0
    assert "1 of 1 passed" in capsys.readouterr().out

"""Sentence embeddings: the losses are their formulas, training helps, and the artifact gives the trained vectors."""

import itertools
import json
import math

import numpy as np
import pytest

from tests.artifacts import export_artifact
from tests.checkpoints import write_variant
from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.reading.checkpoint import Checkpoint
from yizhi.runtimes import Embedder, open_runtime
from yizhi.training.settings import Settings
from yizhi.training.similarity import cosines, find_matches, rank_correlation, retrieval

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from yizhi.training.embed import (  # noqa: E402
    Columns,
    Embedding,
    cosent_loss,
    read_pairs,
    read_texts,
    score,
    simcse_loss,
    train_embedding,
)

pytestmark = pytest.mark.slow

# Topics in the characters of VOCAB: pairs of one topic are alike, of two are not.
TOPICS = (
    ("北京是首都", "首都北京很大", "中国的首都"),
    ("酒店服务很好", "酒店的房间干净", "房间很干净"),
    ("学习机器语言", "语言模型学习", "机器学习模型"),
    ("春风花月", "风雨山水", "春天的花"),
)


def scored_pairs():
    texts = [(topic, text) for topic, group in enumerate(TOPICS) for text in group]
    return [(one, other, int(a == b)) for (a, one), (b, other) in itertools.combinations(texts, 2)]


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"sentence1": one, "sentence2": other, "label": score} for one, other, score in scored_pairs()]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(text for group in TOPICS for text in group) + "\n", encoding="utf-8")
    return path


def cosine(one, other):
    return float(one @ other / math.sqrt((one @ one) * (other @ other)))


def test_cosent_is_its_formula():
    rng = np.random.default_rng(0)
    vectors, scores = rng.normal(size=(12, 5)), [3.0, 1.0, 1.0, 0.5, 2.0, 3.0]
    found = [cosine(vectors[2 * pair], vectors[2 * pair + 1]) for pair in range(6)]
    total = 1.0
    for i, k in itertools.permutations(range(6), 2):
        if scores[i] > scores[k]:
            total += math.exp(20 * (found[k] - found[i]))
    loss = cosent_loss(torch.from_numpy(vectors), torch.tensor(scores))
    assert float(loss) == pytest.approx(math.log(total), rel=1e-12)


def test_cosent_has_nothing_to_say_of_equal_scores():
    vectors = torch.randn(8, 5, requires_grad=True)
    loss = cosent_loss(vectors, torch.ones(4))
    loss.backward()
    assert loss.item() == 0
    assert (vectors.grad == 0).all()


def test_simcse_is_its_formula():
    vectors = np.random.default_rng(0).normal(size=(10, 5))
    total = 0.0
    for i in range(5):
        terms = [math.exp(cosine(vectors[2 * i], vectors[2 * j + 1]) / 0.05) for j in range(5)]
        total -= math.log(terms[i] / sum(terms))
    assert float(simcse_loss(torch.from_numpy(vectors))) == pytest.approx(total / 5, rel=1e-12)


def test_retrieval_counts_the_first_match():
    candidates = np.eye(4)[[0, 1, 2, 3, 0]]
    queries = np.array([[1, 0, 0, 0], [0.9, 0.5, 0, 0], [0, 0.1, 0.2, 0.3], [0, 1, 0, 0]])
    # Ranks: candidates 0 and 4 are equal, so 4 is second; 1 comes after both; 2 is second; 3 ties with all but 1.
    matches = [frozenset({4}), frozenset({1}), frozenset({2}), frozenset({3, 1})]
    found = retrieval(queries, candidates, matches, block=3)
    assert found == {
        "recall@1": pytest.approx(1 / 4),
        "mrr": pytest.approx((1 / 2 + 1 / 3 + 1 / 2 + 1) / 4),
    }


def test_matches_are_the_pairs_of_the_highest_score():
    pairs = [("甲", "一"), ("甲", "二"), ("乙", "一"), ("丙", "三"), ("甲", "三")]
    assert find_matches(pairs, [5, 1, 5, 0, 5]) == (
        ["甲", "乙"],
        ["一", "二", "三"],
        [frozenset({0, 2}), frozenset({0})],
    )


def test_correlation():
    assert rank_correlation(np.array([0.1, 0.5, 0.4]), np.array([1, 3, 2])) == pytest.approx(1)
    assert rank_correlation(np.array([0.1, 0.1, 0.1]), np.array([1, 3, 2])) == 0
    assert cosines(np.array([[1, 0], [1, 1]]), np.array([[2, 0], [1, -1]])) == pytest.approx([1, 0])


SETTINGS = Settings(epochs=15, batch_size=16, learning_rate=1e-3, device="cpu", evaluate_every=1000)


@pytest.mark.parametrize("variant", ["bert", "albert", "electra-discriminator", "bert-tagger"])
def test_cosent_raises_the_correlation_and_the_artifact_has_it(make_checkpoint, tmp_path, pairs, variant):
    base, out = make_checkpoint(variant), tmp_path / "out"
    outcome = train_embedding(base, pairs, pairs, out, SETTINGS, Embedding("cosent"), Columns())
    assert outcome.scores["spearman"] > outcome.before["spearman"] + 0.2
    assert outcome.scores["mrr"] > outcome.before["mrr"]
    with Checkpoint.open(out) as checkpoint:
        assert checkpoint.spec.task == "features"
        folder = export_artifact(checkpoint, "onnx", tmp_path / "onnx")
    with open_runtime(folder) as runtime:
        embed = Embedder(runtime)
        found = score(read_pairs(pairs, Columns()), embed)
    assert found == pytest.approx(outcome.scores, abs=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_simcse_makes_two_passes_of_a_text_alike(make_checkpoint, tmp_path, texts, pairs, pooling):
    base = make_checkpoint("bert", config={"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1})
    outcome = train_embedding(base, texts, pairs, tmp_path / "out", SETTINGS, Embedding("simcse", pooling), Columns())
    losses = [entry["loss"] for entry in outcome.history.log if "loss" in entry]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    assert (tmp_path / "out/metrics.json").exists()


def test_simcse_needs_dropout(make_checkpoint, tmp_path, texts):
    base = make_checkpoint("bert", config={"hidden_dropout_prob": 0.0})
    with pytest.raises(InputError, match="hidden_dropout_prob: expected more than 0"):
        train_embedding(base, texts, None, tmp_path / "out", SETTINGS, Embedding("simcse"), Columns())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "faults"),
    [
        (
            "a.csv",
            "sentence1,sentence2,label\n天,地,1\n天,地,x\n天,地,nan\n",
            ["line 3: label: expected a number", "line 4"],
        ),
        (
            "a.csv",
            "sentence1,sentence2,label\n天,地,1\n天,好,1\n",
            ["expected pairs with different scores; found 2 of one"],
        ),
        ("a.csv", "sentence1,sentence2,label\n", ["found 0 of one"]),
        ("a.csv", "sentence1,label\n天,1\n", ["has no column 'sentence2'"]),
        ("a.jsonl", '{"sentence1": "天", "label": 1}\n', ["line 1: sentence2: expected a string; found nothing"]),
    ],
)
def test_pairs_that_cannot_be_used(tmp_path, name, text, faults):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_pairs(tmp_path / name, Columns())
    assert len(caught.value.faults) == len(faults)
    for found, expected in zip(caught.value.faults, faults, strict=True):
        assert expected in found


def test_texts_that_cannot_be_used(tmp_path):
    (tmp_path / "a.txt").write_text("天\n\n天\n", encoding="utf-8")
    with pytest.raises(InputError, match="two or more different texts"):
        read_texts(tmp_path / "a.txt", "sentence1")


def test_options_that_mean_nothing():
    with pytest.raises(InputError) as caught:
        Embedding("triplet", "max", scale=0)
    assert len(caught.value.faults) == 3


def test_the_base_is_not_changed(tmp_path, texts):
    base = write_variant(tmp_path / "base", "bert")
    before = (base / "model.safetensors").read_bytes()
    train_embedding(
        base, texts, None, tmp_path / "out", Settings(max_steps=1, device="cpu"), Embedding("simcse"), Columns()
    )
    assert (base / "model.safetensors").read_bytes() == before


def test_the_command(tmp_path, pairs, capsys):
    base = write_variant(tmp_path / "base", "bert")
    command = ["train-embeddings", str(base), "--train", str(pairs), "--out", str(tmp_path / "out")]
    assert main([*command, "--eval", str(pairs), "--epochs", "1", "--device", "cpu", "--freeze-layers", "1"]) == 0
    said = capsys.readouterr()
    assert "spearman" in said.out
    assert said.err.endswith(" --pooling mean --normalize\n")
    with Checkpoint.open(base) as before, Checkpoint.open(tmp_path / "out") as after:
        same = {p.name for p in after.parameters() if (after.array(p.name) == before.array(p.name)).all()}
    assert {name for name in same if ".layer.1." in name or ".layer.2." in name} == set()
    assert any(".layer.0." in name for name in same)
    assert main([*command, "--pair-column", "other"]) == 2
    assert "line 1: other: expected a string; found nothing" in capsys.readouterr().err

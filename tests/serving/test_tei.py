"""The endpoints of text-embeddings-inference."""

import numpy as np
import pytest

from yizhi.runtimes import Classifier, Embedder

TEXTS = ["北京", "中国的首都", "北京是中国的首都"]


def post(client, path, **body):
    found = client.post(path, json=body)
    assert found.status_code == 200, found.text
    return found.json()


@pytest.mark.parametrize("normalize", [True, False])
def test_embed_gives_the_librarys_vectors(client, served, normalize):
    embed = Embedder(served["words"], normalize=normalize)
    expected = np.concatenate([embed([text]) for text in TEXTS])
    for inputs, vectors in ((TEXTS, expected), (TEXTS[0], expected[:1])):
        found = post(client, "/embed", inputs=inputs, normalize=normalize)
        assert np.array_equal(np.array(found, np.float32), vectors)


def test_embed_normalizes_unless_told_otherwise(client):
    assert np.linalg.norm(post(client, "/embed", inputs="北京")) == pytest.approx(1, abs=1e-6)


def test_embed_all_gives_every_tokens_vector(client, served):
    expected = Embedder(served["words"], pooling="none", normalize=False)(TEXTS)
    found = post(client, "/embed_all", inputs=TEXTS)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(np.array(one, np.float32), other)


def test_a_prompt_is_put_before_the_text(client):
    assert post(client, "/embed", inputs="的首都", prompt_name="query") == post(client, "/embed", inputs="北京的首都")


def test_predict_gives_labels_best_first(client, served):
    expected = [{"score": one.score, "label": one.label} for one in Classifier(served["labels"])("北京")]
    assert post(client, "/predict", inputs="北京") == expected
    assert post(client, "/predict", inputs=[["北京"], ["北京", "中国"]])[0] == expected
    pair = [{"score": one.score, "label": one.label} for one in Classifier(served["labels"])(("北京", "中国"))]
    assert post(client, "/predict", inputs=["北京", "中国"]) == pair
    raw = post(client, "/predict", inputs="北京", raw_scores=True)
    assert [one["label"] for one in raw] == [one["label"] for one in expected]
    scores = np.exp([one["score"] for one in raw])
    assert scores / scores.sum() == pytest.approx([one["score"] for one in expected])


def test_rerank_gives_the_most_relevant_first(client, served):
    logits = [Classifier(served["relevance"])(("北京", text))[0].score for text in TEXTS]
    found = post(client, "/rerank", query="北京", texts=TEXTS, return_text=True)
    assert [one["index"] for one in found] == list(np.argsort(-np.array(logits), kind="stable"))
    for one in found:
        assert one["text"] == TEXTS[one["index"]]
        assert one["score"] == pytest.approx(1 / (1 + np.exp(-logits[one["index"]])))
    raw = post(client, "/rerank", query="北京", texts=TEXTS, raw_scores=True)
    assert [one["score"] for one in raw] == sorted(logits, reverse=True)
    assert "text" not in raw[0]


def test_info_describes_the_first_model_as_tei_does_and_all_in_our_way(client, served):
    found = client.get("/info").json()
    assert (found["model_id"], found["model_dtype"], found["max_input_length"]) == ("words", "int8", 64)
    assert found["model_type"] == {"embedding": {"pooling": "mean"}}
    assert [model["name"] for model in found["models"]] == list(served)
    assert len(found["model_sha"]) == 64


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/embed", {"inputs": []}, 400, "Empty"),
        ("/embed", {"inputs": 3}, 422, "Tokenizer"),
        ("/embed", {"inputs": "北" * 100}, 413, "Validation"),
        ("/embed", {"inputs": ["北", "北" * 100], "truncate": False}, 413, "Validation"),
        ("/embed", {"inputs": "北", "prompt_name": "other"}, 422, "Tokenizer"),
        ("/embed", {"inputs": "北", "truncate": "yes"}, 422, "Tokenizer"),
        ("/embed", {"inputs": "北", "truncate": True, "truncation_direction": "up"}, 422, "Tokenizer"),
        ("/embed", {"inputs": "北", "dimensions": 33}, 422, "Tokenizer"),
        ("/embed", {"inputs": ["北"] * 1025}, 413, "Validation"),
        ("/embed", {}, 422, "Tokenizer"),
        ("/predict", {"inputs": ["一", "二", "三"]}, 422, "Tokenizer"),
        ("/predict", {"inputs": "北", "model": "words"}, 404, "Validation"),
    ],
)
def test_errors_are_teis(client, path, body, status, kind):
    found = client.post(path, json=body)
    assert found.status_code == status, found.text
    assert found.json()["error_type"] == kind
    assert found.json()["error"]


def test_a_long_text_is_cut_where_that_is_asked_for(client):
    assert post(client, "/embed", inputs="北" * 100, truncate=True) == post(client, "/embed", inputs="北" * 62)
    found = post(client, "/embed", inputs="京" + "北" * 62, truncate=True, truncation_direction="Left")
    assert found == post(client, "/embed", inputs="北" * 62)


def test_every_text_that_cannot_be_used_is_named(client):
    told = client.post("/embed", json={"inputs": ["北" * 100, "北", "北" * 70]}).json()["error"]
    assert "text 1 of 3" in told
    assert "text 3 of 3" in told
    assert "text 2 of 3" not in told


def test_what_is_no_json_is_refused(client):
    found = client.post("/embed", content=b'{"inputs": ')
    assert (found.status_code, found.json()["error_type"]) == (400, "Validation")
    found = client.post("/embed", content='{"inputs": "北"}'.encode("gb18030"))
    assert (found.status_code, found.json()["error_type"]) == (400, "Validation")
    found = client.post("/embed", content=b'{"inputs": "\\ud800"}')
    assert (found.status_code, found.json()["error_type"]) == (400, "Validation")


def test_health_says_nothing(client):
    found = client.get("/health")
    assert (found.status_code, found.content) == (200, b"")

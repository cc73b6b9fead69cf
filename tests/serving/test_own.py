"""Masks, tags and answers: the fields of the command line's JSON; and Cohere's, Jina's and Hugging Face's forms."""

import json

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient

from tests.serving.running import run_models
from yizhi.cli import main
from yizhi.runtimes import Classifier

TEXTS = ["北京是中国的首都", "中国"]


def post(client, path, **body):
    found = client.post(path, json=body)
    assert found.status_code == 200, found.text
    return found.json()


def said_by(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_masks_are_filled_as_on_the_command_line(client, served, capsys):
    folder = served["words"].artifact.folder
    text = "北[MASK]是[MASK]国"
    expected = said_by(capsys, "fill-mask", folder, text, "--top-k", 3, "--json")
    assert post(client, "/fill-mask", inputs=text, top_k=3) == expected
    assert post(client, "/fill-mask", inputs=[text, "中[MASK]"], top_k=3)[0] == expected
    expected = said_by(capsys, "fill-mask", folder, text, "--targets", "京", "中", "--scoring", "pseudo", "--json")
    assert post(client, "/fill-mask", inputs=text, targets=["京", "中"], scoring="pseudo") == expected


def test_words_are_tagged_as_on_the_command_line(client, served, capsys):
    expected = said_by(capsys, "tag", served["entities"].artifact.folder, TEXTS[0], "--json")
    assert expected
    assert post(client, "/tag", inputs=TEXTS[0]) == expected
    assert post(client, "/tag", inputs=TEXTS)[0] == expected
    long = TEXTS[0] * 20
    expected = said_by(capsys, "tag", served["entities"].artifact.folder, long, "--json")
    assert post(client, "/tag", inputs=long) == expected


def test_questions_are_answered_as_on_the_command_line(client, served, capsys):
    folder, given = served["spans"].artifact.folder, ("首都", TEXTS[0])
    expected = said_by(capsys, "answer", folder, *given, "--top-k", 2, "--no-answer", "--json")
    assert len(expected) == 3
    assert post(client, "/answer", question=given[0], context=given[1], top_k=2, no_answer=True) == expected


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/fill-mask", {"inputs": "北"}, "no [MASK]"),
        ("/fill-mask", {"inputs": "[MASK]", "top_k": 0}, "top_k"),
        ("/fill-mask", {"inputs": "[MASK]", "top_k": 100_000}, "top_k: Input should be less than or equal to 1000"),
        ("/fill-mask", {"inputs": "[MASK]", "targets": []}, "targets: expected a list of words"),
        ("/fill-mask", {"inputs": "[MASK]", "targets": ["☃"]}, "cannot spell"),
        ("/fill-mask", {"inputs": "[MASK]" * 50, "targets": ["北京"] * 200}, "fewer targets"),
        ("/answer", {"question": "北" * 31, "context": "京"}, "question: expected at most 32 tokens"),
        ("/tag", {"inputs": "北" * 140_000}, "at most 131,072 characters"),
        ("/tag", {"inputs": "北" * 131_000}, "at most 131,072 tokens"),
        ("/answer", {"question": "北", "context": ""}, "expected a context with words"),
        ("/answer", {"question": "北", "context": "京", "no_answer_threshold": 1e999}, "no_answer_threshold"),
    ],
)
def test_what_cannot_be_used_is_told(client, path, body, told):
    found = client.post(path, content=json.dumps(body), timeout=60)
    assert found.status_code in (400, 413, 422)
    assert told in found.json()["error"]


# --- Cohere and Jina


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_are_ranked_as_tei_ranks_them(client, path):
    ranks = post(client, "/rerank", query="北京", texts=TEXTS)
    body = {"query": "北京", "documents": [TEXTS[0], {"text": TEXTS[1], "id": 7}], "return_documents": True}
    found = post(client, path, **body)
    assert [(one["index"], one["relevance_score"]) for one in found["results"]] == [
        (one["index"], one["score"]) for one in ranks
    ]
    assert [one["document"]["text"] for one in found["results"]] == [TEXTS[one["index"]] for one in ranks]
    assert found["model"] == "relevance"
    assert found["usage"]["total_tokens"] > 0
    assert len(post(client, path, query="北京", documents=TEXTS, top_n=1)["results"]) == 1


def test_two_labels_rank_by_the_probability_of_the_second(open_variant):
    runtime = open_variant("bert-classifier", "onnx-int8", config={"id2label": {"0": "否", "1": "是"}})
    pairs = [("北京", text) for text in TEXTS]
    expected = [{one.label: one.score for one in labels}["是"] for labels in Classifier(runtime).many(pairs)]
    with run_models({"pairs": runtime}) as address:
        found = httpx.post(f"{address}/rerank", json={"query": "北京", "texts": TEXTS}).json()
    assert {one["index"]: pytest.approx(one["score"]) for one in found} == dict(enumerate(expected))


def test_a_classifier_of_three_labels_ranks_nothing(client):
    found = client.post("/v1/rerank", json={"query": "北", "documents": ["京"], "model": "labels"})
    assert found.status_code == 404
    assert "cannot rerank" in found.json()["message"]
    assert found.json()["detail"] == found.json()["message"]


@pytest.mark.parametrize("reverse", [False, True])
def test_without_a_name_the_model_that_was_made_for_it_answers(open_variant, reverse):
    """In whatever order they are served: a reranker's mean of hidden states is no embedding."""
    two = {"config": {"id2label": {"0": "否", "1": "是"}}}
    served = {
        "relevance": open_variant("bert-regression", "onnx-int8"),
        "pairs": open_variant("bert-classifier", "onnx-int8", **two),
        "words": open_variant("bert", "onnx-int8"),
        "vectors": open_variant("bert-dimensions", "onnx-int8"),
    }
    order = list(reversed(served)) if reverse else list(served)
    with run_models({name: served[name] for name in order}) as address, httpx.Client(base_url=address) as client:
        found = {model["name"]: model["default_for"] for model in client.get("/info").json()["models"]}
        assert found == {"relevance": ["rerank"], "pairs": ["predict"], "words": ["fill-mask"], "vectors": ["embed"]}
        assert len(post(client, "/embed", inputs="北京")[0]) == 12
        named = {"inputs": "北京", "model": "relevance"}
        assert len(post(client, "/embed", **named)[0]) == 32
        assert len(post(client, "/predict", inputs="北京")) == 2
        assert client.post("/v1/rerank", json={"query": "北", "documents": ["京"]}).json()["model"] == "relevance"


def test_for_want_of_another_a_model_does_what_it_can_and_a_classifier_embeds_by_its_name(open_variant):
    runtime = open_variant("bert-regression", "onnx-int8")
    with run_models({"relevance": runtime}) as address, httpx.Client(base_url=address) as client:
        assert len(post(client, "/predict", inputs="北京")) == 1
        refused = client.post("/embed", json={"inputs": "北京"})
        assert refused.status_code == 404
        told = "no model served here was made to embed: name one in the request; served: relevance (embed, predict"
        assert refused.json()["error"].startswith(told)
    with run_models({"relevance": runtime, "words": open_variant("bert", "onnx-int8")}) as address:
        (model,) = [one for one in httpx.get(f"{address}/info").json()["models"] if "embed" in one["default_for"]]
        assert model["name"] == "words"


# --- Hugging Face


@pytest.fixture(scope="module")
def hub(address):
    return lambda path: InferenceClient(model=address + path, token="none")


def test_the_hubs_client_gets_vectors(hub, client):
    for path in ("/embed", "/models/words/pipeline/feature-extraction"):
        expected = np.array(post(client, "/embed", inputs="北京"), np.float32)
        assert np.array_equal(hub(path).feature_extraction("北京"), expected)


@pytest.mark.parametrize("path", ["", "/models/words"])
def test_the_hubs_client_fills_masks(hub, client, path):
    found = hub(path).fill_mask("北[MASK]", top_k=2)
    (expected,) = post(client, "/fill-mask", inputs="北[MASK]", top_k=2)
    assert [(one.token_str, one.token, one.score, one.sequence) for one in found] == [
        (one["token"], one["token_id"], one["score"], one["sentence"]) for one in expected
    ]


def test_the_hubs_client_gets_labels_entities_and_answers(hub, client):
    labels = hub("/models/labels").text_classification("北京", top_k=2)
    assert [(one.label, one.score) for one in labels] == [
        (one["label"], one["score"]) for one in post(client, "/predict", inputs="北京")[:2]
    ]
    entities = hub("/models/entities").token_classification(TEXTS[0])
    assert [(one.entity_group, one.word, one.start, one.end) for one in entities] == [
        (one["label"], one["text"], one["start"], one["end"]) for one in post(client, "/tag", inputs=TEXTS[0])
    ]
    found = hub("/models/spans").question_answering(question="首都", context=TEXTS[0])
    (expected,) = post(client, "/answer", question="首都", context=TEXTS[0])
    assert (found.answer, found.start, found.end) == (expected["text"], expected["start"], expected["end"])


@pytest.mark.parametrize("most", [0, -1, True, "2"])
def test_the_parameters_of_a_task_are_checked(client, most):
    found = client.post("/models/labels", json={"inputs": "北京", "parameters": {"top_k": most}})
    assert (found.status_code, found.json()["error"].partition(":")[0]) == (422, "top_k")


def test_a_task_that_a_model_cannot_do_is_told(client):
    assert "cannot fill-mask" in client.post("/models/labels/pipeline/fill-mask", json={"inputs": "x"}).json()["error"]
    assert "no task" in client.post("/models/labels/pipeline/summarization", json={"inputs": "x"}).json()["error"]

"""OpenAI's own client, unchanged."""

import base64

import numpy as np
import openai
import pytest

from yizhi.runtimes import Embedder

TEXTS = ["北京", "中国的首都", "北京是中国的首都"]


@pytest.fixture(scope="module")
def openai_client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def expected(served):
    """Our own vectors, one text at a time."""
    embed = Embedder(served["words"], normalize=True)
    return np.stack([embed([text])[0] for text in TEXTS])


@pytest.mark.parametrize("encoding", ["float", "base64", openai.NOT_GIVEN])
def test_vectors_are_those_of_the_library_bit_for_bit(openai_client, expected, encoding):
    found = openai_client.embeddings.create(model="words", input=TEXTS, encoding_format=encoding)
    vectors = [one.embedding for one in found.data]
    if encoding == "base64":
        vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
    assert np.array_equal(np.array(vectors, np.float32), expected)
    assert [one.index for one in found.data] == [0, 1, 2]
    assert found.model == "words"
    assert found.usage.prompt_tokens == found.usage.total_tokens == sum(len(text) + 2 for text in TEXTS)


def test_fewer_dimensions_have_norm_1_again(openai_client, expected):
    found = openai_client.embeddings.create(model="words", input=TEXTS[0], dimensions=5)
    vector = np.array(found.data[0].embedding)
    assert vector.shape == (5,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert vector / vector[0] == pytest.approx(expected[0, :5] / expected[0, 0], rel=1e-4)


def test_models_are_listed(openai_client):
    assert [model.id for model in openai_client.models.list()] == ["words", "labels", "relevance", "entities", "spans"]
    assert openai_client.models.retrieve("labels").id == "labels"


@pytest.mark.parametrize(
    ("given", "error", "field", "code"),
    [
        ({"model": "other", "input": "北"}, openai.NotFoundError, "model", "model_not_found"),
        ({"model": "words", "input": []}, openai.BadRequestError, "input", None),
        ({"model": "words", "input": [[1, 2]]}, openai.BadRequestError, "input", None),
        ({"model": "words", "input": "北", "dimensions": 10_000}, openai.BadRequestError, "dimensions", None),
        ({"model": "words", "input": "北" * 100}, openai.BadRequestError, None, "context_length_exceeded"),
    ],
)
def test_errors_are_openais(openai_client, given, error, field, code):
    with pytest.raises(error) as caught:
        openai_client.embeddings.create(**given)
    assert caught.value.type == "invalid_request_error"
    assert (caught.value.param, caught.value.code) == (field, code)
    assert caught.value.message

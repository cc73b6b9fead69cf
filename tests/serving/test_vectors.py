"""Vectors of artifacts that do more than pool: Dense modules, and weights of the vocabulary."""

import httpx
import numpy as np
import pytest

from tests.serving.running import run_models
from yizhi.runtimes import Embedder

TEXTS = ["北京", "中国的首都"]


def test_vectors_go_through_dense_modules_or_are_refused(open_variant):
    runtime = open_variant("bert-dense", "onnx")
    with run_models({"dense": runtime}) as address, httpx.Client(base_url=address) as client:
        found = client.post("/embed", json={"inputs": TEXTS}).json()
        np.testing.assert_array_equal(np.array(found, np.float32), Embedder(runtime)(TEXTS))
        shorter = client.post("/v1/embeddings", json={"model": "dense", "input": TEXTS, "dimensions": 5}).json()
        vectors = np.array([one["embedding"] for one in shorter["data"]])
        np.testing.assert_allclose(vectors, Embedder(runtime, dimensions=5)(TEXTS), rtol=1e-6)
        too_long = client.post("/v1/embeddings", json={"model": "dense", "input": TEXTS, "dimensions": 13})
        assert too_long.status_code == 400
        assert "expected 1 … 12; found 13" in too_long.text
        # The artifact normalizes after its Dense modules: what they gave is in no output.
        refused = client.post("/embed", json={"inputs": TEXTS, "normalize": False})
        assert 400 <= refused.status_code < 500
        assert "the artifact gives only normalized vectors" in refused.text
        assert str(runtime.artifact.folder) not in refused.text


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({}, "no model served here can embed; served: terms (fill-mask)"),
        ({"model": "terms"}, "model 'terms' cannot embed; served: terms (fill-mask)"),
    ],
    ids=["unnamed", "named"],
)
def test_splades_artifact_gives_no_dense_vector(open_variant, model, told):
    """A mean of its hidden states belongs to no model, and its weights of the vocabulary are no dense vector."""
    runtime = open_variant("bert-splade", "onnx")
    with run_models({"terms": runtime}) as address, httpx.Client(base_url=address) as client:
        for path in ("/embed", "/embed_all"):
            refused = client.post(path, json={"inputs": TEXTS, **model})
            assert (refused.status_code, refused.json()["error"]) == (404, told)
        refused = client.post("/v1/embeddings", json={"input": TEXTS, "model": "terms"})
        assert refused.json()["error"]["message"] == "model 'terms' cannot embed; served: terms (fill-mask)"
        assert client.post("/models/terms/pipeline/feature-extraction", json={"inputs": TEXTS}).status_code == 404
        found = client.get("/info").json()
        assert found["model_type"] == {"embedding": {"pooling": "splade"}}
        assert found["models"][0]["abilities"] == ["fill-mask"]

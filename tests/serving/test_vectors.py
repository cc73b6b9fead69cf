"""Vectors of artifacts that do more than pool: Dense modules, and weights of the vocabulary."""

import httpx
import numpy as np

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
        assert "the artifact gives its vectors normalized" in refused.text
        assert str(runtime.artifact.folder) not in refused.text


def test_splades_artifact_still_gives_vectors(open_variant):
    """Its weights of the vocabulary are no vector of the text; the mean is, as of any checkpoint."""
    runtime = open_variant("bert-splade", "onnx")
    with run_models({"terms": runtime}) as address, httpx.Client(base_url=address) as client:
        found = client.post("/embed", json={"inputs": TEXTS, "normalize": False}).json()
        np.testing.assert_allclose(np.array(found), Embedder(runtime, pooling="mean")(TEXTS), rtol=1e-5, atol=1e-6)
        assert client.get("/info").json()["model_type"] == {"embedding": {"pooling": "mean"}}

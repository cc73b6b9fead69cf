"""One server of small int8 artifacts, one of each task, for every test that changes nothing."""

import httpx
import pytest

from tests.serving.running import run_models

VARIANTS = {
    "words": "bert",
    "labels": "bert-classifier",
    "relevance": "bert-regression",
    "entities": "bert-tagger",
    "spans": "bert-reader",
}


@pytest.fixture(scope="session")
def served(open_variant):
    """The opened artifacts by the names that they are served under."""
    return {name: open_variant(variant, "onnx-int8") for name, variant in VARIANTS.items()}


@pytest.fixture(scope="session")
def address(served):
    with run_models(served, prompts={"query": "北京"}) as address:
        yield address


@pytest.fixture(scope="session")
def client(address):
    with httpx.Client(base_url=address) as client:
        yield client

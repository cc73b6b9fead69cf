"""The OpenAPI document, held to the server by schemathesis; and the server by what schemathesis makes up."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.serving.conftest import VARIANTS
from tests.serving.running import run_models
from yizhi.serving.app import ENDPOINTS
from yizhi.serving.openapi import describe
from yizhi.serving.protocols import huggingface

pytestmark = pytest.mark.slow

KEY = {"Authorization": "Bearer key"}
DOCUMENT = describe(ENDPOINTS, {"model": list(VARIANTS), "version": ["1"], "task": list(huggingface.TASKS)})
schema = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def guarded(served):
    with run_models(served, api_key="key") as address:
        yield address


def test_the_document_is_served(guarded):
    assert httpx.get(f"{guarded}/openapi.json").json() == DOCUMENT


@schema.parametrize()
@settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_every_endpoint_keeps_to_the_document(case, guarded):
    # A schema cannot say that a text needs a mask, nor which prompts there are.
    response = case.call_and_validate(base_url=guarded, headers=KEY, excluded_checks=[positive_data_acceptance])
    assert response.status_code != 424  # as TEI says that a model failed

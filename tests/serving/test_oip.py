"""The Open Inference Protocol, by Triton's own client and by hand."""

import json

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.serving.running import run_models

IDS = np.array([[2, 20, 21, 22, 3], [2, 30, 31, 3, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])


@pytest.fixture(scope="module")
def triton_client(address):
    client = triton.InferenceServerClient(address.removeprefix("http://"))
    yield client
    client.close()


def make_inputs(arrays, binary=True, datatype="INT64"):
    inputs = []
    for name, array in arrays.items():
        inputs.append(triton.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array.astype(np.int64 if datatype == "INT64" else np.int32), binary_data=binary)
    return inputs


def test_the_server_and_the_models_are_ready_and_described(triton_client):
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    assert triton_client.is_model_ready("words")
    assert triton_client.is_model_ready("words", "1")
    assert triton_client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = triton_client.get_model_metadata("words")
    assert described["inputs"][0] == {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}
    assert {"name": "last_hidden_state", "datatype": "FP32", "shape": [-1, -1, 32]} in described["outputs"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["INT64", "INT32"])
def test_tensors_are_those_of_the_runtime_bit_for_bit(triton_client, served, binary, datatype):
    arrays = {"input_ids": IDS, "attention_mask": MASK}
    names = ["last_hidden_state", "hidden_states.1", "logits"]
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    found = triton_client.infer("words", make_inputs(arrays, binary, datatype), outputs=wanted, request_id="7")
    expected = served["words"].run(arrays, names)
    for name in names:
        assert np.array_equal(found.as_numpy(name), expected[name])
    assert found.get_response()["id"] == "7"


def test_the_default_outputs_are_those_of_the_default_signature(triton_client, served):
    found = triton_client.infer("labels", make_inputs({"input_ids": IDS}))
    assert [output["name"] for output in found.get_response()["outputs"]] == list(
        served["labels"].signatures["serving_default"]
    )


def test_an_image_stream_has_no_outputs_of_its_own_where_no_image_is_taken(open_variant):
    runtime = open_variant("interbert", "onnx-int8")
    of_text = {name for name in runtime.outputs if "image" not in name} - {"region_logits", "match_logits"}
    with run_models({"pairs": runtime}) as address, httpx.Client(base_url=address) as client:
        assert {output["name"] for output in client.get("/v2/models/pairs").json()["outputs"]} == of_text
        tensor = {"name": "input_ids", "datatype": "INT64", "shape": [1, 3], "data": [2, 7, 3]}
        found = client.post("/v2/models/pairs/infer", json={"inputs": [tensor]}).json()["outputs"]
        assert {output["name"] for output in found} == {"logits", "last_hidden_state", "pooler_output"}
        asked = {"inputs": [tensor], "outputs": [{"name": "match_logits"}]}
        assert client.post("/v2/models/pairs/infer", json=asked).status_code == 400


def infer(client, **changes):
    tensor = {"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [2, 20, 3]} | changes
    return client.post("/v2/models/labels/infer", json={"inputs": [tensor], "outputs": [{"name": "logits"}]})


def test_nested_data_are_flat_data(client):
    assert infer(client, data=[[2, 20, 3]]).json()["outputs"] == infer(client).json()["outputs"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "ids"}, "ids: expected one of input_ids, attention_mask, token_type_ids; input_ids: missing"),
        ({"datatype": "FP32"}, "datatype: expected INT64 or INT32"),
        ({"shape": [3]}, "shape: expected [batch, length]"),
        ({"shape": [0, 3]}, "neither of them 0"),
        ({"shape": [1, 4]}, "expected 4 values; found 3"),
        ({"data": [2, 20.5, 3]}, "expected integers"),
        ({"data": [2, True, 3]}, "expected integers"),
        ({"data": [2, 1 << 70, 3]}, "expected integers"),
        ({"data": [2, 1 << 40, 3], "datatype": "INT32"}, "expected integers of INT32"),
        ({"data": [2, -1, 3]}, "expected 0 … "),
        ({"data": [2, 999_999, 3]}, "expected 0 … "),
        ({"data": None}, "neither data nor binary_data_size"),
        ({"parameters": {"binary_data_size": 24}}, "binary_data_size: expected 0 … "),
        ({"parameters": {"binary_data_size": "24"}}, "binary_data_size: expected 0 … "),
        ({"shape": [1, 100], "data": [2] * 100}, "at most 64 tokens"),
        ({"shape": [1 << 40, 1 << 40]}, "tokens in a request"),
    ],
)
def test_faults_are_told_in_the_protocols_form(client, changes, told):
    found = infer(client, **changes)
    assert found.status_code in (400, 413)
    assert told in found.json()["error"]
    assert list(found.json()) == ["error"]


def test_unknown_models_versions_and_outputs_are_refused(client, triton_client):
    inputs = make_inputs({"input_ids": IDS})
    with pytest.raises(InferenceServerException, match="no model 'other'"):
        triton_client.infer("other", inputs)
    with pytest.raises(InferenceServerException, match="only version 1"):
        triton_client.infer("words", inputs, model_version="2")
    with pytest.raises(InferenceServerException, match="score: no such output"):
        triton_client.infer("words", inputs, outputs=[triton.InferRequestedOutput("score")])


@pytest.mark.parametrize("length", ["-1", "x", "99999"])
def test_a_wrong_header_length_is_refused(client, length):
    body = json.dumps({"inputs": []})
    headers = {"inference-header-content-length": length}
    found = client.post("/v2/models/words/infer", content=body, headers=headers)
    assert found.status_code == 400
    assert "Inference-Header-Content-Length" in found.json()["error"]


def test_bytes_that_no_tensor_claims_are_refused(client):
    tensor = {"name": "input_ids", "shape": [1, 1], "datatype": "INT64", "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    body = head + np.array([2], "<i8").tobytes()
    assert client.post("/v2/models/labels/infer", content=body, headers=headers).status_code == 200
    found = client.post("/v2/models/labels/infer", content=body + b"more", headers=headers)
    assert (found.status_code, found.json()["error"]) == (400, "4 bytes after the last tensor")

"""What a server does not take on, and who may ask."""

import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serving.running import run_app, run_models
from yizhi.cli import main
from yizhi.serving.app import DIGEST_HEADER, create_app
from yizhi.serving.batcher import Batcher
from yizhi.serving.limits import Limits
from yizhi.serving.metrics import Metrics
from yizhi.serving.model import ServedModel


class Slow:
    """A runtime whose batches last until `go` is set."""

    def __init__(self, runtime):
        self._runtime = runtime
        self.go = threading.Event()
        self.began = threading.Semaphore(0)
        self.batches = []

    def run(self, inputs, outputs=None):
        self.began.release()
        assert self.go.wait(30)
        self.batches.append(inputs.input_ids.shape)
        return self._runtime.run(inputs, outputs)

    def __getattr__(self, name):
        return getattr(self._runtime, name)


@pytest.fixture
def slow(served):
    slow = Slow(served["words"])
    yield slow
    slow.go.set()


@pytest.fixture
def serve(slow):
    """`serve(seconds=1)`: the address of a server of the slow model with these limits."""
    contexts = []

    def serve(**limits):
        contexts.append(run_models({"words": slow}, limits=Limits(**limits)))
        return contexts[-1].__enter__()

    yield serve
    slow.go.set()
    for context in contexts:
        context.__exit__(None, None, None)


def ask(address, inputs="北京", path="/embed", **settings):
    return httpx.post(address + path, json={"inputs": inputs}, timeout=30, **settings)


def connect(address):
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def wait_for(address, metric):
    while metric not in httpx.get(f"{address}/metrics").text.splitlines():
        time.sleep(0.01)


def test_more_requests_than_are_taken_are_told_to_come_again(serve, slow):
    address = serve(requests=2)
    with ThreadPoolExecutor() as pool:
        taken = [pool.submit(ask, address) for _ in range(2)]
        assert slow.began.acquire(timeout=10)
        wait_for(address, "yizhi_requests_in_progress 2.0")
        refused = ask(address)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error_type"] == "Overloaded"
        assert httpx.get(f"{address}/health").status_code == 200
        slow.go.set()
        assert [one.result().status_code for one in taken] == [200, 200]
    assert ask(address).status_code == 200


def test_a_request_that_is_too_late_is_refused_and_not_computed(serve, slow):
    address = serve(seconds=0.3)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, address)
        assert slow.began.acquire(timeout=10)
        late = ask(address, "中国的首都")
        assert (late.status_code, first.result().status_code) == (504, 504)
        assert "within 0.3 seconds" in late.json()["error"]
    slow.go.set()
    assert ask(address, "中国").status_code == 200
    assert (1, 7) not in slow.batches


def test_a_client_that_has_gone_costs_nothing(serve, slow):
    address = serve()
    body = '{"inputs": "中国的首都"}'.encode()
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, address)
        assert slow.began.acquire(timeout=10)
        with connect(address) as connection:
            connection.sendall(head + body)
            wait_for(address, "yizhi_requests_in_progress 2.0")
        wait_for(address, 'yizhi_refused_total{reason="client-gone"} 1.0')
        slow.go.set()
        assert first.result().status_code == 200
    assert (1, 7) not in slow.batches


@pytest.mark.parametrize(
    ("limits", "inputs", "told"),
    [
        ({"body_bytes": 100}, "北" * 50, "at most 100 bytes"),
        ({"texts": 2}, ["北"] * 3, "batch size 3 > maximum allowed batch size 2"),
        ({"tokens": 10}, ["北京"] * 3, "at most 10 tokens in a request"),
    ],
)
def test_what_is_too_much_is_refused(serve, slow, limits, inputs, told):
    slow.go.set()
    address = serve(**limits)
    found = ask(address, inputs)
    assert found.status_code == 413
    assert told in found.json()["error"]
    assert ask(address, "北").status_code == 200


def test_vectors_of_all_tokens_are_limited_by_their_numbers(serve, slow):
    slow.go.set()
    address = serve(values=4 * 32)
    assert ask(address, "北京", "/embed_all").status_code == 200
    assert ask(address, "北京京", "/embed").status_code == 200
    assert ask(address, "北京京", "/embed_all").status_code == 413


def test_a_compressed_body_is_refused(address):
    assert ask(address, headers={"content-encoding": "gzip"}).status_code == 415


def test_a_body_without_a_length_is_cut_off_too(serve, slow):
    slow.go.set()
    address = serve(body_bytes=1000)
    found = httpx.post(f"{address}/embed", content=(b" " * 100 for _ in range(50)))
    assert found.status_code == 413


def test_a_length_that_is_none_is_refused_by_the_server(address):
    with connect(address) as connection:
        connection.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n{}")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


# --- keys


@pytest.fixture(scope="module")
def guarded(served):
    with run_models(served, api_key="a-long-key") as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.mark.parametrize(
    "given", [None, "a-long-key", "Bearer", "Bearer a-long-ke", "Bearer a-long-key2", "Basic a-long-key"]
)
def test_without_the_key_there_is_no_answer(guarded, given):
    headers = {"authorization": given} if given else {}
    for method, path in (("POST", "/embed"), ("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/info")):
        found = guarded.request(method, path, headers=headers, json={"inputs": "北"} if method == "POST" else None)
        assert (found.status_code, found.headers["www-authenticate"]) == (401, "Bearer")
        assert "a-long-key" not in found.text
    assert guarded.post("/v1/embeddings", headers=headers).json()["error"]["code"] == "invalid_api_key"


def test_a_key_of_other_characters_is_no_key(guarded):
    assert guarded.get("/info", headers={"authorization": b"Bearer \xe9\xff"}).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_key_there_is(guarded, scheme):
    assert (
        guarded.post("/embed", headers={"authorization": f"{scheme} a-long-key"}, json={"inputs": "北"}).status_code
        == 200
    )


def test_health_and_metrics_ask_for_no_key(guarded):
    for path in (
        "/health",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/words/ready",
        "/metrics",
        "/openapi.json",
    ):
        assert guarded.get(path).status_code == 200


# --- what a client learns


def test_every_answer_says_which_artifact_gave_it(client):
    found = client.post("/embed", json={"inputs": "北"})
    assert found.headers[DIGEST_HEADER] == client.get("/info").json()["models"][0]["artifact_sha256"]


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-123", True), ("x" * 65, False), ("a status=200", False), ("é", False), ("", False)]
)
def test_a_requests_id_is_given_back(client, given, kept):
    found = client.get("/info", headers={"x-request-id": given.encode()}).headers["x-request-id"]
    assert (found == given) == kept
    assert kept or re.fullmatch(r"[0-9a-f]{32}", found)


class Broken(Slow):
    def run(self, inputs, outputs=None):
        raise OSError("/secret/path: cannot be read")


def test_a_failure_tells_a_client_its_id_and_nothing_else(served):
    metrics = Metrics()
    model = ServedModel("words", Broken(served["words"]), Batcher())
    try:
        with run_app(create_app([model], metrics=metrics)) as address:
            found = ask(address, headers={"x-request-id": "7"})
            assert found.status_code == 424
            assert found.json() == {"error": "the request failed; its id is 7", "error_type": "Backend"}
            found = httpx.post(f"{address}/v1/embeddings", json={"input": "北", "model": "words"})
            assert found.json()["error"]["type"] == "server_error"
            assert 'reason="failed"} 2.0' in httpx.get(f"{address}/metrics").text
    finally:
        model.close()


def test_what_is_not_there_is_told_in_the_protocols_form(client):
    assert client.get("/nothing").json()["error"].startswith("there is no such path")
    assert client.get("/v1/nothing").json()["error"]["message"].startswith("there is no such path")
    found = client.get("/embed")
    assert (found.status_code, found.headers["allow"]) == (405, "POST")


def test_the_help_gives_the_limits_that_are_kept(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    told = capsys.readouterr().out
    limits = Limits()
    for default in (f"{limits.body_bytes >> 20} MiB", limits.texts, f"{limits.tokens:,}", limits.requests, "60"):
        assert f"(default: {default})" in told
    assert limits.seconds == 60

"""The clients of `benchmarks.serve`: what they count, and that they wait for no answer before the next is due."""

import asyncio
import json

import pytest

pytest.importorskip("starlette", reason="Starlette is not installed")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.load import arrive, keep_asking
from benchmarks.serve import judge
from tests.serving.running import run_app

DELAY = 0.05


@pytest.fixture
def server(tmp_path):
    """A slow server that refuses one text; its port, the bodies, and how many it answered at once."""
    at_once = [0, 0]  # now, and at most

    async def answer(request: Request) -> Response:
        at_once[0] += 1
        at_once[1] = max(at_once)
        await asyncio.sleep(DELAY)
        at_once[0] -= 1
        text = (await request.json())["inputs"]
        return JSONResponse([text], 429 if text == "坏" else 200)

    bodies = tmp_path / "bodies.json"
    bodies.write_text(json.dumps([{"inputs": text} for text in ("好", "很好", "北京", "坏")]))
    with run_app(Starlette(routes=[Route("/embed", answer, methods=["POST"])])) as address:
        yield int(address.rpartition(":")[2]), str(bodies), at_once


def test_clients_ask_again_when_they_have_an_answer(server):
    port, bodies, at_once = server
    found = keep_asking(port, "/embed", bodies, clients=4, requests=12)
    assert (found["answered"], found["failed"]) == (9, 3)
    assert at_once[1] == 4
    assert DELAY <= found["p50"] <= found["p99"]
    assert found["seconds"] >= 3 * DELAY


def test_requests_arrive_whether_or_not_the_server_keeps_up(server):
    port, bodies, at_once = server
    found = arrive(port, "/embed", bodies, rate=1000.0, requests=40)
    assert (found["answered"], found["failed"]) == (30, 10)
    assert at_once[1] > 4
    assert found["p50"] >= DELAY


def test_aims_are_judged(capsys):
    clients = {"answered": 90, "server_cpu": 1.0, "rate": 90.0, "p50": 0.0116, "p99": 0.02}
    found = {**dict.fromkeys(("1", "8", "64", "256"), clients), "arriving": {"p50": 0.01, "p99": 0.04}}
    judge(found, lone=0.01, bulk=(100.0, 100.0))
    told = capsys.readouterr().out
    assert "that of batches: 0.90 (at least 0.9: met)" in told
    assert "the session, by p50: 1.16 (at most 1.15: not met)" in told
    assert "80 % load: 4.00 (at most 4.0: met)" in told

"""Many callers at once: with int8, an answer is bit for bit the answer alone."""

import asyncio
import random

import httpx
import numpy as np
import pytest

from tests.serving.running import run_models

pytestmark = pytest.mark.slow

CHARACTERS = "北京中国的首都是"
CALLERS, CALLS = 12, 15


def make_requests():
    """Paths and bodies of every kind, with texts of every length."""
    draw = random.Random(20_211)

    def text(most=60):
        return "".join(draw.choices(CHARACTERS, k=draw.randint(1, most)))

    requests = []
    for _ in range(40):
        masked = text(30) + "[MASK]" + text(28)
        requests += [
            ("/embed", {"inputs": [text() for _ in range(draw.randint(1, 6))]}),
            ("/embed", {"inputs": text(), "normalize": False}),
            ("/embed_all", {"inputs": text()}),
            ("/v1/embeddings", {"input": [text()], "model": "words", "encoding_format": "base64"}),
            ("/fill-mask", {"inputs": masked, "top_k": draw.randint(1, 9)}),
            ("/predict", {"inputs": [text(25), text(25)]}),
            ("/rerank", {"query": text(20), "texts": [text(35) for _ in range(4)]}),
            ("/tag", {"inputs": text(200)}),
            ("/answer", {"question": text(10), "context": text(150), "top_k": 3}),
            ("/v2/models/words/infer", infer(draw)),
        ]
    return requests


def infer(draw):
    length = draw.choice([4, 9])
    ids = [draw.randint(5, 40) for _ in range(length)]
    tensor = {"name": "input_ids", "datatype": "INT64", "shape": [1, length], "data": ids}
    return {"inputs": [tensor], "outputs": [{"name": "last_hidden_state"}]}


async def ask_at_once(address, requests):
    found = [None] * len(requests)
    waiting = list(enumerate(requests))
    random.Random(1).shuffle(waiting)

    async def caller(client):
        while waiting:
            index, (path, body) = waiting.pop()
            answer = await client.post(path, json=body)
            assert answer.status_code == 200, answer.text
            found[index] = answer.json()

    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        await asyncio.gather(*(caller(client) for _ in range(CALLERS)))
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_under_load_are_those_alone_bit_for_bit(served, workers):
    requests = make_requests()
    with run_models(served, workers=workers, tokens=4096) as address, httpx.Client(base_url=address) as client:
        alone = [client.post(path, json=body).json() for path, body in requests]
        batches = read_batches(client)
        assert asyncio.run(ask_at_once(address, requests)) == alone
        rows, count = (after - before for after, before in zip(read_batches(client), batches, strict=True))
    assert rows / count > 1.3, "callers shared no batches: nothing was tested"


def read_batches(client):
    """Rows and batches so far, of every model."""
    lines = [line.split() for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    named = {name: float(value) for name, value in lines}
    return np.array(
        [
            sum(value for name, value in named.items() if name.startswith(f"yizhi_batch_rows_{part}"))
            for part in ("sum", "count")
        ]
    )

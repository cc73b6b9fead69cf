"""Many clients of one HTTP server, in a process of their own that uses little: it shares the machine with the server.

    python -m benchmarks.load

Requests are made beforehand, and of an answer only the status and the length are looked at. It reads what to do as
contestants do, a line of JSON each:

    {"do": "keep_asking", "port": 8080, "path": "/embed", "bodies": FILE, "clients": 64, "requests": 1000}
    {"do": "arrive", …, "rate": 100.0, "requests": 1000}

The first has so many clients, each of which asks again when it has its answer. The second sends so many a second, at
random times, whether or not the server keeps up; latencies count from when a request was due.
"""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import serve


class Connection:
    """One client's."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int:
        """Send a request and read the answer to its end; the status."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        return int(head[9:12])

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()


def make_requests(path: str, bodies: str) -> list[bytes]:
    """The bytes of each: bodies is a file of a JSON list."""
    contents = [json.dumps(body, ensure_ascii=False).encode() for body in json.loads(Path(bodies).read_text())]
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    return [head.encode() + str(len(content)).encode() + b"\r\n\r\n" + content for content in contents]


def summarize(seconds: list[float], failed: int, began: float, used: float) -> dict[str, Any]:
    """Of the requests that were answered: latencies in seconds, and what they took in all."""
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99)).tolist() if seconds else (None,) * 3
    return {
        "answered": len(seconds),
        "failed": failed,
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - used,
    }


def keep_asking(port: int, path: str, bodies: str, clients: int, requests: int) -> dict[str, Any]:
    """See above."""
    made = make_requests(path, bodies)
    left: Iterator[bytes] = islice(cycle(made), requests)
    seconds: list[float] = []
    failed = 0

    async def client() -> None:
        nonlocal failed
        connection = Connection(port)
        for request in left:
            began = time.perf_counter()
            if await connection.ask(request) == 200:
                seconds.append(time.perf_counter() - began)
            else:
                failed += 1
        connection.close()

    async def run() -> None:
        await asyncio.gather(*(client() for _ in range(clients)))

    began, used = time.perf_counter(), time.process_time()
    asyncio.run(run())
    return summarize(seconds, failed, began, used)


def arrive(port: int, path: str, bodies: str, rate: float, requests: int) -> dict[str, Any]:
    """See above. Times between arrivals are exponential."""
    made = make_requests(path, bodies)
    draw = random.Random(0)
    seconds: list[float] = []
    failed = 0
    idle: list[Connection] = []

    async def ask(request: bytes, due: float) -> None:
        nonlocal failed
        connection = idle.pop() if idle else Connection(port)
        status = await connection.ask(request)
        idle.append(connection)
        if status == 200:
            seconds.append(time.perf_counter() - due)
        else:
            failed += 1

    async def run() -> None:
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for request in islice(cycle(made), requests):
                due += draw.expovariate(rate)
                if (wait := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(ask(request, due))
        for connection in idle:
            connection.close()

    began, used = time.perf_counter(), time.process_time()
    asyncio.run(run())
    return summarize(seconds, failed, began, used)


if __name__ == "__main__":
    serve(lambda: {"keep_asking": keep_asking, "arrive": arrive})

"""A server in a thread of the test's process, on a free port of the loopback interface."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from yizhi.serving.app import create_app
from yizhi.serving.batcher import Batcher
from yizhi.serving.metrics import Metrics
from yizhi.serving.model import ServedModel


@contextmanager
def run_app(app) -> Iterator[str]:
    """The address of a server that ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def run_models(runtimes, *, workers=1, tokens=512, prompts=None, **settings) -> Iterator[str]:
    """The address of a server of these opened artifacts, by name."""
    metrics = Metrics()
    models = []
    for name, runtime in runtimes.items():
        batcher = Batcher(workers=workers, tokens=tokens, observe=metrics.observe(name))
        models.append(ServedModel(name, runtime, batcher, prompts=prompts))
    try:
        with run_app(create_app(models, metrics=metrics, **settings)) as address:
            yield address
    finally:
        for model in models:
            model.close()

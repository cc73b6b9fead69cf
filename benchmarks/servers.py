"""Servers of one vector for one text, ours and what people would use instead, each a process on a port of loopback.

python -m benchmarks.servers KIND FOLDER THREADS PORT      one of those that are a few lines of Starlette
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray

from benchmarks.processes import ROOT, Failed, environment

_TICKS = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 180


def bare_session(folder: Path, threads: int) -> Callable[[str], NDArray[np.float32]]:
    """A text's last hidden states [T, H], by the session that `yizhi serve` has: on processors with VNNI it is given
    another int8 graph than the file's, and would else be compared with that.
    """
    from yizhi.runtimes import Tokenizer, open_runtime
    from yizhi.runtimes.tokenization import pad

    runtime, tokenizer = open_runtime(folder, threads=threads), Tokenizer.open(folder)

    def run(text: str) -> NDArray[np.float32]:
        inputs = pad(tokenizer.tokenize([text]), tokenizer.pad_id)
        return runtime.run(inputs, ["last_hidden_state"])["last_hidden_state"][0]

    return run


def plain_handler(folder: Path, threads: int) -> Callable[[str], list[float]]:
    """One pass, and the mean over its tokens."""
    run = bare_session(folder, threads)
    return lambda text: run(text).mean(0).tolist()


def sentence_transformers(folder: Path, threads: int) -> Callable[[str], list[float]]:
    """`encode` of its ONNX backend, on our graph."""
    from benchmarks.bulk import sentence_transformers as open_model

    encode = open_model(folder, threads, "onnx")
    return lambda text: encode([text])[0].tolist()


HANDLERS: Mapping[str, Callable[[Path, int], Callable[[str], list[float]]]] = {
    "plain handler": plain_handler,
    "sentence-transformers": sentence_transformers,
}


class Served:
    """A server as a process, on a port of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, path: str, name: str) -> None:
        self._process = process
        self.port, self.path, self._name = port, path, name

    def wait(self, text: str) -> None:
        """For its first answer. Raises Failed."""
        body = json.dumps(self.body(text)).encode()
        address = f"http://127.0.0.1:{self.port}{self.path}"
        request = Request(address, body, {"Content-Type": "application/json"})
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                urlopen(request, timeout=60).close()
                return
            except OSError:  # nothing listens yet, or says that it is not ready
                time.sleep(0.2)
        raise Failed(f"{self._name}: no answer")

    def body(self, text: str) -> dict[str, Any]:
        """Of a request."""
        return {"model": "model", "input": [text]} if self.path == "/embeddings" else {"inputs": text}

    def cpu(self) -> float:
        """Processor seconds so far."""
        times = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / _TICKS

    def resident(self) -> int:
        """Bytes."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def only_features(artifact: Path, out: Path) -> Path:
    """A folder with one graph of an ONNX or OpenVINO artifact, the one without a head, named as peers look for it."""
    suffix, default = (".onnx", "model") if (artifact / "features.onnx").exists() else (".xml", "openvino_model")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(artifact, out, ignore=shutil.ignore_patterns(f"*{suffix}"))
    shutil.copy(artifact / f"features{suffix}", out / f"{default}{suffix}")
    return out


@contextmanager
def start(name: str, folder: Path, threads: int, venvs: Mapping[str, Path], log: Path) -> Iterator[Served]:
    """The server for the block. venvs: whose Python runs which peer. Raises Failed where it cannot be."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    cwd = ROOT
    python = venvs.get(name, Path(sys.executable))
    if name == "yizhi":
        command = [
            sys.executable,
            "-m",
            "yizhi",
            "serve",
            f"model={folder}",
            "--port",
            str(port),
            "--threads",
            str(threads),
        ]
    elif name == "infinity":
        # It takes whichever ONNX file it finds first, and finds none in a folder that is named by an absolute path.
        cwd = only_features(folder, log.with_name("infinity"))
        command = [str(python.with_name("infinity_emb")), "v2", "--model-id", ".", "--port", str(port)]
        command += ["--engine", "optimum", "--device", "cpu", "--served-model-name", "model", "--log-level", "error"]
        command += ["--no-bettertransformer", "--no-model-warmup"]
    else:
        command = [str(python), "-m", "benchmarks.servers", name, str(folder), str(threads), str(port)]
    if not Path(command[0]).exists():
        raise Failed(f"{command[0]} is not installed")
    with open(log, "wb") as output:
        process = subprocess.Popen(command, cwd=cwd, env=environment(threads), stdout=output, stderr=output)
    try:
        yield Served(process, port, "/embeddings" if name == "infinity" else "/embed", name)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    """Serve POST /embed until the process is ended."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request as Asked
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    kind, folder, threads, port = sys.argv[1:]
    embed = HANDLERS[kind](Path(folder), int(threads))

    async def answer(request: Asked) -> JSONResponse:
        text = (await request.json())["inputs"]
        return JSONResponse([embed(text) if kind == "plain handler" else await run_in_threadpool(embed, text)])

    app = Starlette(routes=[Route("/embed", answer, methods=["POST"])])
    uvicorn.run(app, port=int(port), access_log=False, log_level="warning")


if __name__ == "__main__":
    main()

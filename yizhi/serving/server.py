"""`yizhi serve`: opens and checks artifacts, then serves them until the process gets a signal."""

import asyncio
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from yizhi.errors import InputError
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.release.manifest import MANIFEST, is_meant_as_release, read_manifest
from yizhi.runtimes.base import open_runtime
from yizhi.runtimes.batching import TOKENS
from yizhi.runtimes.tasks import GENERATION
from yizhi.serving.admission import ask_golden, check_files
from yizhi.serving.app import Server, create_app
from yizhi.serving.batcher import Batcher
from yizhi.serving.limits import Limits
from yizhi.serving.log import Log, log_config
from yizhi.serving.metrics import Metrics
from yizhi.serving.model import ServedModel

if TYPE_CHECKING:
    from yizhi.release.signers import Checker

# Of a release, the first of these that it has is served.
PREFERRED = (
    *("onnx-int8", "openvino-int8", "onnx", "openvino"),
    *("pytorch", "tensorflow", "flax", "litert-int8", "litert"),
)
# The environment variable with the key that clients must give.
KEY = "YIZHI_API_KEY"
# Seconds that an idle connection is kept: more than the 60 of most load balancers, which would send into a closed one.
KEEP_ALIVE = 75
# Seconds that connections on which nothing is asked are kept once the server is to end.
_LINGER, _TICK = 1.0, 0.02


@dataclass(frozen=True)
class Settings:
    """How artifacts are opened, and where they are served.

    batch_tokens: of one batch, including padding. workers: batches computed at once, for each model.
    prompts: texts to put before a text, by the name in a request. checker: checks the required signature; None for
    none.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    device: str = "cpu"
    threads: int | None = None
    workers: int = 1
    batch_tokens: int = TOKENS
    limits: Limits = field(default_factory=Limits)
    prompts: Mapping[str, str] = field(default_factory=dict)
    checker: "Checker | None" = None
    json_logs: bool = False


def find_artifacts(given: Sequence[str]) -> dict[str, Path]:
    """Each model's name and its artifact's folder.

    given: folders of artifacts or of releases, each with an optional NAME= before it. By default a model has its
    release's name, or the artifact folder's name outside a release.
    Raises InputError, listing every fault, for other folders, and for two models with one name.
    """
    found: dict[str, Path] = {}
    faults = []
    for text in given:
        name, _, path = text.rpartition("=") if not Path(text).exists() else ("", "", text)
        try:
            folder = _choose_artifact(Path(path))
            faults += _find_useless(Artifact.read(folder))
        except InputError as error:
            faults += [f"{error.subject}: {fault}" for fault in error.faults]
            continue
        whole = folder.resolve()
        name = name or (whole.parent if (whole.parent / MANIFEST).exists() else whole).name
        if "/" in name:
            faults.append(f"{text}: {name}: a path of the server cannot hold a name with / in it")
        if name in found:
            faults.append(f"{text}: {name} is already the name of {found[name]}; give another name, as NAME={path}")
        found[name] = folder
    if faults:
        raise InputError("models", faults)
    return found


def _find_useless(artifact: Artifact) -> list[str]:
    """A fault for an artifact that no endpoint has a use for: no endpoint generates text."""
    if artifact.description["task"] != GENERATION or artifact.description.get("pooling"):
        return []
    return [
        f"{artifact.folder}: is a causal language model, and no endpoint generates text: `yizhi export` with `pooling` "
        "last makes an artifact whose vectors can be served"
    ]


def _choose_artifact(folder: Path) -> Path:
    if (folder / DESCRIPTION).exists() or not is_meant_as_release(folder):
        Artifact.read(folder)
        return folder
    has = read_manifest(folder)["artifacts"]
    for target in PREFERRED:
        if target in has:
            return folder / target
    raise InputError(folder, f"expected an artifact of {', '.join(PREFERRED)}; found {', '.join(has) or 'none'}")


@contextmanager
def open_models(
    artifacts: Mapping[str, Path], settings: Settings, metrics: Metrics, log: Log
) -> Iterator[list[ServedModel]]:
    """Check and open each artifact for the block.

    Raises CheckFailed if a file was altered or a golden answer differs.
    """
    with ExitStack() as stack:
        models = []
        for name, folder in artifacts.items():
            checked = check_files(Artifact.read(folder), settings.checker)
            runtime = open_runtime(folder, device=settings.device, threads=settings.threads)
            stack.callback(runtime.close)
            checked = ask_golden(runtime, checked)
            if not checked.golden_answers:
                why = "lies in no release" if checked.golden_answers is None else "its release has no golden answers"
                log.say(f"{folder}: {why}: its files were hashed, its answers compared with nothing")
            batcher = Batcher(tokens=settings.batch_tokens, workers=settings.workers, observe=metrics.observe(name))
            model = ServedModel(name, runtime, batcher, prompts=settings.prompts, checked=checked)
            stack.callback(model.close)
            models.append(model)
        yield models


def serve(artifacts: Mapping[str, Path], settings: Settings, api_key: str | None) -> None:
    """Serve until SIGTERM or SIGINT. Accepted requests are answered first.

    The address is reserved at once, and accepts requests when the models are ready. Raises InputError if the address
    cannot be used.
    """
    metrics, log = Metrics(), Log(sys.stderr, settings.json_logs)
    with bind(settings.host, settings.port) as listener, open_models(artifacts, settings, metrics, log) as models:
        app = create_app(models, limits=settings.limits, api_key=api_key, metrics=metrics, log=log)
        config = uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            log_config=log_config(settings.json_logs),
            server_header=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE,
        )
        told = f"serving {', '.join(artifacts)} at {show_address(listener)}"
        _Listener(config, app.state.server, told).run([listener])


def bind(host: str, port: int) -> socket.socket:
    """A socket that has an address and does not listen yet. port: 0 for any free port.

    Raises InputError if the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError("`host`", f"{host}: {error.strerror}") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise InputError("`host` and `port`", f"{host}, {port}: {error.strerror}") from None
    return found


def show_address(listener: socket.socket) -> str:
    """The server's address for clients."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Listener(uvicorn.Server):
    """uvicorn's server. It logs when it listens, and tells the application when it shuts down."""

    def __init__(self, config: uvicorn.Config, server: Server, told: str) -> None:
        super().__init__(config)
        self._server = server
        self._told = told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        self._server.log.say(self._told)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which closes idle connections at once and would lose a request that is on its way.

        So clients learn with their next answer that the connection ends. Idle connections are closed last.
        """
        for server in self.servers:
            server.close()
        for _ in range(round(_LINGER / _TICK)):
            if not self.server_state.connections or self.force_exit:
                break
            await asyncio.sleep(_TICK)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End when the last request has been answered; at a second signal, at once.

        uvicorn's own method raises the signal again at the end. The process would then end as if it had been killed.
        """
        self._server.draining = True
        self.force_exit = self.should_exit
        self.should_exit = True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def read_key(file: Path | None) -> str | None:
    """The key from the file, or from the environment. Never from the command line, which every user can read."""
    key = os.environ.get(KEY) if file is None else file.read_bytes().decode("ascii", errors="replace")
    if key is None:
        return None
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise InputError(file or KEY, "expected a key of ASCII characters on one line")
    return key

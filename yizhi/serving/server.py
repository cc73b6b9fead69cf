"""`yizhi serve`: artifacts opened and checked, then served until the process is told to end."""

import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from yizhi.errors import InputError
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.release.manifest import MANIFEST, read_manifest
from yizhi.runtimes.base import open_runtime
from yizhi.runtimes.batching import TOKENS
from yizhi.serving.admission import ask_golden, check_files
from yizhi.serving.app import create_app
from yizhi.serving.batcher import Batcher
from yizhi.serving.limits import Limits
from yizhi.serving.log import AccessLog
from yizhi.serving.metrics import Metrics
from yizhi.serving.model import ServedModel

# Of a release, the first of these that it has is served.
PREFERRED = ("onnx-int8", "onnx", "pytorch", "tensorflow", "flax")
KEY_VARIABLE = "YIZHI_API_KEY"


@dataclass(frozen=True)
class Settings:
    """How artifacts are opened, and where they are served.

    batch_tokens: of one batch, padding included. workers: batches computed at once, of each model.
    prompts: text to put before a text, by the name that a request gives.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    device: str = "cpu"
    threads: int | None = None
    workers: int = 1
    batch_tokens: int = TOKENS
    limits: Limits = field(default_factory=Limits)
    prompts: Mapping[str, str] = field(default_factory=dict)
    public_key: Path | None = None
    json_logs: bool = False


def find_artifacts(given: Sequence[str]) -> dict[str, Path]:
    """Each model's name and its artifact's folder.

    given: folders of artifacts or of releases, each after a NAME= where it is not to be called as its release is.
    Raises InputError, listing every fault, for what is neither, and for two of one name.
    """
    found: dict[str, Path] = {}
    faults = []
    for text in given:
        name, _, path = text.rpartition("=") if not Path(text).exists() else ("", "", text)
        try:
            folder = _choose_artifact(Path(path))
        except InputError as error:
            faults += [f"{error.subject}: {fault}" for fault in error.faults]
            continue
        name = name or folder.resolve().parent.name
        if name in found:
            faults.append(f"{text}: {name} is the name of {found[name]} already; give it another, as NAME={path}")
        found[name] = folder
    if faults:
        raise InputError("models", faults)
    return found


def _choose_artifact(folder: Path) -> Path:
    if (folder / DESCRIPTION).exists() or not (folder / MANIFEST).exists():
        Artifact.read(folder)
        return folder
    has = read_manifest(folder)["artifacts"]
    return folder / next(target for target in PREFERRED if target in has)


@contextmanager
def open_models(artifacts: Mapping[str, Path], settings: Settings, metrics: Metrics) -> Iterator[list[ServedModel]]:
    """Check and open each artifact for the block.

    Raises CheckFailed where a file was altered or a golden answer differs.
    """
    with ExitStack() as stack:
        models = []
        for name, folder in artifacts.items():
            checked = check_files(Artifact.read(folder), settings.public_key)
            runtime = open_runtime(folder, device=settings.device, threads=settings.threads)
            stack.callback(runtime.close)
            checked = ask_golden(runtime, checked)
            batcher = Batcher(tokens=settings.batch_tokens, workers=settings.workers, observe=metrics.observe(name))
            limits = settings.limits
            model = ServedModel(name, runtime, batcher, prompts=settings.prompts, tokens=limits.tokens, checked=checked)
            stack.callback(model.close)
            models.append(model)
        yield models


def serve(artifacts: Mapping[str, Path], settings: Settings, api_key: str | None) -> None:
    """Serve until SIGTERM or SIGINT; requests that were accepted are answered first."""
    metrics = Metrics()
    with open_models(artifacts, settings, metrics) as models:
        app = create_app(
            models,
            limits=settings.limits,
            api_key=api_key,
            metrics=metrics,
            log=AccessLog(sys.stderr, settings.json_logs),
        )
        config = uvicorn.Config(
            app,
            settings.host,
            settings.port,
            access_log=False,
            log_level="warning",
            server_header=False,
            lifespan="off",
        )
        _Announcing(config, ", ".join(artifacts)).run()


class _Announcing(uvicorn.Server):
    """Says where it listens once it does: the port may have been any that was free."""

    def __init__(self, config: uvicorn.Config, names: str) -> None:
        super().__init__(config)
        self._names = names

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        if not self.started:
            return
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"yizhi: serving {self._names} at http://{shown}:{port}", file=sys.stderr, flush=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

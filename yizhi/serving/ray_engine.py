"""`yizhi serve` on a Ray cluster: the same application in replicas that Ray Serve starts, ends and replaces.

Ray's proxies accept the requests. A proxy picks two replicas and gives the request to the one with fewer. `app` is for
Ray's own commands, `serve run` and `serve deploy`. `serve_on_ray` is for ours.
"""

import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PositiveInt
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from yizhi.cluster import connect, first_line
from yizhi.errors import InputError, NotRun
from yizhi.release.artifact import DESCRIPTION, Artifact
from yizhi.runtimes.batching import TOKENS
from yizhi.serving.admission import Checked, check_files
from yizhi.serving.app import REQUEST_ID, create_app
from yizhi.serving.limits import Limits
from yizhi.serving.log import Log
from yizhi.serving.metrics import Metrics
from yizhi.serving.model import ServedModel
from yizhi.serving.server import KEEP_ALIVE, Settings, bind, find_artifacts, open_models, read_key, show_address
from yizhi.storage.digests import sha256_of_file

if TYPE_CHECKING:
    from yizhi.release.signers import Checker

try:
    import ray
    from ray import serve
except ImportError as error:
    raise NotRun("the Ray engine", f"needs {error.name}: pip install 'yizhi[ray-serve]'") from None

# Of Ray Serve's application and its one deployment.
NAME = "yizhi"
# Seconds that a replica which is to end has beyond the limit of a request.
_GRACE = 5.0
_TICK = 0.2


@dataclass(frozen=True)
class Replicas:
    """The number of processes with the models, in Ray Serve's words.

    target_ongoing_requests: of a replica, being read, computed or waiting. A higher average starts another replica, as
    long as the cluster has processors for one. upscale_delay_s, downscale_delay_s: how long the average must last.
    """

    min_replicas: int = 1
    max_replicas: int = 4
    target_ongoing_requests: float = 16.0
    upscale_delay_s: float = 5.0
    downscale_delay_s: float = 300.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            found = f"{self.min_replicas} and {self.max_replicas}"
            raise InputError(
                "`min_replicas` and `max_replicas`",
                f"expected 1 or more, and a maximum of at least the minimum; {found}",
            )


@dataclass(frozen=True)
class Served:
    """The artifacts that every replica must find on the same paths, and the facts found on the starting machine.

    checked: the facts of each artifact. Replicas need not check the signature again, because `digests` proves the same
    files. digests: of each `artifact.json`, which has the digests of all other files.
    """

    artifacts: Mapping[str, Path]
    checked: Mapping[str, Checked]
    digests: Mapping[str, str]

    @classmethod
    def find(cls, given: Mapping[str, Path], checker: "Checker | None" = None) -> "Served":
        """Find and check the artifacts. Raises CheckFailed and InputError as `check_files` does."""
        artifacts = {name: Artifact.read(folder.resolve()) for name, folder in given.items()}
        return cls(
            {name: artifact.folder for name, artifact in artifacts.items()},
            {name: check_files(artifact, checker) for name, artifact in artifacts.items()},
            {name: sha256_of_file(artifact.folder / DESCRIPTION) for name, artifact in artifacts.items()},
        )

    @contextmanager
    def open(self, settings: Settings, metrics: Metrics, log: Log) -> Iterator[list[ServedModel]]:
        """As `open_models`. Raises InputError, listing every fault, if this machine has other artifacts."""
        faults = []
        for name, folder in self.artifacts.items():
            if not (folder / DESCRIPTION).is_file():
                faults.append(f"{folder}: no artifact on this path, which every node must have")
            elif (found := sha256_of_file(folder / DESCRIPTION)) != self.digests[name]:
                faults.append(f"{folder}: is another artifact: expected sha256 {self.digests[name]}; found {found}")
        if faults:
            raise InputError("models", faults)
        with open_models(self.artifacts, settings, metrics, log) as models:
            for model in models:
                expected, release = self.checked[model.name], model.checked.release_sha256
                if release != expected.release_sha256:
                    told = f"lies in another release: expected sha256 {expected.release_sha256}; found {release}"
                    raise InputError(self.artifacts[model.name], told)
                model.checked = replace(model.checked, signed_by=expected.signed_by)
            yield models


class Replica:
    """One process with the models. It is ready when it has hashed their files and answered their golden texts."""

    def __init__(self, served: Served, settings: Settings, api_key: str | None) -> None:
        """Raises CheckFailed and InputError as `Served.open` does."""
        self._open = ExitStack()  # for as long as the replica lives
        self._metrics, self._log = Metrics(), Log(sys.stderr, settings.json_logs)
        self._models = self._open.enter_context(served.open(settings, self._metrics, self._log))
        self._settings, self._api_key = settings, api_key

    def __serve_build_asgi_app__(self) -> Starlette:
        """Ray Serve asks for it once."""
        app = create_app(
            self._models,
            limits=self._settings.limits,
            api_key=self._api_key,
            metrics=self._metrics,
            log=self._log,
        )
        app.add_middleware(_LeaveIdToProxy)
        return app

    def __del__(self) -> None:
        """Ray Serve calls it when the last request has been answered."""
        if opened := getattr(self, "_open", None):
            opened.close()


class _LeaveIdToProxy:
    """Removes our request id from answers: Ray's proxy adds its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[REQUEST_ID]
            await send(message)

        await self._app(scope, receive, send_without_id)


def deploy(served: Served, settings: Settings, replicas: Replicas, api_key: str | None) -> serve.Application:
    """The application in the form that Ray Serve takes."""
    settings = _settle(settings)
    most = settings.limits.requests
    deployment: Any = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        # A batch is made of requests that wait in one replica: Ray's own default would let 5 in.
        max_ongoing_requests=most,
        max_queued_requests=most,
        autoscaling_config=vars(replicas),
        graceful_shutdown_timeout_s=settings.limits.seconds + _GRACE,
        ray_actor_options=_resources(settings),
        # Each request has its line from us.
        logging_config={"enable_access_log": False},
    )
    application: serve.Application = deployment.bind(served, settings, api_key)
    return application


def _settle(settings: Settings) -> Settings:
    """The settings of a replica: with processors of its own, and without checking the signature again."""
    return replace(settings, threads=settings.threads or 1, checker=None)


def _resources(settings: Settings) -> dict[str, Any]:
    """The resources of one replica on its node."""
    return {"num_cpus": (settings.threads or 1) * settings.workers, "num_gpus": int(settings.device == "cuda")}


def serve_on_ray(
    artifacts: Mapping[str, Path],
    settings: Settings,
    replicas: Replicas,
    address: str | None,
    api_key: str | None,
) -> None:
    """Serve on the cluster at `address`, in the form of `connect`, until SIGTERM or SIGINT.

    Accepted requests are answered first. Raises CheckFailed and InputError if a worker of the cluster finds other
    artifacts, or cannot open them. Raises InputError if the address cannot be used.
    """
    log = Log(sys.stderr, settings.json_logs)
    served = Served.find(artifacts, settings.checker)
    with bind(settings.host, settings.port) as listener:  # or Ray would say in its logs that it cannot be had
        shown, port = show_address(listener), listener.getsockname()[1]
    settings = _settle(settings)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    with connect(address, None):
        over = _wait_for_signals()  # Ray's own handlers, which it has set by now, abort the process
        if serve.status().proxies:
            told = "Ray Serve runs there already, at its own address: use `serve run` or `serve deploy`"
            raise InputError("the Ray engine", told)
        _tell_of_missing(settings, replicas, log)
        try:
            _try_out(served, settings, over)
            serve.start(
                http_options={"host": settings.host, "port": port, "keep_alive_timeout_s": KEEP_ALIVE},
                logging_config={"enable_access_log": False},
            )
            application = serve.RunTarget(deploy(served, settings, replicas, api_key), NAME)
            serve.run_many([application], wait_for_applications_running=False)
            _wait_for_replicas(over)
            if not over.is_set():
                log.say(f"serving {', '.join(artifacts)} at {shown} on Ray")
            over.wait()
            serve.delete(NAME)  # when each replica has answered what it has
        finally:
            serve.shutdown()


def _wait_for_signals() -> threading.Event:
    """An event that SIGTERM or SIGINT sets. The second signal ends the process at once."""
    over = threading.Event()

    def end(number: int, _: FrameType | None) -> None:
        over.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return over


def _tell_of_missing(settings: Settings, replicas: Replicas, log: Log) -> None:
    """Log if the fewest replicas do not fit the cluster. A cluster may grow, so the server waits."""
    has = ray.cluster_resources()
    for name, each in (("CPU", _resources(settings)["num_cpus"]), ("GPU", _resources(settings)["num_gpus"])):
        if has.get(name, 0) < (needed := each * replicas.min_replicas):
            log.say(f"the cluster has {has.get(name, 0):g} {name}, and replicas need {needed:g}: waiting for more")


def _try_out(served: Served, settings: Settings, over: threading.Event) -> None:
    """Open the artifacts once in the cluster. Ray restarts a failing replica for ever, and only logs the reason."""

    def open_once() -> None:
        with served.open(settings, Metrics(), Log()):
            pass

    opening = ray.remote(max_retries=0, **_resources(settings))(open_once).remote()
    try:
        while not over.is_set() and not ray.wait([opening], timeout=_TICK)[0]:
            pass
        if not over.is_set():
            ray.get(opening)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise InputError("the Ray engine", f"a worker ended as it opened the artifacts: {first_line(error)}") from None


def _wait_for_replicas(over: threading.Event) -> None:
    """Wait until the fewest replicas are ready. Raises InputError if they cannot become ready."""
    while not over.wait(_TICK):
        found = serve.status().applications[NAME]
        if found.status == "RUNNING":
            return
        if found.status == "DEPLOY_FAILED":
            raise InputError("the Ray engine", f"replicas could not be started: {found.message}")


class Arguments(BaseModel):
    """The arguments of `serve run` and of a Serve config file: the options of `yizhi serve`."""

    model_config = ConfigDict(extra="forbid")

    models: Annotated[list[str], BeforeValidator(lambda given: given.split() if isinstance(given, str) else given)]
    device: str = "cpu"
    threads: PositiveInt | None = None
    workers: PositiveInt = 1
    batch_tokens: PositiveInt = TOKENS
    limits: Limits = Limits()
    prompts: dict[str, str] = {}
    json_logs: bool = False
    replicas: Replicas = Replicas()
    api_key_file: Path | None = None
    public_key: Path | None = None


def app(arguments: Arguments) -> serve.Application:
    """For Ray's commands: `serve run yizhi.serving.ray_engine:app models=dist/NAME`, or the `args` of a config file.

    Host and port are Ray Serve's own settings.
    """
    names = ("device", "threads", "workers", "batch_tokens", "limits", "prompts", "json_logs")
    settings = Settings(**{name: getattr(arguments, name) for name in names})
    checker = None
    if arguments.public_key:
        from yizhi.release.key_signer import KeyChecker

        checker = KeyChecker(arguments.public_key)
    served = Served.find(find_artifacts(arguments.models), checker)
    return deploy(served, settings, arguments.replicas, read_key(arguments.api_key_file))

"""Prometheus metrics of requests and batches."""

from collections.abc import Callable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from yizhi.serving.batcher import BatchReport
from yizhi.serving.model import ServedModel
from yizhi.serving.refusals import Refused

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)


class Metrics:
    """One application's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("yizhi_requests", "Requests answered", ["path", "status"], registry=registry)
        self._refused = Counter("yizhi_refused", "Requests refused, by reason", ["reason"], registry=registry)
        self._seconds = Histogram(
            "yizhi_request_seconds", "From a request to its answer", ["path"], buckets=_SECONDS, registry=registry
        )
        self._queue = self._batches("queue_seconds", "A row's wait for its batch", _SECONDS)
        self._compute = self._batches("compute_seconds", "A batch in the model", _SECONDS)
        self._tokens = self._batches("batch_tokens", "Tokens of a batch, without padding", _TOKENS)
        self._rows = self._batches("batch_rows", "Rows of a batch", _ROWS)
        self._padding = self._batches("batch_padding_share", "Padding among the tokens of a batch", _SHARES)
        self.in_progress = Gauge("yizhi_requests_in_progress", "Requests being answered", registry=registry)
        self._waiting = Gauge("yizhi_waiting_rows", "Rows in the queue", ["model"], registry=registry)
        self._info = Gauge(
            "yizhi_model_info", "1 for each model served", ["model", "target", "artifact_sha256"], registry=registry
        )

    def _batches(self, name: str, told: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"yizhi_{name}", told, ["model"], buckets=buckets, registry=self.registry)

    def request(self, path: str, status: int, seconds: float, refused: Refused | None) -> None:
        """Count a request. path: the endpoint's, not the client's, so that there are few."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)
        if refused:
            self._refused.labels(refused.kind.name).inc()

    def observe(self, model: str) -> Callable[[BatchReport], None]:
        """Count a batch. A model's batcher calls this."""

        def observe(report: BatchReport) -> None:
            for seconds in report.waited:
                self._queue.labels(model).observe(seconds)
            self._compute.labels(model).observe(report.computed)
            self._tokens.labels(model).observe(report.tokens)
            self._rows.labels(model).observe(report.rows)
            self._padding.labels(model).observe(report.padding / (report.tokens + report.padding))

        return observe

    def serve(self, model: ServedModel) -> None:
        """Count a served model."""
        self._info.labels(model.name, model.runtime.artifact.target, model.digest).set(1)
        self._waiting.labels(model.name).set_function(lambda: model.batcher.waiting)

    def route(self) -> Route:
        """The route `/metrics`. It needs no key."""

        def show(_: Request) -> Response:
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

        return Route("/metrics", show)

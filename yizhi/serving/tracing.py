"""A span for each request, as a part of the caller's trace, if OpenTelemetry is installed and set up."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from yizhi.serving.endpoint import Exchange

try:
    from opentelemetry import propagate, trace
except ImportError:
    trace = None  # type: ignore[assignment]


def start_span(name: str, headers: Mapping[str, str]) -> AbstractContextManager[Any]:
    """A server's span under the span of the headers, current in the block. Does nothing without OpenTelemetry."""
    if trace is None:
        return nullcontext()
    tracer = trace.get_tracer("yizhi.serving")
    return tracer.start_as_current_span(name, context=propagate.extract(headers), kind=trace.SpanKind.SERVER)


def describe_span(span: Any, path: str, status: int, exchange: Exchange) -> None:
    """Record in a span how its request ended, in the names of OpenTelemetry's semantic conventions."""
    if span is None:
        return
    said = {"http.route": path, "http.response.status_code": status, "http.request.header.x-request-id": exchange.id}
    if exchange.model:
        said |= {"gen_ai.request.model": exchange.model.name, "gen_ai.usage.input_tokens": exchange.tokens}
    span.set_attributes(said)

"""What those who run a server see: metrics, a dashboard of them, logs and traces."""

import io
import json
import logging
import re

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.imports import ROOT
from tests.serving.running import run_models
from yizhi.serving import tracing
from yizhi.serving.log import JsonFormatter, Log
from yizhi.serving.metrics import Metrics

DASHBOARD = ROOT / "docs" / "serving" / "grafana-dashboard.json"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def read(address):
    lines = [line for line in httpx.get(f"{address}/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_requests_and_batches_are_counted(served):
    with run_models({"words": served["words"]}) as address:
        assert httpx.post(f"{address}/embed", json={"inputs": ["北京", "中国的首都"]}).status_code == 200
        assert httpx.post(f"{address}/embed", json={"inputs": []}).status_code == 400
        assert httpx.get(f"{address}/made-up-{'x' * 50}").status_code == 404
        found = read(address)
    assert found['yizhi_requests_total{path="/embed",status="200"}'] == 1
    assert found['yizhi_requests_total{path="/embed",status="400"}'] == 1
    assert found['yizhi_requests_total{path="other",status="404"}'] == 1
    assert found['yizhi_refused_total{reason="empty"}'] == 1
    assert found['yizhi_batch_rows_sum{model="words"}'] == 2
    assert found['yizhi_batch_tokens_sum{model="words"}'] == 11
    assert found['yizhi_queue_seconds_count{model="words"}'] == 2
    assert found['yizhi_batch_padding_share_sum{model="words"}'] == pytest.approx(3 / 14)
    assert found['yizhi_waiting_rows{model="words"}'] == found["yizhi_requests_in_progress"] == 0
    assert not any("made-up" in name for name in found)


def test_the_dashboard_shows_metrics_that_there_are():
    known = {metric.name for metric in Metrics().registry.collect()}
    queries = re.findall(r"yizhi_\w+", DASHBOARD.read_text(encoding="utf-8"))
    assert len(set(queries)) >= 10
    assert {re.sub("_(total|bucket|sum|count)$", "", name) for name in queries} <= known
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert all(panel["targets"] for panel in panels)


def test_a_line_is_for_people_or_for_machines(served):
    for as_json in (False, True):
        stream = io.StringIO()
        with run_models({"words": served["words"]}, log=Log(stream, as_json)) as address:
            httpx.post(f"{address}/embed", json={"inputs": "北京"}, headers={"x-request-id": "7"})
            httpx.get(f"{address}/health")  # a probe, of which nothing is told
            httpx.get(f"{address}/%0Awrong%1b")
        first, second = stream.getvalue().splitlines()
        if as_json:
            assert {"path": "/embed", "status": 200, "tokens": 4, "model": "words"}.items() <= json.loads(first).items()
        else:
            assert "path=/embed status=200" in first
            assert "request_id=7" in first
        assert "\x1b" not in second


def test_a_failure_is_one_line_of_json():
    try:
        raise ValueError("many\nlines")
    except ValueError:
        record = logging.getLogger("uvicorn").makeRecord("", 40, "", 0, "it %s", ("failed",), True)
        record.exc_info = __import__("sys").exc_info()
    (line,) = JsonFormatter().format(record).splitlines()
    said = json.loads(line)
    assert (said["level"], said["message"]) == ("error", "it failed")
    assert "ValueError" in said["stack"]


def test_a_request_is_a_span_of_its_callers_trace(served, monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    with run_models({"words": served["words"]}) as address:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        httpx.post(f"{address}/embed", json={"inputs": "北京"}, headers=headers)
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("POST /embed", trace.SpanKind.SERVER)
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert span.attributes["http.response.status_code"] == 200
    assert (span.attributes["gen_ai.request.model"], span.attributes["gen_ai.usage.input_tokens"]) == ("words", 4)


def test_without_opentelemetry_there_is_no_span(served, monkeypatch):
    monkeypatch.setattr(tracing, "trace", None)
    with run_models({"words": served["words"]}) as address:
        assert httpx.post(f"{address}/embed", json={"inputs": "北京"}).status_code == 200

"""Spans and correlated log lines: what they tell, and whom they never name."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.config import telemetry_variables
from service.entrypoints.correlation import of_request
from service.entrypoints.observing import Untraced, open_metrics, open_traces
from service.entrypoints.telemetry import JsonFormatter, Telemetry
from service.entrypoints.tracing import Tracing, observe_all
from tests.entrypoints.online_house import OnlineHouse

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
PERSON, TITLE = "kanarek-zoë@example.org", "Kanarek, The Film (1999)"


class Traced:
    """A house whose spans stay here, and its log lines."""

    def __init__(self, folder: Path) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        tracing = Tracing(provider.get_tracer("tests"))
        tracing.listen()
        self.house = OnlineHouse(folder, f"sqlite:///{folder}/ledger.db", traced=tracing.middleware)

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    opened = Traced(tmp_path)
    yield opened
    opened.house.ledger.close()


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("service.entrypoints.http.middleware")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(before)


def _last(stream: io.StringIO) -> dict[str, Any]:
    return dict(json.loads(stream.getvalue().splitlines()[-1]))


def _attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})


def test_a_request_is_a_span_of_its_route_and_goes_on_with_the_callers_trace(traced: Traced) -> None:
    traced.house.ask("GET", "/items/i0", headers={"traceparent": TRACEPARENT})
    span = traced.spans()["GET /items/{item_id}"]
    assert _attributes(span) == {
        "http.request.method": "GET",
        "http.route": "/items/{item_id}",
        "http.response.status_code": 200,
    }
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == CALLER


def test_the_steps_of_a_deletion_are_spans_within_its_request(traced: Traced) -> None:
    traced.house.post("/interactions", {"interactions": [{"user_id": PERSON, "item_id": "i0", "liked": True}]})
    traced.house.post("/forget", {"user_id": PERSON})
    spans = traced.spans()
    request = spans["POST /forget"].context
    for step in ("masked", "before_commit", "after_commit", "before_tombstone_file"):
        span = spans[f"lethe.forget.{step}"]
        assert span.parent == request


def test_nobody_is_named_in_a_span(traced: Traced) -> None:
    house, carried = traced.house, {"traceparent": TRACEPARENT, "tracestate": "shop=kanarek", "baggage": "user=kanarek"}
    house.ask("PUT", f"/items/{TITLE}", json={"title": TITLE})
    house.post("/interactions", {"interactions": [{"user_id": PERSON, "item_id": TITLE, "liked": True}]})
    house.post("/recommend", {"user_id": PERSON, "candidates": [TITLE]})
    house.post(f"/recommend?user={PERSON}", {"user_id": 7, PERSON: TITLE})
    house.ask("GET", f"/users/{PERSON}/export", params={"format": PERSON})
    house.ask("GET", f"/{PERSON}/{TITLE}", headers=carried)
    house.ask(PERSON.split("-", maxsplit=1)[0].upper(), "/items")
    house.post("/forget", {"user_id": PERSON})
    spans = traced.spans()
    assert {"POST /recommend", "GET /users/{user_id}/export", "GET unmatched", "_OTHER /items"} <= spans.keys()
    told = " ".join(f"{one.to_json()} {one.context and one.context.trace_state.to_header()}" for one in spans.values())
    assert "kanarek" not in told.lower()
    assert "zo" not in told.lower()


def test_a_line_of_the_log_names_the_trace_and_the_span(traced: Traced, lines: io.StringIO) -> None:
    traced.house.ask("GET", "/items", headers={"traceparent": TRACEPARENT})
    line, span = _last(lines), traced.spans()["GET /items"]
    assert span.context is not None
    assert (line["trace_id"], line["span_id"]) == (TRACE, f"{span.context.span_id:016x}")
    assert len(line["request_id"]) == 16


def test_without_tracing_a_line_names_the_callers_trace_and_an_id_of_the_request(
    tmp_path: Path, lines: io.StringIO
) -> None:
    house = OnlineHouse(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    house.ask("GET", "/items", headers={"traceparent": TRACEPARENT})
    first = _last(lines)
    house.ask("GET", "/items")
    second = _last(lines)
    house.ledger.close()
    assert first["trace_id"] == TRACE
    assert "span_id" not in first
    assert "trace_id" not in second
    assert first["request_id"] != second["request_id"]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "kanarek",
        f"00-{'0' * 32}-{CALLER}-01",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{TRACE.upper()}-{CALLER}-01",
        TRACE,
    ],
)
def test_what_is_no_traceparent_is_passed_over(header: str | None) -> None:
    assert of_request(header).trace_id is None


# What is asked for


@pytest.mark.parametrize(
    ("variables", "traces", "metrics"),
    [
        ({}, None, None),
        ({"OTEL_SERVICE_NAME": "shop"}, None, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, "otlp", "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, "otlp", None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "none"}, "otlp", None),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console", None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, None, None),
    ],
)
def test_the_standard_variables_say_what_is_sent(
    variables: dict[str, str], traces: str | None, metrics: str | None
) -> None:
    wanted = telemetry_variables(variables)
    assert (wanted.traces, wanted.metrics) == (traces, metrics)


def test_what_cannot_be_sent_is_no_reason_not_to_start() -> None:
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert isinstance(open_traces(asked), Untraced)
    open_metrics(lambda: (), asked)()


def test_metrics_are_sent_by_the_names_that_prometheus_reads() -> None:
    telemetry = Telemetry(forget_deadline=60.0)
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    observe_all(provider, telemetry.collect)
    telemetry.observe_request("/recommend", "POST", 200, 0.02)
    found = reader.get_metrics_data()
    assert found is not None
    scopes = [scope for group in found.resource_metrics for scope in group.scope_metrics]
    sent = {metric.name: metric for scope in scopes for metric in scope.metrics}
    [point] = sent["lethe_http_requests_total"].data.data_points
    assert dict(point.attributes or {}) == {"route": "/recommend", "method": "POST", "status": "200"}
    assert {"lethe_queue_tokens", "lethe_http_request_seconds_count", "process_resident_memory_bytes"} <= sent.keys()
    provider.shutdown()


def _imported(**variables: str) -> set[str]:
    """The modules of a process that has wired a server's application."""
    ask = (
        "import sys; from service.entrypoints import serving, worker; "
        "from service.entrypoints.observing import open_metrics, open_traces; "
        "open_traces(); open_metrics(lambda: ()); print(' '.join(sys.modules))"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    run = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True, env={**inherited, **variables}
    )
    return set(run.stdout.split())


@pytest.mark.thorough
@pytest.mark.parametrize(
    "variables", [{}, {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}]
)
def test_nothing_of_the_sdk_is_imported_where_nobody_asks_for_it(variables: dict[str, str]) -> None:
    imported = _imported(**variables)
    assert "service.entrypoints.serving" in imported
    assert "service.entrypoints.tracing" not in imported
    # Not "opentelemetry.sdk" altogether: redis imports the SDK's metrics wherever they are installed.
    assert not [name for name in imported if name.startswith(("opentelemetry.sdk.trace", "opentelemetry.exporter"))]

"""A server and its worker that send spans and metrics to a collector, as the standard variables say: nobody is in them."""

from __future__ import annotations

import gzip
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .conftest import BYSTANDER, OTHERS, TITLES, USERS, Installation, eventually

pytestmark = pytest.mark.thorough


class Collector:
    """An OTLP receiver on this machine, and all that it was sent."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = {"/v1/traces": [], "/v1/metrics": []}
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                packed = self.headers.get("Content-Encoding") == "gzip"
                bodies[self.path].append(gzip.decompress(sent) if packed else sent)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> Counter[str]:
        sent = [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies["/v1/traces"])]
        scopes = [scope for one in sent for resource in one.resource_spans for scope in resource.scope_spans]
        return Counter(span.name for scope in scopes for span in scope.spans)

    def metrics(self) -> set[str]:
        sent = [ExportMetricsServiceRequest.FromString(body) for body in list(self.bodies["/v1/metrics"])]
        scopes = [scope for one in sent for resource in one.resource_metrics for scope in resource.scope_metrics]
        return {metric.name for scope in scopes for metric in scope.metrics}


@pytest.fixture
def collector() -> Iterator[Collector]:
    opened = Collector()
    yield opened
    opened.close()


def test_requests_scoring_and_a_deletion_are_told_and_nobody_is_named(
    copies: Callable[..., Installation], collector: Collector
) -> None:
    installation = copies(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_SERVICE_NAME="kanarek-shop",
        OTEL_BSP_SCHEDULE_DELAY="100",
        OTEL_METRIC_EXPORT_INTERVAL="500",
        FASTAPI_OTEL_AUTO_CONFIGURE="true",  # it would send paths and query strings
    )
    with installation.serving_ready() as server:
        server.recommend(user_id=BYSTANDER, candidates=TITLES[:3])
        server.get(f"/users/{BYSTANDER}/export?format=csv")
        server.post(f"/recommend?user={BYSTANDER}", {"user_id": 7, "candidates": TITLES})
        request_id = server.post("/forget", {"user_id": OTHERS[-1]}).json()["request_id"]
        server.completed(request_id)
        wanted = {"POST /recommend", "GET /users/{user_id}/export", "POST /forget", "GET /forget/{request_id}"}
        wanted |= {"score", "batch.forward", "batch.neighbors", "reconcile"}
        wanted |= {
            "lethe.forget.masked",
            "lethe.build.training",
            "lethe.reconcile.published",
            "lethe.reconcile.completed",
        }
        eventually(lambda: wanted <= collector.spans().keys(), "all spans were sent")
        eventually(lambda: "lethe_http_requests_total" in collector.metrics(), "metrics were sent")
    sent = b"".join(body for bodies in collector.bodies.values() for body in bodies)
    assert b"kanarek-shop" in sent
    for text in (*USERS, *TITLES, request_id, "canary", "csv", "127.0.0.1"):
        assert text.encode() not in sent, text
    lines = installation.log.read_text()
    assert '"trace_id"' in lines
    assert '"span_id"' in lines

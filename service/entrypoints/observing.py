"""Whether this process is traced, and by what. Nothing of OpenTelemetry's SDK is imported before its variables ask for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Protocol

from prometheus_client.core import Metric
from starlette.types import ASGIApp

from service.config import TelemetryVariables, telemetry_variables
from service.forgetting.bell import Bell
from service.scoring.recommender import Queue
from service.scoring.scorer import Stopwatch

_TRACING = "service.entrypoints.tracing"

log = logging.getLogger(__name__)


class Traces(Protocol):
    """What is put around the parts of a process so that they leave spans."""

    def middleware(self, app: ASGIApp) -> ASGIApp: ...

    def queue(self, queue: Queue) -> Queue: ...

    def stopwatch(self, stopwatch: Stopwatch) -> Stopwatch: ...

    def bell(self, bell: Bell) -> Bell: ...

    def close(self) -> None: ...


class Untraced:
    """Leaves everything as it is."""

    def middleware(self, app: ASGIApp) -> ASGIApp:
        return app

    def queue(self, queue: Queue) -> Queue:
        return queue

    def stopwatch(self, stopwatch: Stopwatch) -> Stopwatch:
        return stopwatch

    def bell(self, bell: Bell) -> Bell:
        return bell

    def close(self) -> None:
        return None


def open_traces(variables: Mapping[str, str] | None = None) -> Traces:
    """Spans, if the variables ask for them and the extra `otel` is installed; of a deletion's steps, too."""
    wanted = telemetry_variables(variables)
    module = _installed(wanted) if wanted.traces else None
    if module is None:
        return Untraced()
    traces = module.Tracing.exporting(wanted)
    traces.listen()
    opened: Traces = traces
    return opened


def open_metrics(
    collect: Callable[[], Iterable[Metric]], variables: Mapping[str, str] | None = None
) -> Callable[[], object]:
    """Send what `collect` gives, if the variables ask for it. What ends it is returned."""
    wanted = telemetry_variables(variables)
    module = _installed(wanted) if wanted.metrics else None
    if module is None:
        return lambda: None
    ends: Callable[[], object] = module.export_metrics(wanted, collect)
    return ends


def _installed(wanted: TelemetryVariables) -> ModuleType | None:
    if wanted.protocol != "http/protobuf":
        log.warning("telemetry_not_sent", extra={"reason": "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf"})
        return None
    try:
        return import_module(_TRACING)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        # These variables are often set for every process of a cluster, so they are no reason not to start.
        log.warning(
            "telemetry_not_sent", extra={"reason": "the extra `otel` is not installed: pip install 'lethe[otel]'"}
        )
        return None

"""OpenTelemetry: spans of requests, of scoring and of a deletion's steps, and the metrics, sent as the standard variables say.

Only `observing` imports this module, where these variables ask for it. A span holds a route's template, numbers and words of
closed sets: no id of a person or an item, no title, no path, no query, no address.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client.core import Metric
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.config import TelemetryVariables
from service.entrypoints import correlation
from service.entrypoints.telemetry import METHODS, OF_A_GENERATION, route_of
from service.forgetting.bell import Bell
from service.scoring.recommender import Queue
from service.scoring.requests import EncodedRequest, Scored
from service.scoring.scorer import Stopwatch
from service.version import VERSION

_STEP = "lethe."  # what the names of announced steps begin with
_SUFFIXES: Mapping[str, tuple[str, ...]] = {"gauge": ("",), "counter": ("_total",), "histogram": ("_count", "_sum")}
_FRESH_SECONDS = 1.0  # one look at the metrics serves all instruments of an export


class Steps:
    """The steps of one piece of work: each becomes a span that ends when it is announced and began at the one before."""

    def __init__(self, tracer: Tracer, name: str, around: Span | None = None) -> None:
        """`around` is the span of the work; without one, it begins with the first step, or there is none."""
        self._tracer = tracer
        self._name = name
        self._around = around
        self._own: Span | None = None
        self._last = self._began = time.time_ns()

    def take(self, step: str) -> None:
        """Note that the step is done."""
        if self._around is None:
            self._around = self._own = self._tracer.start_span(self._name, start_time=self._began)
        parent = set_span_in_context(self._around)
        self._tracer.start_span(step, parent, start_time=self._last).end()
        self._last = time.time_ns()

    def end(self) -> None:
        """End what `take` began."""
        if self._own is not None:
            self._own.end()


_steps: ContextVar[Steps | None] = ContextVar("steps", default=None)
_span: ContextVar[Span | None] = ContextVar("span", default=None)


class Tracing:
    """The spans and metrics of one process. `close` sends what is left."""

    def __init__(self, tracer: Tracer, on_close: Iterable[Callable[[], object]] = ()) -> None:
        self._tracer = tracer
        self._on_close = list(on_close)

    @classmethod
    def exporting(cls, wanted: TelemetryVariables, exporter: SpanExporter | None = None) -> Tracing:
        """Spans to where the variables say, or to `exporter`. The SDK reads what else they state: headers, samplers, limits."""
        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        chosen = exporter or (ConsoleSpanExporter() if wanted.traces == "console" else OTLPSpanExporter())
        provider.add_span_processor(BatchSpanProcessor(chosen))
        return cls(provider.get_tracer("lethe", VERSION), [provider.shutdown])

    def close(self) -> None:
        for close in self._on_close:
            close()

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """An application whose requests have spans."""
        return _Requests(app, self._tracer)

    def queue(self, queue: Queue) -> Queue:
        """A queue that tells how long a request waited and was scored."""
        return _Queue(queue, self)

    def stopwatch(self, stopwatch: Stopwatch) -> Stopwatch:
        """A stopwatch whose parts of a batch are spans, too. A batch is of many requests, so it is a trace of its own."""
        return _Stopwatch(stopwatch, self._tracer)

    def bell(self, bell: Bell) -> Bell:
        """A worker's bell: what is done while the lock is held is one piece of work."""
        return _Bell(bell, self._tracer)

    def listen(self) -> None:
        """Hear of the steps that rooms announce (`sys.audit`). For the rest of the process: it cannot be undone."""
        sys.addaudithook(_hear)

    @contextmanager
    def around(self, name: str, attributes: Mapping[str, int | bool]) -> Iterator[None]:
        """A span within the present one."""
        with _spanned(self._tracer, name, attributes=attributes):
            yield


def export_metrics(wanted: TelemetryVariables, collect: Callable[[], Iterable[Metric]]) -> Callable[[], object]:
    """Send the metrics that `/metrics` shows, by the same names. What ends it is returned."""
    exporter = ConsoleMetricExporter() if wanted.metrics == "console" else OTLPMetricExporter()
    reader = PeriodicExportingMetricReader(exporter)
    provider = MeterProvider([reader], resource=_resource(), shutdown_on_exit=False)
    observe_all(provider, collect)
    return provider.shutdown


def observe_all(provider: MeterProvider, collect: Callable[[], Iterable[Metric]]) -> None:
    """An instrument for every metric that `collect` gives now, or once a generation is loaded; each export looks anew."""
    meter, seen = provider.get_meter("lethe", VERSION), _Snapshot(collect)
    for name, (kind, documentation) in seen.names().items():
        create = meter.create_observable_counter if kind == "counter" else meter.create_observable_gauge
        create(name, [seen.observer(name)], description=documentation)


def _resource() -> Resource:
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES count for more.
    stated = Resource.create().attributes
    named = stated.get(SERVICE_NAME, "")
    return Resource({**stated, SERVICE_NAME: "lethe"} if str(named).startswith("unknown_service") else stated)


class _Snapshot:
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect
        self._at = 0.0
        self._found: dict[str, list[Observation]] = {}

    def names(self) -> dict[str, tuple[str, str]]:
        """Series -> its kind and what is said of it. A histogram is told by its count and sum."""
        families = [(family.name, family.type, family.documentation) for family in self._collect()]
        families += [(name, "gauge", documentation) for name, documentation in OF_A_GENERATION.items()]
        return {
            name + suffix: ("gauge" if kind == "gauge" else "counter", documentation)
            for name, kind, documentation in families
            for suffix in _SUFFIXES.get(kind, ())
        }

    def observer(self, name: str) -> Callable[[CallbackOptions], Collection[Observation]]:
        return lambda _: self._look().get(name, ())

    def _look(self) -> Mapping[str, list[Observation]]:
        if time.monotonic() - self._at > _FRESH_SECONDS:
            found: dict[str, list[Observation]] = {}
            for family in self._collect():
                for sample in family.samples:
                    found.setdefault(sample.name, []).append(Observation(sample.value, sample.labels))
            self._found, self._at = found, time.monotonic()
        return self._found


def _hear(event: str, _: tuple[Any, ...]) -> None:
    if event.startswith(_STEP):
        steps = _steps.get()
        if steps is not None:
            steps.take(event)


@contextmanager
def _spanned(
    tracer: Tracer, name: str, context: Context | None = None, kind: SpanKind = SpanKind.INTERNAL, **options: Any
) -> Iterator[Span]:
    around = _span.get()
    if context is None and around is not None:
        context = set_span_in_context(around)
    span = tracer.start_span(name, context, kind=kind, **options)
    told = span.get_span_context()
    known = replace(correlation.current.get(), trace_id=f"{told.trace_id:032x}", span_id=f"{told.span_id:016x}")
    spans, lines = _span.set(span), correlation.current.set(known)
    try:
        yield span
    except Exception as error:
        # Its type alone: a message may quote the row that somebody choked on.
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(StatusCode.ERROR)
        raise
    finally:
        _span.reset(spans)
        correlation.current.reset(lines)
        span.end()


class _Requests:
    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        # Neither `tracestate` nor `baggage`, whose texts could be anything.
        carried = {"traceparent": Headers(scope=scope).get("traceparent", "")}
        context = TraceContextTextMapPropagator().extract(carried, Context())
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with _spanned(self._tracer, method, context, SpanKind.SERVER) as span, _stepping(self._tracer, method, span):
            await self._app(scope, receive, answer)
            route = route_of(scope)
            span.update_name(f"{method} {route}")
            span.set_attributes(
                {"http.request.method": method, "http.route": route, "http.response.status_code": status}
            )
            if status >= 500:
                span.set_status(StatusCode.ERROR)


@contextmanager
def _stepping(tracer: Tracer, name: str, around: Span | None = None) -> Iterator[None]:
    steps = Steps(tracer, name, around)
    token = _steps.set(steps)
    try:
        yield
    finally:
        _steps.reset(token)
        steps.end()


class _Queue:
    def __init__(self, queue: Queue, tracing: Tracing) -> None:
        self._queue = queue
        self._tracing = tracing

    def admit(self, timeout: float, caller: str) -> None:
        self._queue.admit(timeout, caller)

    async def submit(self, request: EncodedRequest, timeout: float, caller: str) -> Scored:
        told = {"lethe.tokens": request.tokens, "lethe.candidates": len(request.questions)}
        with self._tracing.around("score", told):
            return await self._queue.submit(request, timeout, caller)


class _Stopwatch:
    def __init__(self, stopwatch: Stopwatch, tracer: Tracer) -> None:
        self._stopwatch = stopwatch
        self._tracer = tracer

    def observe_forward(self, seconds: float) -> None:
        self._stopwatch.observe_forward(seconds)
        self._note("batch.forward", seconds)

    def observe_neighbors(self, seconds: float) -> None:
        self._stopwatch.observe_neighbors(seconds)
        self._note("batch.neighbors", seconds)

    def _note(self, name: str, seconds: float) -> None:
        self._tracer.start_span(name, Context(), start_time=time.time_ns() - int(seconds * 1e9)).end()


class _Bell:
    def __init__(self, bell: Bell, tracer: Tracer) -> None:
        self._bell = bell
        self._tracer = tracer

    def ring(self) -> None:
        self._bell.ring()

    def wait(self, timeout: float) -> bool:
        return self._bell.wait(timeout)

    @contextmanager
    def courtesy_lock(self) -> Iterator[bool]:
        stepping: AbstractContextManager[None] = nullcontext()
        with self._bell.courtesy_lock() as held:
            if held:
                stepping = _stepping(self._tracer, "reconcile")
            with stepping:
                yield held

    def close(self) -> None:
        self._bell.close()

"""What an operator sees: Prometheus metrics and JSON log lines. Neither ever holds a user id, a title or a history.

Labels are taken from closed sets (route templates, known methods, states). Log lines hold an exception's type and frames,
never its message: a driver's message may quote the row that it choked on.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, TextIO, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.entrypoints.correlation import current
from service.entrypoints.tracebacks import frames
from service.errors import LedgerUnavailable, StoreError
from service.generation import GenerationInfo
from service.ledger import OutboxCounts
from service.records import ForgetRequest, Mask, RequestState

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FORGET_STATES: tuple[RequestState, ...] = get_args(RequestState)

# What the rooms may say beside an event. Each name is chosen so that its value holds no user data.
LOGGED = (
    *(
        "reason",
        "kind",
        "status",
        "retry_in_seconds",
        "again_in_seconds",
        "tombstones",
        "forgotten_again",
        "restraints",
    ),
    *("device", "dtype", "why", "attention", "neighbors"),
)

# Metrics of the served generation, which are there once one is loaded.
OF_A_GENERATION = {
    "lethe_generation_info": "The generation that is served.",
    "lethe_shards": "Shards of the served generation, and those in training.",
}

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
_SLOW = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)  # seconds
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)


def route_of(scope: Mapping[str, Any]) -> str:
    """The template of the route that a request took; never its path, which may name somebody."""
    return str(getattr(scope.get("route"), "path", "unmatched"))


class LedgerStats(Protocol):
    """What the metrics ask of the ledger at each scrape. Each may raise `LedgerUnavailable`."""

    def requests_by_state(self) -> Mapping[str, int]: ...

    def completion_times(self) -> Sequence[tuple[float, float]]: ...

    def oldest_pending_age(self) -> float: ...

    def overdue(self, deadline: float) -> int: ...

    def pending(self) -> Sequence[ForgetRequest]: ...

    def now(self) -> float: ...

    def shards_training(self) -> int: ...

    def mask(self) -> Mask: ...


class GenerationStats(Protocol):
    """The generation that this process serves. Raises `NotReady` (a `StoreError`) while there is none."""

    def generation_info(self) -> GenerationInfo: ...


class Telemetry:
    """All metrics of one process, on a registry of their own. Every method may be called from any thread."""

    def __init__(self, forget_deadline: float) -> None:
        """`forget_deadline`: seconds after which a deletion that is still owed counts as overdue."""
        registry = CollectorRegistry()
        self._forget_deadline = forget_deadline
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self._registry = registry
        self._requests = Counter(
            "lethe_http_requests", "HTTP requests answered.", ["route", "method", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "lethe_http_request_seconds", "Time to answer a request.", ["route"], buckets=_FAST, registry=registry
        )
        self._refusals = Counter(
            "lethe_http_refused",
            "Connections and heads refused before they were requests.",
            ["reason"],
            registry=registry,
        )
        self._batch_tokens = Histogram(
            "lethe_batch_tokens", "Tokens of a scored batch.", buckets=_TOKENS, registry=registry
        )
        self._queue_tokens = Gauge("lethe_queue_tokens", "Tokens that wait to be scored.", registry=registry)
        self._forward = self._timer("lethe_forward_seconds", "Time of one forward pass.")
        self._neighbors = self._timer("lethe_neighbor_seconds", "Time of one search for neighbors.")
        self._events = Counter(
            "lethe_events", "Events that came in, by what became of them.", ["outcome"], registry=registry
        )
        self._event_kinds = Counter(
            "lethe_event_kinds",
            "Events that came in, by their kind, and whether they were attributed to an answer.",
            ["kind", "attributed"],
            registry=registry,
        )
        self._impressions = Counter(
            "lethe_impressions",
            "Answers to people who are known, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self._mask = self._timer("lethe_forget_mask_seconds", "Time until a deletion is masked and recorded.")

    def watch(self, ledger: LedgerStats, generations: GenerationStats) -> None:
        """Read `ledger` and `generations` at every scrape from now on. To be called once."""
        self._registry.register(_StatsCollector(ledger, generations, self._forget_deadline))

    def watch_store(self, damages: Callable[[], Mapping[str, int]]) -> None:
        """Read at every scrape from now on how much was found damaged, by kind. To be called once."""
        self._registry.register(_Damages(damages))

    def watch_outbox(self, counts: Callable[[], OutboxCounts]) -> None:
        """Read at every scrape from now on how notifications stand. To be called once."""
        self._registry.register(_Notifications(counts))

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answer. `route` is a template, `method` one of a closed set: both become labels."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def observe_refusal(self, reason: str) -> None:
        """Count what was refused before it was a request. `reason` is one of a closed set."""
        self._refusals.labels(reason).inc()

    def observe_batch(self, tokens: int, queue_depth: int) -> None:
        """Count one batch of `tokens` that left `queue_depth` tokens in the queue."""
        self._batch_tokens.observe(tokens)
        self._queue_tokens.set(queue_depth)

    def observe_queue(self, queue_depth: int) -> None:
        """State how many tokens wait now."""
        self._queue_tokens.set(queue_depth)

    def observe_forward(self, seconds: float) -> None:
        """Count one forward pass."""
        self._forward.observe(seconds)

    def observe_neighbors(self, seconds: float) -> None:
        """Count one search for neighbors."""
        self._neighbors.observe(seconds)

    def observe_mask(self, seconds: float) -> None:
        """Count one accepted deletion, timed from the call until the ledger has masked it."""
        self._mask.observe(seconds)

    def observe_events(self, outcomes: Mapping[str, int]) -> None:
        """Count events by what became of them: a closed set of words."""
        for outcome, number in outcomes.items():
            self._events.labels(outcome).inc(number)

    def observe_event_kinds(self, kinds: Mapping[tuple[str, bool], int]) -> None:
        """Count events by their kind, one of a closed set of words, and whether they were attributed to an answer."""
        for (kind, attributed), number in kinds.items():
            self._event_kinds.labels(kind, "yes" if attributed else "no").inc(number)

    def observe_impressions(self, outcomes: Mapping[str, int]) -> None:
        """Count impressions by what became of them: `recorded`, `left_out` or `lost`."""
        for outcome, number in outcomes.items():
            self._impressions.labels(outcome).inc(number)

    def render(self) -> bytes:
        """The text exposition (`CONTENT_TYPE`). It asks the ledger, so it blocks; without one, the rest still comes."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """All metrics as values. It asks the ledger, as `render` does."""
        return self._registry.collect()

    def _timer(self, name: str, documentation: str) -> Histogram:
        return Histogram(name, documentation, buckets=_FAST, registry=self._registry)


class Attendance:
    """When each owed deletion was last attempted. The ledger tells of the first attempt; of later ones, when they are seen."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float]] = {}  # request id -> attempts, and when the last began

    def unattended(self, pending: Sequence[ForgetRequest], now: float) -> float:
        """Seconds since the last attempt, or the acceptance or release, of that which has waited longest; 0 if none is owed."""
        self._last = {request.request_id: self._attempts_of(request, now) for request in pending}
        return max((max(0.0, now - at) for _, at in self._last.values()), default=0.0)

    def _attempts_of(self, request: ForgetRequest, now: float) -> tuple[int, float]:
        known = self._last.get(request.request_id)
        if known is not None and known[0] == request.attempts:
            return known
        if request.attempts == 0:
            return 0, request.owed_since
        first = request.retraining_at if request.attempts == 1 else None
        return request.attempts, now if first is None else first


class _StatsCollector(Collector):
    def __init__(self, ledger: LedgerStats, generations: GenerationStats, forget_deadline: float) -> None:
        self._ledger = ledger
        self._generations = generations
        self._forget_deadline = forget_deadline
        self._attendance = Attendance()

    def describe(self) -> Iterable[Metric]:
        # Without this, the registry would ask the ledger while the process is still being wired.
        return []

    def collect(self) -> Iterator[Metric]:
        yield from _available(self._of_ledger)
        yield from _available(self._of_generation)
        yield from _available(self._of_shards)

    def _of_ledger(self) -> Iterator[Metric]:
        by_state = self._ledger.requests_by_state()
        states: dict[str, float] = {state: by_state.get(state, 0) for state in FORGET_STATES}
        yield _labelled("lethe_forget_requests", "Deletions by their state.", "state", states)
        took = [completed_at - accepted_at for accepted_at, completed_at in self._ledger.completion_times()]
        yield _histogram("lethe_forget_complete_seconds", "Time from acceptance to receipt.", took)
        age = self._ledger.oldest_pending_age()
        yield GaugeMetricFamily("lethe_forget_oldest_owed_seconds", "Age of the oldest deletion still owed.", age)
        overdue = self._ledger.overdue(self._forget_deadline)
        yield GaugeMetricFamily("lethe_forget_overdue", "Deletions owed for longer than the deadline.", overdue)
        unattended = self._attendance.unattended(self._ledger.pending(), self._ledger.now())
        told = "Time since the last attempt at the owed deletion that has waited longest for one."
        yield GaugeMetricFamily("lethe_forget_unattended_seconds", told, unattended)
        yield GaugeMetricFamily("lethe_fence", "Deletions that the ledger has counted.", self._ledger.mask().fence)

    def _of_generation(self) -> Iterator[Metric]:
        served = {self._generations.generation_info().generation: 1}
        yield _of_generation("lethe_generation_info", "generation", served)

    def _of_shards(self) -> Iterator[Metric]:
        shards = self._generations.generation_info().shards
        masked = sum(shard.masked for shard in shards)
        states = {"live": len(shards) - masked, "masked": masked, "training": self._ledger.shards_training()}
        yield _of_generation("lethe_shards", "state", states)


class _Damages(Collector):
    def __init__(self, damages: Callable[[], Mapping[str, int]]) -> None:
        self._damages = damages

    def collect(self) -> Iterator[Metric]:
        documentation = "What was found in the store and is not what the published manifest states, by kind."
        family = CounterMetricFamily("lethe_store_damaged", documentation, labels=["kind"])
        for kind, number in self._damages().items():
            family.add_metric([kind], number)
        yield family


class _Notifications(Collector):
    def __init__(self, counts: Callable[[], OutboxCounts]) -> None:
        self._counts = counts

    def describe(self) -> Iterable[Metric]:
        # Without this, the registry would ask the ledger while the process is still being wired.
        return []

    def collect(self) -> Iterator[Metric]:
        yield from _available(self._of_outbox)

    def _of_outbox(self) -> Iterator[Metric]:
        found = self._counts()
        states: dict[str, float] = {
            "pending": found.pending,
            "delivered": found.delivered,
            "given_up": found.given_up,
        }
        yield _labelled("lethe_webhook_events", "Notifications of the last 30 days by their state.", "state", states)
        told = "For how long the oldest notification that was not delivered yet has waited."
        yield GaugeMetricFamily("lethe_webhook_oldest_pending_seconds", told, found.oldest_pending)


def _available(prefill_cache: Callable[[], Iterator[Metric]]) -> list[Metric]:
    try:
        return list(prefill_cache())
    except (LedgerUnavailable, StoreError):
        # A metric that cannot be read is absent, and alerts can say so; the others must still come.
        return []


def _of_generation(name: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    return _labelled(name, OF_A_GENERATION[name], label, values)


def _labelled(name: str, documentation: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _histogram(name: str, documentation: str, seconds: Sequence[float]) -> HistogramMetricFamily:
    buckets = [(str(bound), float(sum(value <= bound for value in seconds))) for bound in _SLOW]
    buckets.append(("+Inf", float(len(seconds))))
    return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=float(sum(seconds)))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, event, known fields, and an exception without its message.

    Known fields are those of the record's `fields`, and the record's own attributes that `LOGGED` names.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        return json.dumps(fields_of(record), default=str)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What may be told of a record: time, level, logger, event, its known fields, and an exception's types and places."""
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage(),
        **{name: record.__dict__[name] for name in LOGGED if name in record.__dict__},
        **getattr(record, "fields", {}),
        **current.get().fields(),
    }
    if record.exc_info and record.exc_info[1] is not None:
        line["exception"] = _exception_chain(record.exc_info[1])
    return line


def configure_logging(
    level: str = "INFO", stream: TextIO | None = None, handler: logging.Handler | None = None
) -> None:
    """Send every logger's lines as JSON to `stream` (standard error by default), or to a `handler` that has its own form.

    Run uvicorn with `log_config=None`: its own access log holds query strings and stays off.
    """
    if handler is None:
        handler = logging.StreamHandler(stream or sys.stderr)
        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it names each database that is looked at
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda given: _log_uncaught(given.exc_type, given.exc_value, given.exc_traceback)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    """What ends a process or a thread unforeseen: Python itself would print its message, which may quote a row."""
    if error is not None:
        logging.getLogger(__name__).critical("uncaught", exc_info=(kind, error, traceback))


def _exception_chain(error: BaseException | None) -> list[dict[str, Any]]:
    chain: list[dict[str, Any]] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kind = type(error)
        chain.append({"type": f"{kind.__module__}.{kind.__qualname__}", "frames": frames(error.__traceback__)})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain

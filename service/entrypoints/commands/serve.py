"""`lethe serve`: an API replica, and the worker that it keeps alive beside it."""

from __future__ import annotations

import gc
import resource
from typing import Annotated, Any

import typer
import uvicorn

from service.config import Settings, load_settings
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.imports import import_demo_if_empty
from service.entrypoints.commands.options import DemoOption, HomeOption, with_settings
from service.entrypoints.exposure import require_closed
from service.entrypoints.http.protocol import ConnectionLimits, Connections, bounded_http
from service.entrypoints.serving import serving_app
from service.entrypoints.supervisor import Supervisor, exit_on_sigterm
from service.entrypoints.telemetry import Telemetry, configure_logging

_OTHER_FILES = 200  # that a server has open beside its connections: database, store, libraries
SERVE_SETTINGS = ("host", "port", "threads", "request_timeout", "max_batch_tokens", "max_queued_tokens", "log_level")


@with_settings(SERVE_SETTINGS)
def serve(
    given: dict[str, Any],
    demo: DemoOption = False,
    worker: Annotated[bool, typer.Option(help="Also run a worker as a supervised child.")] = True,
    home: HomeOption = None,
) -> None:
    """Answer HTTP requests, and (with a worker) build what is missing and carry out deletions."""
    settings = load_settings(home=home, **given)
    configure_logging(settings.log_level)  # first: an upgrade at this start is to be seen
    opened = Home.open(settings)
    if demo:
        import_demo_if_empty(opened)
    opened.restore_check()
    require_closed(opened)
    supervisor = Supervisor(settings) if worker else None
    telemetry = Telemetry(settings.forget_deadline)
    application = serving_app(
        opened,
        on_start=supervisor.start if supervisor else lambda: None,
        on_stop=supervisor.stop if supervisor else lambda: None,
        telemetry=telemetry,
    )
    keep_for_good()
    # uvicorn drains on SIGTERM and then raises it again, for whoever was listening before.
    exit_on_sigterm()
    uvicorn.run(
        application,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(settings.request_timeout) + 1,
        http=bounded_http(Connections(connection_limits(settings), telemetry.observe_refusal)),
        ws="none",
        workers=1,  # said, or uvicorn reads WEB_CONCURRENCY, which is meant for others
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),  # said, or uvicorn reads FORWARDED_ALLOW_IPS
        server_header=False,
    )


def connection_limits(settings: Settings) -> ConnectionLimits:
    """What the settings say, and of connections no more than this process may have files open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = settings.max_connections if files == resource.RLIM_INFINITY else max(16, files - _OTHER_FILES)
    return ConnectionLimits(
        head_bytes=settings.max_head_bytes,
        head_seconds=settings.request_timeout,
        connections=min(settings.max_connections, most),
        connections_of_one=min(settings.max_connections_per_address, most),
    )


def keep_for_good() -> None:
    """Let the garbage collector pass over all that there is now.

    A server's libraries and model stay until its end. To walk through them, as every full collection does, takes a fifth of a
    second in which no request moves.
    """
    gc.collect()
    gc.freeze()

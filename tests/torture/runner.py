"""Kills the real server and worker again and again, and checks that nothing was lost and nothing differs.

    python -m tests.torture.runner --kills 1000 --seed 7 --folder DIR

All that is chosen is drawn from the seed. A second call with the same folder goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import redis

from adapters_store import Inspector, KeysInMemory, Store, open_store
from service.forgetting.bell import LOCK
from tests.forks import Child, Forks, Stuck
from tests.servers import servers_of

from . import checks
from .processes import PATIENCE, Nursery, Server, wait_until
from .steps import OF_A_FULL_BUILD, OF_AN_ENCRYPTED_STORE, OF_THE_SERVER, OF_THE_WORKER
from .world import VALIDATION_PERCENT, Journal, rows_of, trains, write_tables

AT_RANDOM = ("server", "worker", "both", "trainer", "import", "build")  # who is killed at a random time
KILLS_BETWEEN_CHECKS = 15
PEOPLE = 12
SETTINGS = {
    "LETHE_SECRET": "a secret of the tests",
    "LETHE_MAX_SHARD_SIZE": "12",
    "LETHE_VALIDATION_PERCENT": str(VALIDATION_PERCENT),
    "LETHE_TREE_DEPTH": "1",
    "LETHE_HISTORY_LENGTH": "2",
    "LETHE_SAMPLES_PER_USER": "3",
    "LETHE_LORA_RANK": "2",
    "LETHE_EPOCHS": "2",
    "LETHE_BUILD_PROCESSES": "2",
    "LETHE_THREADS": "1",
    "LETHE_RETRY_SECONDS": "0.05",
    "LETHE_TOP_N": "8",
    "LETHE_DELETIONS_PER_MINUTE": "1000000",
    "LETHE_BUILD_AFTER_INTERACTIONS": "1",  # the worker moves the horizon, in the midst of deletions
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
MODEL_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
_LATEST = {"import": 0.1, "build": 0.5, "trainer": 0.2}  # seconds after the victim began; drawn at random
_LATEST_OTHERWISE = 0.6
_TRIES = 12  # of one kill, before a step counts as one that does not come


class Torture:
    """One installation in `folder`, and what was done to it."""

    def __init__(
        self,
        folder: Path,
        model: Path,
        forks: Forks,
        seed: str | None = None,
        servers: Mapping[str, str] | None = None,
        encrypted: bool = False,
    ) -> None:
        """`servers` are settings that name a PostgreSQL and a Redis; then whoever asks needs a key, too.

        Of an `encrypted` store the clean builds are plain all the same: what is in it are the same bytes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._servers = servers or {}
        self.folder = folder
        self.home = folder / "home"
        self.journal = Journal(folder / "journal.jsonl")
        self.world = self.journal.world
        if self.world.seed is None:
            self.journal.note("begin", seed=seed or secrets.token_hex(4))
        self.seed = str(self.world.seed)
        self._armed = folder / "armed"
        self._armed.unlink(missing_ok=True)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LETHE_")},
            **SETTINGS,
            "LETHE_HOME": str(self.home),
            "LETHE_MODEL": str(model.absolute()),
        }
        # What is built to be compared with stands in a file: bytes do not depend on where rows are.
        self._clean = Nursery(forks, self.environment, folder / "log", self._armed)
        self.environment |= self._servers
        self.environment |= {"LETHE_STORE_ENCRYPTION": "per-artifact"} if encrypted else {}
        self._encrypted = encrypted
        self._nursery = Nursery(forks, self.environment, folder / "log", self._armed)
        self._key = self._made_key() if self._servers else None
        self._server: Server | None = None
        self._worker: Child | None = None
        self._chance = random.Random(self.seed)

    def _made_key(self) -> str:
        (self.folder / checks.DATABASE_URL).write_text(self._servers["LETHE_DATABASE_URL"])
        file = self.folder / "key"
        scopes = "recommend,forget,rights,receipts"
        if self._nursery.run("keys", "create", "--name", "torture", "--scopes", scopes, "--to", str(file)) != 0:
            raise Stuck(f"no key was made; see {self.folder / 'log'}")
        return file.read_text().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._server is not None:
            self._server.close()
        if self._worker is not None:
            self._worker.kill()

    @property
    def kills(self) -> int:
        return self.world.kills.total()

    def run(self, kills: int, tell: Callable[[str], None] = lambda _: None) -> None:
        """Until there were so many kills, or something was found wrong."""
        try:
            if self.world.open_wish is not None:
                self._utter_again()
            while self.kills < kills and not self.world.findings:
                self._round(self.world.round + 1)
                if self.kills % KILLS_BETWEEN_CHECKS == 0 or self.kills >= kills:
                    self.check()
                if self.kills % 50 == 0:
                    tell(f"{self.kills} kills")
        except Stuck as stuck:
            self._find(f"stuck: {stuck}")

    # One round: one kill, in the midst of what people ask for

    def _round(self, number: int) -> None:
        self._chance = random.Random(f"{self.seed}:{number}")
        card = self._card(number)
        for _ in range(_TRIES):
            self._populate()  # every time: a dozen tries would leave nobody to train on
            if self._killed_at(card) if "." in card else self._killed_at_random(card):
                self.journal.note("kill", where=card)
                break
        else:
            self._find(f"the step {card} was not reached")
        self._armed.unlink(missing_ok=True)
        self.journal.note("round", number=number)

    def _card(self, number: int) -> str:
        """From a deck with every step and every random victim once, shuffled anew when it is through."""
        of_the_keys = OF_AN_ENCRYPTED_STORE if self._encrypted else ()
        deck: list[str] = [*OF_THE_SERVER, *OF_THE_WORKER, *of_the_keys, *AT_RANDOM]
        through, place = divmod(number - 1, len(deck))
        random.Random(f"{self.seed}:deck:{through}").shuffle(deck)
        return deck[place]

    def _killed_at(self, step: str) -> bool:
        """Whether a process has ended itself at the step."""
        of_the_server = step in OF_THE_SERVER
        workers = [self._worker]  # one that outlived the last kill may be at the step before the next line
        if step in OF_A_FULL_BUILD:  # it may be what the deletions leave to be done
            self._import([self._somebody_who_trains()], returning=False)
        self._armed.write_text(f"{step} {1 if of_the_server else self._chance.choice((1, 1, 2))}")
        self._ask_for_something(sure=True)
        if of_the_server:
            return not self._armed.exists()
        # Only now, so that a worker which the last kill has ended begins at once.
        self._everybody_works()
        workers.append(self._worker)
        wait_until(lambda: not self._armed.exists() or checks.waiting(self.home) == 0)
        if self._armed.exists():
            return False
        if not wait_until(lambda: any(worker is not None and worker.ended() for worker in workers)):
            raise Stuck("nobody ended at the step that somebody had reached")
        return True

    def _killed_at_random(self, victim: str) -> bool:
        """Whether somebody was there to be killed at the time that was drawn."""
        delay = self._chance.uniform(0, _LATEST.get(victim, _LATEST_OTHERWISE))
        if victim == "import":
            return self._import_killed(delay)
        self._everybody_works()
        if victim == "build":
            return self._build_killed(delay)
        killed: list[int] = []
        timer = threading.Timer(delay, lambda: killed.extend(self._shoot(victim)))
        timer.start()
        self._ask_for_something(sure=True)
        timer.join()
        if victim in ("worker", "both"):
            assert self._worker is not None
            self._worker.wait()
        return bool(killed)

    def _shoot(self, victim: str) -> list[int]:
        assert self._server is not None
        assert self._worker is not None
        chosen = {"server": [self._server.child], "worker": [self._worker], "both": [self._server.child, self._worker]}
        pids = [child.pid for child in chosen.get(victim, [])]
        if victim == "trainer":
            pids = self._trainers()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    def _trainers(self) -> list[int]:
        """The first training process that there is; none if all work is done before one is seen."""
        assert self._worker is not None
        while not self._worker.ended() and checks.waiting(self.home):
            with suppress(psutil.NoSuchProcess):
                if children := psutil.Process(self._worker.pid).children():
                    return [children[0].pid]
        return []

    def _build_killed(self, delay: float) -> bool:
        self._import([self._new_person()], returning=False)
        building = self._nursery.start("build")
        if building.ended(delay):
            return False
        building.kill()
        return True

    def _import_killed(self, delay: float) -> bool:
        people, returning = self._arrivals()
        self._wish_import(people, returning)
        importing = self._nursery.start(*self._import_arguments(people, returning))
        in_time = not importing.ended(delay)
        importing.kill()
        self._utter_again()
        return in_time

    # People come, ask to be forgotten, and ask for recommendations

    def _populate(self) -> None:
        missing = PEOPLE - len(self.world.people())
        if missing > 2:
            self._import([self._new_person() for _ in range(missing)], returning=False)
        elif self._chance.random() < 0.3:
            self._import(*self._arrivals())

    def _arrivals(self) -> tuple[list[str], bool]:
        """People to import, and whether those among them who were forgotten are to be taken back in."""
        gone = self.world.gone()[-20:]
        if not gone or self._chance.random() < 0.4:
            return [self._new_person()], False
        return self._chance.sample(gone, min(2, len(gone))), self._chance.random() < 0.6

    def _somebody_who_trains(self) -> str:
        person = self._new_person()
        while not trains(person):
            person = self._new_person()
        return person

    def _new_person(self) -> str:
        self.world.born += 1
        return f"person-{self.world.born}"

    def _import(self, people: list[str], returning: bool) -> None:
        self._wish_import(people, returning)
        self._utter_again()

    def _wish_import(self, people: list[str], returning: bool) -> None:
        self.journal.note("wish", what="import", people=people, returning=returning, born=self.world.born)

    def _import_arguments(self, people: Sequence[str], returning: bool) -> list[str]:
        rows = [((person, item), said) for person in people for item, said in rows_of(person).items()]
        return write_tables(self.folder / "tables", rows) + ["--allow-returning"] * returning

    def _ask_for_something(self, sure: bool) -> None:
        """One to three deletions, the first surely of a person from whom an adapter has learnt; and other questions."""
        for number in range(self._chance.choice((1, 1, 2, 3))):
            self._forget(*self._somebody(sure and number == 0))
        if self._chance.random() < 0.3:
            self._ask_again()
        self._recommend()

    def _somebody(self, learnt_from: bool) -> tuple[str, list[str] | None]:
        people = [person for person in self.world.people() if trains(person) or not learnt_from]
        if learnt_from and not people:
            self._import([person := self._somebody_who_trains()], returning=False)
            return person, None
        what = self._chance.random()
        if not learnt_from and (what < 0.2 or not people):
            return self._chance.choice([*self.world.gone()[-20:], "a stranger"]), None
        person = self._chance.choice(people)
        if what < 0.3:
            return person, self._chance.sample(self.world.items_of(person), 1)
        return person, None

    def _forget(self, person: str, items: list[str] | None) -> None:
        key = f"{self.seed}-{len(self.world.answers)}"
        self.journal.note("wish", what="forget", key=key, person=person, items=items)
        self._utter_again()

    def _utter_again(self) -> None:
        """The open wish, until it is answered."""
        wish = self.world.open_wish
        assert wish is not None
        if wish["what"] == "import":
            code = self._nursery.run(*self._import_arguments(wish["people"], wish["returning"]))
            if code != 0:
                raise Stuck(f"an import failed with {code}; see {self.folder / 'log'}")
            self.journal.note("imported")
            return
        answer = self._insist(wish)
        held = answer["state"] != "completed"
        self.journal.note("answered", request_id=answer["request_id"], fence=answer["fence"], held=held)

    def _insist(self, wish: dict[str, Any]) -> dict[str, Any]:
        body = {"user_id": wish["person"]} | ({} if wish["items"] is None else {"item_ids": wish["items"]})
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                answer = self._serving().post("/forget", body, **{"Idempotency-Key": wish["key"]})
                if answer.status_code == 202:
                    return dict(answer.json())
                if answer.status_code != 503:
                    self._find(f"POST /forget was answered {answer.status_code}: {answer.text}")
        raise Stuck("a deletion was not accepted")

    def _ask_again(self) -> None:
        """The same key gives the same request, whatever died since."""
        key = self._chance.choice(sorted(self.world.answers))
        known = self.world.answers[key]
        if self._insist(known.wish)["request_id"] != known.request_id:
            self._find(f"the key {key} now stands for another request than {known.request_id}")

    def _recommend(self) -> None:
        gone, people = self.world.gone(), self.world.people()
        fence = max((answer.fence for answer in self.world.answers.values()), default=0)
        with suppress(httpx.TransportError):
            if gone:
                answer = self._serving().post("/recommend", {"user_id": self._chance.choice(gone), "strict": True})
                if answer.status_code not in (404, 503):
                    self._find(f"a forgotten person was answered {answer.status_code}: {answer.text}")
            if people:
                answer = self._serving().post("/recommend", {"user_id": self._chance.choice(people), "strict": True})
                if answer.status_code not in (200, 503) or (answer.is_success and answer.json()["fence"] < fence):
                    self._find(f"after fence {fence} a recommendation was answered {answer.status_code}: {answer.text}")

    # Processes

    def _everybody_works(self) -> None:
        self._serving()
        if self._worker is None or self._worker.ended():
            self._forget_locks()
            self._worker = self._nursery.start("worker")

    def _forget_locks(self) -> None:
        """Empty Redis, which may be lost at any time: the lock of a worker that was killed would be waited for."""
        if self._servers:
            with redis.Redis.from_url(self._servers["LETHE_REDIS_URL"]) as client:
                client.flushall()

    def _serving(self) -> Server:
        while self._server is None or not self._server.answers():
            if self._server is not None:
                self._server.close()
            self._server = Server(self._nursery, self._key)
        return self._server

    # Checks

    def check(self) -> None:
        """Let everything come to rest; then nothing may be lost, and all must be as if made afresh."""
        self._armed.unlink(missing_ok=True)
        self._everybody_works()
        if not wait_until(self._all_completed):
            self._find("lost: deletions are still owed, long after they were accepted")
        wait_until(self._at_rest)
        if self.world.imported:
            if (code := self._nursery.run("build")) != 0:
                self._find(f"a build failed with {code}")
            self.journal.note("built")
        wait_until(self._at_rest)
        if (code := self._nursery.run("verify")) != 0:
            self._find(f"verify failed with {code}")
        for text in checks.everything(self.home, self.clean_build(), self.world):
            self._find(text)
        for request_id, receipt in checks.query(self.home, "SELECT request_id, receipt FROM forget_requests"):
            if request_id not in self.world.receipts and receipt is not None:
                self.journal.note("receipt", request_id=request_id, receipt=receipt)

    def _all_completed(self) -> bool:
        self._everybody_works()
        return checks.waiting(self.home) == 0

    def _at_rest(self) -> bool:
        """Nobody is in the midst of a pass, and what the ledger calls published is what the store serves, and all it holds."""
        with (self.home / "worker.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            # A worker that was killed in a full build may have a successor that has not begun yet.
            if self._somebody_has_the_lock() or checks.is_behind(self.home):
                return False
            [(published,)] = checks.query(self.home, "SELECT generation FROM state")
            active = (self.home / "store" / "ACTIVE").read_text().strip()
            return active == published and Inspector(self._store()).look(published).clean

    def _store(self) -> Store:
        keys = KeysInMemory(checks.keys_of(self.home)) if self._encrypted else None
        return open_store((self.home / "store").absolute().as_uri(), self.home / "store", keys=keys)

    def _somebody_has_the_lock(self) -> bool:
        if not self._servers:
            return False
        with redis.Redis.from_url(self._servers["LETHE_REDIS_URL"]) as client:
            return bool(client.exists(LOCK))

    def clean_build(self) -> Path:
        """A home that never knew anything but the rows that should be left, brought in in another order."""
        rows = sorted(self.world.rows.items())
        name = hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
        clean = self.folder / "clean" / name
        if not clean.exists():
            shutil.rmtree(clean.parent, ignore_errors=True)
            clean.mkdir(parents=True)
            self._chance.shuffle(rows)
            changed = {"LETHE_HOME": str(clean)}
            for arguments in (write_tables(self.folder / "tables", rows), ["build"]):
                if (code := self._clean.run(*arguments, **changed)) != 0:
                    self._find(f"a clean build failed with {code}")
        return clean

    def prove_in_fresh_processes(self) -> None:
        """The same once more as an operator would: nothing here is a fork of anything."""
        command = [sys.executable, "-m", "service.entrypoints", "verify", "--rebuild"]
        finished = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            self._find(f"mismatch: verify --rebuild failed: {finished.stderr.strip()}")

    def _find(self, text: str) -> None:
        self.journal.note("finding", text=text)

    def report(self) -> str:
        lost = sum(finding.startswith("lost") for finding in self.world.findings)
        per_place = ", ".join(f"{place} {count}" for place, count in sorted(self.world.kills.items()))
        result = f"{self.kills} kills, {lost} lost, {len(self.world.findings) - lost} mismatches"
        return "\n".join([f"kills by place: {per_place}", *self.world.findings, f"seed {self.seed}: {result}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", help="default: drawn, and printed; a folder that was begun keeps its own")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--encrypted", action="store_true", help="a store whose artifacts have keys of their own")
    parser.add_argument("--servers", action="store_true", help="on a PostgreSQL and a Redis, with keys; begun afresh")
    given = parser.parse_args()
    model = given.folder / "model"
    if given.servers:
        shutil.rmtree(given.folder, ignore_errors=True)  # the database that the journal tells of ended with its run
    if not model.exists():
        save_model(model)
    with ExitStack() as stack:
        servers = servers_of(stack, given.folder) if given.servers else None
        forks = stack.enter_context(Forks())
        torture = stack.enter_context(Torture(given.folder, model, forks, given.seed, servers, given.encrypted))
        print(f"seed {torture.seed}: {torture.kills} of {given.kills} kills done in {given.folder}", flush=True)
        began, before = time.monotonic(), torture.kills
        torture.run(given.kills, lambda text: print(f"{text}, {time.monotonic() - began:.0f} s", flush=True))
        torture.prove_in_fresh_processes()
        print(torture.report())
        print(f"{(time.monotonic() - began) / max(1, torture.kills - before):.2f} s per kill")
        if torture.world.findings:
            print(f"kept: {given.folder} (journal.jsonl tells all; log is what the processes said)")
            print(f"again: python -m tests.torture.runner --kills {given.kills} --seed {torture.seed} --folder NEW")
        return 1 if torture.world.findings else 0


def save_model(folder: Path) -> None:
    """The smallest model that Lethe can use."""
    from tests import conftest  # noqa: PLC0415 - torch and all, which takes seconds

    tokenizer = conftest.tiny_tokenizer(480)
    folder.parent.mkdir(parents=True, exist_ok=True)
    conftest.save_tiny_model(folder, "llama", tokenizer, MODEL_SIZES)


if __name__ == "__main__":
    sys.exit(main())

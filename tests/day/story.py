"""A scripted day of an online service: events in order of time, and beside them requests, new items, hidden items, deletions.

What is promised on the way is looked at on the way: whoever is forgotten is a stranger and their events are refused, what is
hidden is in no answer. In the evening, everything that arrived is built, and the generation must be that of a clean
installation which imported the same rows without the forgotten ones.
"""

from __future__ import annotations

import csv
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from service.data.importers import Dataset
from service.forgetting.receipts import ReceiptSigner, verify
from service.records import Interaction, Item
from tests.e2e.conftest import Installation, eventually

_PAUSE_SECONDS = 0.02  # of a visitor, between two requests: builds need processors, too
_ANSWERS_A_BATCH = 2  # at least, so that neither events nor requests are over before the others begin
_VISITORS = 2
_WITHIN = 1800.0  # seconds until the last deletion of a day must be completed


@dataclass(frozen=True, slots=True)
class Plan:
    """How much happens in a day: rows that stream in (those before them are imported), and what goes on meanwhile."""

    streamed: int
    batch: int = 500
    deletions: int = 20  # of people; beside each, a single interaction of somebody else
    hidden: int = 20
    seed: int = 1


@dataclass(slots=True)
class Told:
    """What was done and found in a day."""

    events: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    new_items: int = 0
    hidden: int = 0
    receipts: int = 0
    masked_adapters: int = 0
    streaming_seconds: float = 0.0
    generation: str = ""
    clean_generation: str = ""
    verified: str = ""

    def lines(self) -> list[str]:
        """A report for people."""
        return [
            f"events: {dict(sorted(self.events.items()))} in {self.streaming_seconds:.0f} s",
            f"answers: {self.answers}; new items: {self.new_items}; hidden items: {self.hidden}",
            f"deletions: {self.receipts} receipts that verify, {self.masked_adapters} adapters masked on the way",
            f"verify --rebuild: {self.verified.strip().splitlines()[-1]}",
            f"generation: {self.generation}",
            f"of a clean import without the forgotten: {self.clean_generation}",
        ]


class Asked(Protocol):
    """A client, of what a day asks of it."""

    def recommend(
        self, user_id: str | None = None, *, history: Mapping[str, Any] | None = None, top_k: int = 10
    ) -> Any: ...

    def similar_items(self, item_id: str, *, top_k: int = 10) -> Any: ...

    def take_interactions(self, interactions: Sequence[Mapping[str, Any]]) -> Any: ...

    def put_items(self, items: Sequence[Mapping[str, Any]]) -> Any: ...

    def patch_item(self, item_id: str, body: Mapping[str, Any]) -> Any: ...

    def forget(self, user_id: str) -> Any: ...

    def forget_interactions(self, user_id: str, item_ids: Sequence[Mapping[str, Any]]) -> Any: ...

    def wait_for_receipt(self, request_id: str, *, seconds: float, every: float) -> bytes: ...


class Day:
    """One day, on an installation that is still empty."""

    def __init__(self, installation: Installation, dataset: Dataset, plan: Plan) -> None:
        self._installation, self._plan = installation, plan
        self._item_type = dataset.item_type
        self._items = {item.item_id: item for item in dataset.items}
        rows = sorted(dataset.interactions, key=lambda row: (row.timestamp, row.user_id, row.item_id))
        self._before, self._stream = rows[: -plan.streamed], rows[-plan.streamed :]
        self._known = {row.item_id for row in self._before}
        self._gone: set[str] = set()  # people whose deletion was acknowledged
        self._going: set[str] = set()  # and those for whom it may have been asked
        self._pairs: set[tuple[str, str]] = set()  # single interactions that were forgotten
        self._hidden: set[str] = set()
        self._requests: list[str] = []
        self._sent = 0
        self._over = threading.Event()
        self.told = Told()

    def dawn(self) -> None:
        """What was there before: the older rows, and the items that they name, imported and built."""
        self._import(self._installation, self._before, self._known)
        self._installation.build()

    def pass_by(self, lethe: Asked) -> None:
        """The day itself, on a running server with a worker."""
        with ThreadPoolExecutor(_VISITORS + 3) as threads:
            parts: list[Callable[[Asked], None]] = [self._events, self._hide, self._forget]
            running = [threads.submit(self._until_over, part, lethe) for part in parts]
            running += [threads.submit(self._visit, lethe, number) for number in range(_VISITORS)]
            for part in running:
                part.result()
            self._collect(lethe)

    def evening(self, clean: Installation) -> None:
        """Everything that arrived is built, built again in an empty store, and imported into an installation of its own."""
        self.told.generation = self._installation.build()["generation"]
        eventually(lambda: not self._installation.report("status")["owed"], "nothing is owed", _WITHIN)
        self.told.verified = self._installation.lethe("verify", "--rebuild")
        stay = [row for row in (*self._before, *self._stream) if self._stays(row)]
        self._import(clean, stay, self._known)
        self.told.clean_generation = clean.build()["generation"]

    def _stays(self, row: Interaction) -> bool:
        return row.user_id not in self._gone and (row.user_id, row.item_id) not in self._pairs

    def _import(self, installation: Installation, rows: Sequence[Interaction], items: set[str]) -> None:
        tables = _written(installation.folder, [self._items[item] for item in sorted(items)], rows)
        installation.lethe("import", "table", *tables, "--item-type", self._item_type)

    # The parts of a day, each a thread

    def _until_over(self, part: Callable[[Asked], None], lethe: Asked) -> None:
        try:
            part(lethe)
        except BaseException:
            self._over.set()
            raise

    def _events(self, lethe: Asked) -> None:
        began = time.monotonic()
        for at in range(0, len(self._stream), self._plan.batch):
            if self._over.is_set():
                return
            rows = self._stream[at : at + self._plan.batch]
            self._state_items(lethe, {row.item_id for row in rows} - self._known)
            gone = set(self._gone)
            told = lethe.take_interactions([_event(row) for row in rows])
            self.told.events.update(told.outcomes)
            for row, outcome in zip(rows, told.outcomes, strict=True):
                assert outcome == "forgotten" or row.user_id not in gone, outcome
                assert outcome == "new" or row.user_id in self._going, outcome
            self._sent = at + len(rows)
            answers = self.told.answers
            while self.told.answers < answers + _ANSWERS_A_BATCH and not self._over.wait(0.01):
                pass
        self.told.streaming_seconds = time.monotonic() - began
        self._over.set()

    def _state_items(self, lethe: Asked, items: set[str]) -> None:
        if items:
            self.told.new_items += lethe.put_items([_stated(self._items[item]) for item in sorted(items)]).created
            self._known |= items

    def _visit(self, lethe: Asked, number: int) -> None:
        chance = random.Random(f"{self._plan.seed} visitor {number}")
        people = sorted({row.user_id for row in (*self._before, *self._stream)})
        while not self._over.wait(_PAUSE_SECONDS):
            person = chance.choice(people)
            gone, hidden = person in self._gone, set(self._hidden)
            answer = lethe.recommend(person, top_k=50)
            assert not gone or answer.cold, "who was forgotten is known"
            shown = [item.item_id for item in answer.items]
            if shown[0] is not None and chance.random() < 0.2:
                shown += [item.item_id for item in lethe.similar_items(shown[0], top_k=50).items]
            assert not hidden.intersection(item for item in shown if item), "what was hidden is shown"
            self.told.answers += 1

    def _hide(self, lethe: Asked) -> None:
        chance = random.Random(f"{self._plan.seed} hides")
        for _ in self._moments(self._plan.hidden):
            best = [item.item_id for item in lethe.recommend(history={}, top_k=20).items if item.item_id]
            item = chance.choice(best)
            assert lethe.patch_item(item, {"hidden": True}).hidden
            self._hidden.add(item)
            self.told.hidden += 1

    def _forget(self, lethe: Asked) -> None:
        chance = random.Random(f"{self._plan.seed} forgets")
        for _ in self._moments(self._plan.deletions):
            held = [row for row in (*self._before, *self._stream[: self._sent]) if row.user_id not in self._going]
            coming = {row.user_id for row in self._stream[self._sent :]}
            whole = chance.choice([row for row in held if row.user_id in coming] or held)
            single = chance.choice(held)
            self._going.add(whole.user_id)
            asked = lethe.forget(whole.user_id)
            self._gone.add(whole.user_id)
            self._note(asked)
            if single.user_id != whole.user_id and (single.user_id, single.item_id) not in self._pairs:
                self._pairs.add((single.user_id, single.item_id))
                self._note(lethe.forget_interactions(single.user_id, [{"item_id": single.item_id}]))

    def _moments(self, number: int) -> Iterator[int]:
        """As many moments as that, spread over the stream."""
        for one in range(number):
            while self._sent < len(self._stream) * one / number and not self._over.wait(0.01):
                pass
            yield one

    def _note(self, asked: Any) -> None:
        assert asked.held
        self._requests.append(asked.request_id)
        self.told.masked_adapters += len(asked.affected_shards)

    def _collect(self, lethe: Asked) -> None:
        key = ReceiptSigner.open(self._installation.home / "receipts.pem").public_key_pem()
        for request in self._requests:
            receipt = lethe.wait_for_receipt(request, seconds=_WITHIN, every=0.2).decode()
            assert verify(receipt, key)["held"]
            self.told.receipts += 1


def _event(row: Interaction) -> dict[str, Any]:
    said: dict[str, Any] = {"liked": row.liked} if row.rating is None else {"rating": row.rating}
    return {"user_id": row.user_id, "item_id": row.item_id, "timestamp": row.timestamp, **said}


def _stated(item: Item) -> dict[str, Any]:
    return {
        "item_id": item.item_id,
        "title": item.title,
        "year": item.year,
        "categories": list(item.genres),
        "author": item.author,
    }


def _written(folder: Path, items: Sequence[Item], rows: Sequence[Interaction]) -> list[str]:
    """The options that import these as tables."""
    catalog, people = folder / "items.csv", folder / "interactions.csv"
    with catalog.open("w", newline="") as file:
        lines = [[item.item_id, item.title, item.year, "|".join(item.genres), item.author] for item in items]
        csv.writer(file).writerows([["item_id", "title", "year", "genres", "author"], *lines])
    with people.open("w", newline="") as file:
        said = [[row.user_id, row.item_id, int(row.liked), row.timestamp] for row in rows]
        csv.writer(file).writerows([["user_id", "item_id", "liked", "timestamp"], *said])
    return ["--items", str(catalog), "--interactions", str(people)]

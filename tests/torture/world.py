"""What must be true: a model of the installation, grown from a journal of all that was asked of it and answered.

The journal is written before each wish is uttered and after it is answered, so a run that was interrupted anywhere goes on
with the wish that was left open.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.data.samples import is_validation_user

VALIDATION_PERCENT = 25
NOUN = "movie"
ITEMS = {f"film{number:02}": f"F{number:02}" for number in range(14)}
RATED_EACH = 5
EVERYTHING = "*"  # in place of an item: the whole person

Entry = dict[str, Any]
Rows = dict[tuple[str, str], tuple[int, int]]  # (person, item) -> (liked, time)


@dataclass
class Answer:
    """What was acknowledged under an idempotency key."""

    wish: Entry
    request_id: str
    fence: int
    held: bool  # something was held, so it is to be retrained


@dataclass
class World:
    """Everything that the journal tells."""

    rows: Rows = field(default_factory=dict)
    graves: set[tuple[str, str]] = field(default_factory=set)
    answers: dict[str, Answer] = field(default_factory=dict)
    receipts: dict[str, str] = field(default_factory=dict)  # request id -> the first receipt
    kills: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    born: int = 0
    round: int = 0
    seed: str | None = None
    imported: bool = False  # rows came that no deletion has brought into a generation since
    open_wish: Entry | None = None

    def take(self, entry: Entry) -> None:
        getattr(self, f"_take_{entry['kind']}")(entry)

    def people(self) -> list[str]:
        return sorted({person for person, _ in self.rows})

    def gone(self) -> list[str]:
        return sorted({person for person, item in self.graves if item == EVERYTHING} - set(self.people()))

    def items_of(self, person: str) -> list[str]:
        return sorted(item for owner, item in self.rows if owner == person)

    def _take_begin(self, entry: Entry) -> None:
        self.seed = entry["seed"]

    def _take_wish(self, entry: Entry) -> None:
        self.open_wish = entry
        self.born = max(self.born, entry.get("born", 0))

    def _take_imported(self, _: Entry) -> None:
        assert self.open_wish is not None
        returning = self.open_wish["returning"]
        given = {(person, item): said for person in self.open_wish["people"] for item, said in rows_of(person).items()}
        stones = {pair: {pair, (pair[0], EVERYTHING)} & self.graves for pair in given}
        for pair, said in given.items():
            if returning or not stones[pair]:
                self.graves -= stones[pair]
                self.imported = self.imported or self.rows.get(pair) != said
                self.rows[pair] = said
        self.open_wish = None

    def _take_answered(self, entry: Entry) -> None:
        wish = self.open_wish
        assert wish is not None
        self.open_wish = None
        self.answers[wish["key"]] = Answer(wish, entry["request_id"], entry["fence"], entry["held"])
        person, items = wish["person"], wish["items"]
        for item in self.items_of(person) if items is None else items:
            self.rows.pop((person, item), None)
        self.graves |= {(person, item) for item in items or (EVERYTHING,)}
        self.imported = self.imported and not entry["held"]

    def _take_built(self, _: Entry) -> None:
        self.imported = False

    def _take_receipt(self, entry: Entry) -> None:
        self.receipts.setdefault(entry["request_id"], entry["receipt"])

    def _take_kill(self, entry: Entry) -> None:
        self.kills[entry["where"]] += 1

    def _take_round(self, entry: Entry) -> None:
        self.round = entry["number"]

    def _take_finding(self, entry: Entry) -> None:
        self.findings.append(entry["text"])


class Journal:
    """The journal's file, and the world that it tells of."""

    def __init__(self, path: Path) -> None:
        self.world = World()
        self._path = path
        if path.exists():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            path.write_bytes(whole)  # whoever was interrupted while writing a line has done nothing yet
            for line in whole.splitlines():
                self.world.take(json.loads(line))

    def note(self, kind: str, **values: Any) -> None:
        entry = {"kind": kind, **values}
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self.world.take(entry)


def rows_of(person: str) -> dict[str, tuple[int, int]]:
    """What a person said, always the same: item -> (liked, time)."""
    chance = random.Random(person)
    chosen = chance.sample(sorted(ITEMS), RATED_EACH)
    return {item: (chance.randrange(2), 1_000 + when) for when, item in enumerate(chosen)}


def trains(person: str) -> bool:
    """Whether an adapter learns from this person; from the others come the validation rows."""
    return not is_validation_user(person, VALIDATION_PERCENT, 0)


def write_tables(folder: Path, rows: Iterable[tuple[tuple[str, str], tuple[int, int]]]) -> list[str]:
    """The catalog and these rows, as arguments of `lethe`."""
    folder.mkdir(exist_ok=True)
    items, interactions = folder / "items.csv", folder / "interactions.csv"
    items.write_text("item_id,title\n" + "".join(f"{item},{title}\n" for item, title in ITEMS.items()))
    lines = (f"{person},{item},{liked},{when}\n" for (person, item), (liked, when) in rows)
    interactions.write_text("user_id,item_id,liked,timestamp\n" + "".join(lines))
    return ["import", "table", "--items", str(items), "--interactions", str(interactions), "--noun", NOUN]

"""The clients of a run: they ask for recommendations and to be forgotten, all at once, and write down every answer."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from tests.e2e.conftest import ITEMS, TITLES

from .checker import ACCEPTED, OK, Completed, Forgotten, Hidden, History, Recommended
from .observer import Observer, Seen
from .replicas import Replica, wait_until

_LOOK_SECONDS = 0.2  # between two looks at the ledger: a build takes longer than this
_SELDOMER = 20  # times longer are pauses once the plan is carried out: the processors are for what is still to retrain


@dataclass(frozen=True, slots=True)
class Plan:
    """Of `forget_every` turns one is a deletion; every third deletion is of a single interaction.

    In the place of every ninth stands a restriction. As often an item is hidden, until half of them are.
    """

    operations: int
    clients: int
    seed: int
    forget_every: int
    pause: float  # seconds that a client waits between two turns, on average

    @property
    def people(self) -> int:
        """So many that at the end about a third of them is left."""
        return self.operations // self.forget_every


class People:
    """Whoever may still ask to be forgotten, in a random order that clients share."""

    def __init__(self, rated: Mapping[str, Sequence[str]], chance: random.Random) -> None:
        self.rated = rated
        self.names = list(rated)
        self._leaving = chance.sample(self.names, len(self.names))
        self._changing = chance.sample(self.names, len(self.names))

    def next_to_leave(self) -> str:
        return self._leaving.pop()  # one step, so threads may share it

    def next_to_change(self) -> str:
        """Nobody twice: an adapter made after an interaction is forgotten never saw it, and may be used."""
        return self._changing.pop()


class Run:
    """One load, from the first question to the last receipt. `history` tells what was observed."""

    def __init__(self, plan: Plan, replicas: tuple[Replica, Replica], people: People, observer: Observer) -> None:
        self.plan = plan
        self.replicas = replicas
        self.people = people
        self.observer = observer
        self.seconds = 0.0  # that the clients took
        self._recommended: list[Recommended] = []
        self._forgotten: list[tuple[Forgotten, Seen]] = []
        self._completed: dict[str, Completed] = {}
        self._hidden: list[Hidden] = []
        self._shown = random.Random(plan.seed).sample(ITEMS, len(ITEMS) // 2)  # of those that are to be hidden
        self._turns = itertools.count(1)
        self._lock = threading.Lock()
        self._settled = threading.Event()

    def perform(self) -> None:
        over = threading.Event()
        with ThreadPoolExecutor(self.plan.clients + 1) as threads:
            watching = threads.submit(self._watch, over)
            began = time.monotonic()
            visits = [threads.submit(Visitor(self, number).visit) for number in range(self.plan.clients)]
            try:
                for visit in visits:
                    visit.result()
            finally:
                self.seconds = time.monotonic() - began
                over.set()
            watching.result()
        # A last deletion may have been under way when the watch ended.
        wait_until(self._look, "every deletion was completed")
        self._ask_once_more()

    def next_turn(self) -> int | None:
        """The number of the next turn; None when enough was done and nothing is owed.

        Visitors stay until then: a change of generations that nobody sees shows nothing.
        """
        with self._lock:
            return None if self.enough() and self._settled.is_set() else next(self._turns)

    def enough(self) -> bool:
        """The plan is carried out. A deletion brings questions along, which count too."""
        return len(self._recommended) + len(self._forgotten) >= self.plan.operations

    def recommend(self, replica: Replica, body: Mapping[str, Any]) -> None:
        begin = time.monotonic()
        status, content = replica.post("/recommend", body)
        answer = Recommended(begin, time.monotonic(), replica.name, status, body.get("user_id"))
        self._recommended.append(_explained(answer, json.loads(content)) if status == OK else answer)

    def forget(self, replica: Replica, user_id: str, items: Sequence[str] = ()) -> None:
        seen = self.observer.seen(user_id)
        body = {"user_id": user_id, "item_ids": list(items)} if items else {"user_id": user_id}
        begin = time.monotonic()
        status, content = replica.post("/forget", body)
        wish = Forgotten(begin, time.monotonic(), replica.name, status, user_id, whole=not items)
        if status == ACCEPTED:
            answer = json.loads(content)
            wish = replace(wish, request_id=answer["request_id"], fence=answer["fence"])
        self._forgotten.append((wish, seen))

    def restrict(self, replica: Replica, user_id: str) -> None:
        seen = self.observer.seen(user_id)
        begin = time.monotonic()
        status, _ = replica.put(f"/users/{user_id}/restriction", {"ground": "objection"})
        wish = Forgotten(begin, time.monotonic(), replica.name, status, user_id, whole=True, restricts=True)
        self._forgotten.append((wish, seen))

    def hide_any(self, replica: Replica) -> str | None:
        """Hide an item; its title, or None where enough are."""
        try:
            item_id, title = self._shown.pop()  # one step, so threads may share it
        except IndexError:
            return None
        begin = time.monotonic()
        status, _ = replica.patch(f"/items/{item_id}", {"hidden": True})
        self._hidden.append(Hidden(begin, time.monotonic(), replica.name, status, item_id))
        return title

    def history(self) -> History:
        wishes = [
            _with_witnesses(wish, seen | self.observer.masked_for(wish.request_id)) for wish, seen in self._forgotten
        ]
        hidden = tuple(self._hidden)
        return History(tuple(self._recommended), tuple(wishes), tuple(self._completed.values()), hidden)

    def _watch(self, over: threading.Event) -> None:
        try:
            while not (self.enough() or over.wait(_LOOK_SECONDS)):
                self._look()
            wait_until(self._look, "every deletion was completed")
        finally:
            self._settled.set()

    def _look(self) -> bool:
        """Note masks and new receipts; whether nothing is owed any more."""
        self.observer.look()
        accepted = [wish.request_id for wish, _ in tuple(self._forgotten) if wish.request_id]
        pending = [request_id for request_id in accepted if request_id not in self._completed]
        for number, request_id in enumerate(pending):
            status, content = self.replicas[number % 2].get(f"/forget/{request_id}/receipt")
            if status != OK:
                return False  # those that came later will not be completed earlier
            generation = json.loads(content)["receipt"]["generation"]
            self._completed[request_id] = Completed(
                time.monotonic(), request_id, generation["before"], generation["after"]
            )
        return True

    def _ask_once_more(self) -> None:
        """When all is done, whoever left is unknown on both replicas, and both rank with the last generation."""
        for wish, _ in tuple(self._forgotten):
            history = {"liked": self.people.rated[wish.user_id][-4:-1]}
            for replica in self.replicas:
                for subject in ({"user_id": wish.user_id, "strict": True}, {"history": history}):
                    self.recommend(replica, {**subject, "candidates": TITLES[:1], "explain": True})


class Visitor:
    """One client. Whoever asks to be forgotten then asks at once what would show that they were not."""

    def __init__(self, run: Run, number: int) -> None:
        self._run = run
        self._chance = random.Random(run.plan.seed * 1_000 + number)

    def visit(self) -> None:
        while (turn := self._run.next_turn()) is not None:
            number, rest = divmod(turn, self._run.plan.forget_every)
            if rest == 0 and not self._run.enough():
                self._leave(number)
            elif rest == self._run.plan.forget_every // 2:
                self._hide()
            else:
                self._recommend(self._chance.choice(self._run.replicas), self._anything())
            pause = self._run.plan.pause * (_SELDOMER if self._run.enough() else 1)
            time.sleep(self._chance.expovariate(1 / pause))

    def _leave(self, number: int) -> None:
        here, elsewhere = self._chance.sample(self._run.replicas, 2)
        whole = number % 3 != 0
        user = self._run.people.next_to_leave() if whole else self._run.people.next_to_change()
        rated = self._run.people.rated[user]
        if number % 9 == 1:
            self._run.restrict(here, user)
        else:
            self._run.forget(here, user, () if whole else rated[-1:])
        for replica in (elsewhere, here):
            self._recommend(replica, {"user_id": user, "strict": True})
            # Nobody's rows are nearer to this question than their own.
            self._recommend(replica, {"history": {"liked": rated[-4:-1]}})

    def _hide(self) -> None:
        here, elsewhere = self._chance.sample(self._run.replicas, 2)
        if (title := self._run.hide_any(here)) is None:
            return
        history = {"liked": self._chance.sample(TITLES, 2)}
        for replica in (elsewhere, here):
            self._run.recommend(replica, {"history": history, "candidates": [title, *TITLES[:1]], "explain": True})
            self._run.recommend(replica, {"history": history, "top_k": 20, "explain": True})

    def _anything(self) -> dict[str, Any]:
        user = self._chance.choice(self._run.people.names)  # who may have left
        questions: list[dict[str, Any]] = [
            {"user_id": user, "strict": True},
            {"history": {"liked": self._run.people.rated[user][:3]}},
            {"history": {"liked": self._chance.sample(TITLES, 2), "disliked": ["Nobody Made This (2031)"]}},
        ]
        return self._chance.choice(questions)

    def _recommend(self, replica: Replica, subject: Mapping[str, Any]) -> None:
        candidates = self._chance.sample(TITLES, self._chance.randint(1, 3))
        self._run.recommend(replica, {**subject, "candidates": candidates, "explain": True})


def _explained(answer: Recommended, content: Mapping[str, Any]) -> Recommended:
    return replace(
        answer,
        fence=content["fence"],
        generation=content["generation"],
        weights=content["weights"],
        neighbors=tuple(content["neighbours"]),
        memories=tuple(content["memories"]),
        item_model=content["item_model"],
        items=tuple(item["item_id"] for item in content["items"] if item["item_id"] is not None),
    )


def _with_witnesses(wish: Forgotten, seen: Seen) -> Forgotten:
    kinds = ("adapter", "row", "memory")
    adapters, rows, memories = (frozenset(key for of, key in seen if of == kind) for kind in kinds)
    return replace(wish, adapters=adapters, rows=rows, memories=memories)

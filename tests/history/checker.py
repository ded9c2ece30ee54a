"""Pure: what was asked and answered, on any number of replicas -> what of it breaks a promise about deletions and hidden items.

A restriction promises what a deletion does, until it is lifted.

All times are of one monotonic clock on the machine of whoever asked: `begin` before the first byte was sent, `end` after the
last one was received. So "begun later than another ended" is certain, and everything else proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

OK, ACCEPTED, NOT_FOUND = 200, 202, 404
REFUSED = frozenset({429, 503})  # honest: nothing was scored, and the caller is told to come again


@dataclass(frozen=True, slots=True)
class Recommended:
    """One `POST /recommend` and its answer. `user_id` is None for an inline history; the rest is of a 200 alone."""

    begin: float
    end: float
    replica: str
    status: int
    user_id: str | None = None
    fence: int = 0
    generation: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    neighbors: tuple[str, ...] = ()
    memories: tuple[str, ...] = ()
    item_model: bool = False
    items: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forgotten:
    """One `POST /forget`, its answer, and what an observer of the ledger knows to have seen what is to be forgotten.

    Or one `PUT /users/{id}/restriction` that is never lifted: it forbids what a deletion forbids, and has no receipt.
    """

    begin: float
    end: float
    replica: str
    status: int
    user_id: str
    whole: bool  # all of the user, not some interactions
    request_id: str = ""
    fence: int = 0
    adapters: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()
    memories: frozenset[str] = frozenset()
    restricts: bool = False

    @property
    def acknowledged(self) -> bool:
        return self.status == (OK if self.restricts else ACCEPTED)


@dataclass(frozen=True, slots=True)
class Completed:
    """A deletion whose receipt was read, `end` after its last byte came: one generation has replaced another."""

    end: float
    request_id: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Hidden:
    """One `PATCH /items/{id}` that hides an item for good, and its answer."""

    begin: float
    end: float
    replica: str
    status: int
    item_id: str


@dataclass(frozen=True, slots=True)
class History:
    recommended: tuple[Recommended, ...] = ()
    forgotten: tuple[Forgotten, ...] = ()
    completed: tuple[Completed, ...] = ()
    hidden: tuple[Hidden, ...] = ()


@dataclass(frozen=True, slots=True)
class Violation:
    """`rule` is one of status, fence, adapter, row, memory, person, item model, generation, hidden item."""

    rule: str
    what: str


def check(history: History) -> list[Violation]:
    """Every broken promise."""
    return [
        *_statuses(history),
        *_after_acknowledgements(history),
        *_item_models(history),
        *_generations(history),
        *_hidden_items(history),
    ]


# What is hidden is in no answer from then on


def _hidden_items(history: History) -> Iterable[Violation]:
    ended: dict[str, float] = {}
    for one in history.hidden:
        if one.status == OK:
            ended[one.item_id] = min(one.end, ended.get(one.item_id, one.end))
        elif one.status not in REFUSED:
            yield Violation("status", f"{_place(one)}: to hide an item was answered {one.status}")
    for answer in history.recommended:
        for item in answer.items:
            if ended.get(item, answer.begin) < answer.begin:
                yield Violation("hidden item", f"{_place(answer)}: shows {item}, which had been hidden")


# Which answers there may be at all


def _statuses(history: History) -> Iterable[Violation]:
    asked_to_go: dict[str, float] = {}
    for wish in history.forgotten:
        if wish.whole:
            asked_to_go[wish.user_id] = min(wish.begin, asked_to_go.get(wish.user_id, wish.begin))
        if not wish.acknowledged and wish.status not in REFUSED:
            asked = "a restriction" if wish.restricts else "/forget"
            yield Violation("status", f"{_place(wish)}: {asked} was answered {wish.status}")
    for answer in history.recommended:
        may_be_gone = answer.user_id is not None and asked_to_go.get(answer.user_id, answer.end) < answer.end
        if answer.status not in {OK, *REFUSED} and not (answer.status == NOT_FOUND and may_be_gone):
            yield Violation("status", f"{_place(answer)}: /recommend was answered {answer.status}")


# What an acknowledged deletion forbids from then on


def _after_acknowledgements(history: History) -> Iterable[Violation]:
    acknowledged = sorted((wish for wish in history.forgotten if wish.acknowledged), key=lambda wish: wish.end)
    answers = sorted((one for one in history.recommended if one.status == OK), key=lambda answer: answer.begin)
    law = _Law()
    passed = 0
    for answer in answers:
        while passed < len(acknowledged) and acknowledged[passed].end < answer.begin:
            law.add(acknowledged[passed])
            passed += 1
        yield from law.broken_by(answer)


class _Law:
    """All that holds at one moment. It only grows: nothing comes back in a history."""

    def __init__(self) -> None:
        self.fence = 0
        self.adapters: set[str] = set()
        self.rows: set[str] = set()
        self.memories: set[str] = set()
        self.people: set[str] = set()

    def add(self, wish: Forgotten) -> None:
        self.fence = max(self.fence, wish.fence)
        self.adapters |= wish.adapters
        self.rows |= wish.rows
        self.memories |= wish.memories
        self.people |= {wish.user_id} if wish.whole else set()

    def broken_by(self, answer: Recommended) -> Iterable[Violation]:
        place = _place(answer)
        if answer.fence < self.fence:
            yield Violation("fence", f"{place}: fence {answer.fence}, though {self.fence} was acknowledged before")
        for digest in sorted(_used(answer.weights) & self.adapters):
            yield Violation("adapter", f"{place}: weight {answer.weights[digest]} for {digest}, which saw the person")
        for key in sorted(self.rows.intersection(answer.neighbors)):
            yield Violation("row", f"{place}: weighed with row {key}, which is of a forgotten person")
        for digest in sorted(self.memories.intersection(answer.memories)):
            yield Violation("memory", f"{place}: counted with {digest}, which counts a forgotten person")
        if answer.user_id in self.people:
            yield Violation("person", f"{place}: ranked for a person who is forgotten or restricted")


def _used(weights: Mapping[str, float]) -> set[str]:
    # Not "above 0": a weight that is no number, or below 0, was not masked either.
    return {digest for digest, weight in weights.items() if weight != 0}


# An item model has seen everybody in its generation


def _item_models(history: History) -> Iterable[Violation]:
    accepted = {wish.request_id: wish for wish in history.forgotten if wish.status == ACCEPTED}
    ended = {done.before: accepted[done.request_id].end for done in history.completed if done.request_id in accepted}
    for answer in history.recommended:
        if answer.item_model and ended.get(answer.generation, answer.begin) < answer.begin:
            yield Violation("item model", f"{_place(answer)}: of {answer.generation}, which a forgotten person is in")


# Generations follow each other and none comes back


def _generations(history: History) -> Iterable[Violation]:
    known_by: dict[str, float] = {}  # generation -> when it had been published at the latest
    newest: dict[str, Recommended] = {}  # generation -> the answer with it that began last
    for answer in history.recommended:
        if answer.status == OK:
            known_by[answer.generation] = min(answer.end, known_by.get(answer.generation, answer.end))
            newest[answer.generation] = max(answer, newest.get(answer.generation, answer), key=lambda one: one.begin)
    for done in history.completed:
        known_by[done.after] = min(done.end, known_by.get(done.after, done.end))
    replaced = {(done.before, done.after) for done in history.completed}
    for old, stale in newest.items():
        for new, published in known_by.items():
            # An answer with the new one ended before this one began: wrong if the old one came before it.
            before = (old, new) in replaced or (new in newest and known_by[old] < newest[new].begin <= stale.begin)
            if old != new and before and published < stale.begin:
                yield Violation("generation", f"{_place(stale)}: shows {old}, though {new} had followed it before")


def _place(operation: Recommended | Forgotten | Hidden) -> str:
    return f"{operation.replica} at {operation.begin:.3f}"

"""Whatever came and went, and wherever it crashed: what is served is, byte for byte, what a clean build would serve.

Random sequences of imports, deletions, crashes and restarts on a real ledger, store, builder and reconciler, with a model
so small that it trains in milliseconds. After each pass the store is compared with one that was built from the remaining
interactions in an empty folder. All that the sequences built was really trained; the clean builds, which are the measure,
are made once for each set of remaining interactions.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.errors import MergeRefused
from service.ledger import Event, EventOutcome
from service.llm.spec import ModelSpec
from service.records import AdapterKind, BuildConfig, Impression, Interaction, Item

from .homes import (
    NOUN,
    SMALLEST_ENCODER_DECODERS,
    Home,
    InThisProcess,
    Remembering,
    RememberingPublicTexts,
    copied,
    items_named,
    likings,
    shuffled,
)

STEPS = 7
CONFIG = BuildConfig(
    max_shard_size=6,
    tree_depth=1,
    samples_per_user=3,
    history_length=2,
    validation_percent=30,
    lora_rank=1,
    lora_alpha=2,
    epochs=1,
    learning_rate=0.02,
    batch_size=4,
)
VARIANTS = {  # and how many stories are told of each: 200 in all, fewer where it must be quick
    "tree-user": (CONFIG, 80),
    "tree-sample": (replace(CONFIG, unit="sample"), 40),
    "tree-user-prompt": (replace(CONFIG, activation="prompt", level="D"), 25),
    "random-user": (replace(CONFIG, partition="random"), 30),
    "algorithm1-sample": (replace(CONFIG, partition="algorithm1", unit="sample"), 25),
}
ITEMS = items_named(8)
USERS = [f"person-{number}" for number in range(8)]
EVERYTHING = {(row.user_id, row.item_id): row for row in likings(USERS, ITEMS, 3, 5)}
AT_FIRST = [row for row in EVERYTHING.values() if row.user_id in USERS[:6]]

IN_A_DELETION = (
    "lethe.forget.masked",
    "lethe.forget.before_commit",
    "lethe.forget.after_commit",
    "lethe.forget.before_tombstone_file",
)
COMMITTED = IN_A_DELETION[2:]
WHILE_RESTRICTING = ("restraint.before_commit", "restraint.after_commit", "restraint.before_tombstone_file")
WHILE_LIFTING = ("restraint.before_ledger", "restraint.before_commit", "restraint.after_commit")
IN_A_PASS = (
    "lethe.build.training",
    "lethe.store.renamed",
    "lethe.store.before_swap",
    "lethe.store.after_swap",
    "lethe.reconcile.published",
    "lethe.store.erasing",
    "lethe.reconcile.erased",
    "lethe.reconcile.before_receipt",
    "lethe.reconcile.completed",
)

WRAPPING_KEY = bytes(range(32))

users = st.sampled_from(USERS)


class Crash(BaseException):
    """The process ends here. No handler of the service may catch it, as none could catch a kill."""


@dataclass
class Trap:
    """Raises a crash when a named step is met for the `left`-th time."""

    step: str | None = None
    left: int = 0

    def on_audit(self, event: str, _arguments: object) -> None:
        if event == self.step:
            self.left -= 1
            if self.left == 0:
                self.step = None
                raise Crash(event)

    @contextmanager
    def set_at(self, step: str, times: int) -> Iterator[None]:
        self.step, self.left = step, times
        try:
            yield
        finally:
            self.step = None


TRAP = Trap()


@pytest.fixture(scope="module", autouse=True)
def _trap_is_armed() -> None:
    sys.addaudithook(TRAP.on_audit)  # it stays for good: Python has no way to take a hook off


@dataclass
class CleanBuilds:
    """Builds from nothing; each distinct one is made once."""

    folder: Path
    model: ModelSpec
    config: BuildConfig
    process_pool: Remembering = field(default_factory=Remembering)
    made: dict[object, tuple[str | None, dict[str, bytes]]] = field(default_factory=dict)

    def of(self, rows: list[Interaction], recorded: list[tuple[str, ...]]) -> tuple[str | None, dict[str, bytes]]:
        """Generation and files of a home that never held anything but these rows, in another order.

        `recorded` is the partition (digest, unit key, user, shard) that it is given, where one is recorded.
        """
        key = frozenset(rows), frozenset(recorded)
        if key not in self.made:
            self.made[key] = self._build(rows, recorded)
        return self.made[key]

    def _build(self, rows: list[Interaction], recorded: list[tuple[str, ...]]) -> tuple[str | None, dict[str, bytes]]:
        home = Home(self.folder / f"clean-{len(self.made)}", self.model, self.config, self.process_pool)
        home.ledger.import_data(shuffled(ITEMS), [], NOUN)
        for part in (shuffled(rows, 1)[::2], shuffled(rows, 1)[1::2]):
            home.ledger.import_data([], part, None)
        for digest, kept in itertools.groupby(sorted(recorded), key=lambda row: row[0]):
            home.ledger.record_partition(digest, [(unit, user, shard) for _, unit, user, shard in kept])
        home.build()
        found = home.ledger.generation(), home.files()
        home.close()
        shutil.rmtree(home.folder)
        return found


class Story(RuleBasedStateMachine):
    """One installation, and beside it a model of what it ought to hold."""

    origin: ClassVar[Path]
    process_pool: ClassVar[InThisProcess]
    clean: ClassVar[CleanBuilds]
    met: ClassVar[Counter[str]]
    wrapping_key: ClassVar[bytes | None]  # of an encrypted store
    numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        folder = copied(self.origin, self.origin.with_name(f"live-{next(self.numbers)}"))
        self.home = self._opened(folder)
        self.rows = {(row.user_id, row.item_id): row for row in AT_FIRST}
        self.counted = dict(self.rows)  # up to the horizon
        self.due: dict[tuple[str, str], Interaction] | None = None  # what a full build that was cut off will let count
        self.gone: set[str] = set()  # users under a tombstone
        self.gone_pairs: set[tuple[str, str]] = set()
        self.restricted: set[str] = set()
        self.aside: dict[tuple[str, str], Interaction] = {}  # their rows
        self.aside_counted: dict[tuple[str, str], Interaction] = {}
        self.holds: set[str] = set()  # users
        self.held: dict[str, str] = {}  # deletions that wait for the end of a hold -> their users
        self.acknowledged: list[str] = []
        self.unsettled = False  # something happened since the last pass was completed

    def _opened(self, folder: Path) -> Home:
        clean = self.clean
        return Home(folder, clean.model, clean.config, self.process_pool, wrapping_key=self.wrapping_key)

    def teardown(self) -> None:
        self.met["stories"] += 1
        if self.unsettled:
            self.reconcile_once()
        self.home.close()
        shutil.rmtree(self.home.folder)

    # Data come in

    @rule(somebody=st.lists(users, min_size=1, unique=True), pick=st.integers(1, 31))
    def import_some_rows(self, somebody: list[str], pick: int) -> None:
        self._import([EVERYTHING[user, item] for user in somebody for item in _some_items(user, pick)])

    @rule()
    def import_again_what_is_there(self) -> None:
        before = self.home.ledger.mask().revision
        counts = self.home.ledger.import_data(ITEMS, shuffled(self.rows.values()), NOUN)
        assert (counts.new_items, counts.new_interactions, counts.changed_interactions) == (0, 0, 0)
        assert self.home.ledger.mask().revision == before

    @rule(pair=st.sampled_from(sorted(EVERYTHING)))
    def change_an_opinion(self, pair: tuple[str, str]) -> None:
        held = self.rows.get(pair)
        if held is not None:
            changed = replace(held, liked=not held.liked, timestamp=held.timestamp + 1)
            assert self.home.ledger.import_data([], [changed], None).changed_interactions == 1
            self.rows[pair] = changed

    @precondition(lambda self: self._may_come_back())
    @rule(data=st.data())
    def somebody_comes_back(self, data: st.DataObject) -> None:
        user = data.draw(st.sampled_from(sorted(self._may_come_back())))
        rows = {pair: row for pair, row in EVERYTHING.items() if pair[0] == user}
        assert self.home.take_back(list(rows.values())).tombstoned == 0
        self.gone.discard(user)
        self.gone_pairs -= rows.keys()
        self._note_rows(rows)

    def _may_come_back(self) -> set[str]:
        return (self.gone | {user for user, _ in self.gone_pairs}) - self.restricted

    def _import(self, rows: list[Interaction]) -> None:
        counts = self.home.ledger.import_data([], rows, None)
        given = {(row.user_id, row.item_id): row for row in rows}
        refused = {pair for pair in given if pair[0] in self.restricted}
        assert counts.restricted == len(refused)
        given = {pair: row for pair, row in given.items() if pair not in refused}
        buried = {pair for pair in given if pair[0] in self.gone or pair in self.gone_pairs}
        assert counts.tombstoned == len(buried)
        taken = {pair: row for pair, row in given.items() if pair not in buried}
        assert counts.new_interactions == len(taken.keys() - self.rows.keys())
        self._note_rows(taken)

    def _note_rows(self, taken: dict[tuple[str, str], Interaction]) -> None:
        self.rows.update({pair: row for pair, row in taken.items() if _is_newer(row, self.rows.get(pair))})

    @rule(user=users, item=st.sampled_from(ITEMS))
    def somebody_is_shown_an_item(self, user: str, item: Item) -> None:
        mask, name = self.home.ledger.mask(), f"answer-{next(self.numbers)}"
        now = self.home.ledger.now()
        given = Impression(name, user, (item.item_id,), mask.generation or "", mask.fence, now)
        recorded = self.home.ledger.impressions.record([given])
        if (user, item.item_id) not in self.gone_pairs:
            assert recorded == any(owner == user for owner, _ in self.rows)
        assert self.home.ledger.mask() == mask  # nothing that is served depends on it
        self.met["shown"] += recorded

    def _shown(self, user: str, items: list[str] | None) -> bool:
        """Whether impressions hold anything of this, but for what a hold keeps."""
        found = self.home.table("shown_items", "user_id, item_id, request_id")
        return any(u == user and not request and (items is None or item in items) for u, item, request in found)

    @rule(somebody=st.lists(users, min_size=1, max_size=3, unique=True), pick=st.integers(1, 31), again=st.booleans())
    def events_stream_in(self, somebody: list[str], pick: int, again: bool) -> None:
        rows = [EVERYTHING[user, item] for user in somebody for item in _some_items(user, pick)]
        told = [Event(row, f"{row.user_id} met {row.item_id}") for row in rows]
        before = self.home.ledger.mask().revision
        outcomes = self.home.ledger.take_events(told)
        if again:  # at least once: whoever did not hear the answer sends it again
            refused = (EventOutcome.FORGOTTEN, EventOutcome.RESTRICTED)
            assert self.home.ledger.take_events(told) == [
                outcome if outcome in refused else EventOutcome.DUPLICATE for outcome in outcomes
            ]
        for row, outcome in zip(rows, outcomes, strict=True):
            pair = row.user_id, row.item_id
            if row.user_id in self.restricted:
                assert outcome in (EventOutcome.RESTRICTED, EventOutcome.DUPLICATE)
                continue
            assert (outcome is EventOutcome.FORGOTTEN) == (row.user_id in self.gone or pair in self.gone_pairs)
            if outcome in (EventOutcome.NEW, EventOutcome.CHANGED):
                self.rows[pair] = row
        assert self.home.ledger.mask().revision == before  # or every request would read the mask anew

    # Somebody asks to be forgotten

    @rule(user=users)
    def forget_a_user(self, user: str) -> None:
        self._forget(user, None)

    @rule(somebody=st.lists(users, min_size=2, max_size=4, unique=True))
    def forget_several(self, somebody: list[str]) -> None:
        for user in somebody:
            self._forget(user, None)

    @rule(user=users, pick=st.integers(1, 7))
    def forget_single_items(self, user: str, pick: int) -> None:
        self._forget(user, _some_items(user, pick))

    def _forget(self, user: str, items: list[str] | None) -> None:
        seen_by = {key for key, who in self.home.table("exposures", "key, user_id") if who == user}
        rows = any(owner == user and (items is None or item in items) for owner, item in (*self.rows, *self.aside))
        held = rows or self._shown(user, items)
        waits = user in self.holds and (held or user in self.held.values())
        request = self.home.forget(user, items)
        self.acknowledged.append(request.request_id)
        self._note_forgotten(user, items)
        assert (request.state == "held") == waits
        if waits:
            self.held[request.request_id] = user
        if held:
            assert request.state == ("held" if waits else "accepted")
            mask = self.home.ledger.mask()
            assert not rows or seen_by <= mask.adapters | mask.rows | mask.memories

    def _note_forgotten(self, user: str, items: list[str] | None) -> None:
        self.unsettled = True
        for rows in (self.rows, self.counted, self.aside, self.aside_counted, self.due or {}):
            for pair in [pair for pair in rows if pair[0] == user and (items is None or pair[1] in items)]:
                del rows[pair]
        if user in self.holds:
            self._note_postponed(user)
        if items is None:
            self.gone.add(user)
        else:
            self.gone_pairs |= {(user, item) for item in items}

    # Two ids turn out to be one person

    @rule(user=users, into=users)
    def merge(self, user: str, into: str) -> None:
        if user == into or not any(owner == user for owner, _ in self.rows):
            return
        if (self.holds | self.restricted) & {user, into} or into in self.gone:
            with pytest.raises(MergeRefused):
                self.home.intake.merge(user, into, None)
            return
        seen_by = {key for key, who in self.home.table("exposures", "key, user_id") if who == user}
        request = self.home.intake.merge(user, into, None)
        self.acknowledged.append(request.request_id)
        self._note_merged(user, into)
        mask = self.home.ledger.mask()
        assert seen_by <= mask.adapters | mask.rows | mask.memories
        self.met["merged"] += 1

    def _note_merged(self, user: str, into: str) -> None:
        moved = []
        for rows in (self.rows, self.counted):
            theirs = {(into, item): replace(row, user_id=into) for (owner, item), row in rows.items() if owner == user}
            moved.append({pair: row for pair, row in theirs.items() if pair not in self.gone_pairs})
        self._note_forgotten(user, None)
        for rows, theirs in zip((self.rows, self.counted), moved, strict=True):
            rows.update({pair: row for pair, row in theirs.items() if _is_newer(row, rows.get(pair))})
        self._note_postponed(into)

    def _note_postponed(self, user: str) -> None:
        """Nothing of theirs is due any more: they will count as they do now."""
        if self.due is not None:
            others = {pair: row for pair, row in self.due.items() if pair[0] != user}
            self.due = others | {pair: row for pair, row in self.counted.items() if pair[0] == user}

    # Somebody's data may not be used, or not be erased

    @rule(user=users)
    def restrict(self, user: str) -> None:
        seen_by = {key for key, who in self.home.table("exposures", "key, user_id") if who == user}
        self.home.restraints.restrict(user, "restriction")
        self._note_restricted(user)
        mask = self.home.ledger.mask()
        assert seen_by <= mask.adapters | mask.rows | mask.memories

    @precondition(lambda self: self.restricted)
    @rule(data=st.data())
    def lift_a_restriction(self, data: st.DataObject) -> None:
        user = data.draw(st.sampled_from(sorted(self.restricted)))
        lifted = self.home.restraints.lift_restriction(user)
        assert lifted.rows >= sum(owner == user for owner, _ in self.aside)  # one may lie over another
        self._note_lifted(user)

    def _note_restricted(self, user: str) -> None:
        self.unsettled = True
        self.restricted.add(user)
        _move(user, self.rows, self.aside)
        _move(user, self.counted, self.aside_counted)
        self._note_postponed(user)

    def _note_lifted(self, user: str) -> None:
        self.unsettled = True
        self.restricted.discard(user)
        _move(user, self.aside, self.rows)
        _move(user, self.aside_counted, self.counted)
        self._note_postponed(user)

    @rule(user=users)
    def hold(self, user: str) -> None:
        self.home.restraints.hold(user, "an order")
        self.holds.add(user)

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def release_a_hold(self, data: st.DataObject) -> None:
        user = data.draw(st.sampled_from(sorted(self.holds)))
        released = self.home.restraints.release_hold(user)
        assert {one for one, who in self.held.items() if who == user} <= set(released.requests)
        self._note_released(user)

    def _note_released(self, user: str) -> None:
        self.unsettled = True
        self.holds.discard(user)
        self.held = {one: who for one, who in self.held.items() if who != user}

    @rule(user=users, step=st.sampled_from(WHILE_RESTRICTING))
    def crash_while_somebody_is_restricted(self, user: str, step: str) -> None:
        with TRAP.set_at(f"lethe.{step}", 1), pytest.raises(Crash):
            self.home.restraints.restrict(user, "restriction")
        self.met[f"restricting: {step}"] += 1
        self._reopen()
        if step != "restraint.before_commit":
            self._note_restricted(user)

    @precondition(lambda self: self.restricted)
    @rule(data=st.data(), step=st.sampled_from(WHILE_LIFTING))
    def crash_while_a_restriction_is_lifted(self, data: st.DataObject, step: str) -> None:
        user = data.draw(st.sampled_from(sorted(self.restricted)))
        with TRAP.set_at(f"lethe.{step}", 1), pytest.raises(Crash):
            self.home.restraints.lift_restriction(user)
        self.met[f"lifting: {step}"] += 1
        self._reopen()  # which lifts what the file says was lifted
        self._note_lifted(user)

    # It is worked off, or not

    @rule()
    def reconcile_once(self) -> None:
        """Whatever lies beyond the horizon. A full build that was cut off comes to its end."""
        self.home.reconcile_once()
        if self.due is not None:
            self._note_full_build(self.due)
        self.unsettled = False
        self._compare()

    def _begun(self) -> dict[tuple[str, str], Interaction]:
        """What a full build that begins now, or goes on, will let count."""
        return dict(self.rows if self.due is None else self.due)

    def _note_full_build(self, begun: dict[tuple[str, str], Interaction]) -> None:
        self.counted, self.aside_counted, self.due = dict(begun), dict(self.aside), None

    def _note_cut_off(self, begun: dict[tuple[str, str], Interaction]) -> None:
        if self.home.ledger.is_full_build_under_way():
            self.due = begun
        else:
            self._note_full_build(begun)

    @rule()
    def build_in_full(self) -> None:
        begun, went_on = self._begun(), self.due is not None
        self.home.build()
        self._note_full_build(begun)
        self.reconcile_once()
        assert self.home.table("due", "user_id") == []
        assert went_on or self.home.table("arrivals", "user_id") == []

    @rule()
    def crash_before_the_horizon_has_moved(self) -> None:
        begun = self._begun()
        with TRAP.set_at("lethe.horizon.before_commit", 1):
            try:
                self.home.build()
                self._note_full_build(begun)
                return  # nothing had arrived
            except Crash:
                self.met["lethe.horizon.before_commit"] += 1
        self._reopen()
        self._note_cut_off(begun)

    def _counted_by_the_ledger(self) -> dict[tuple[str, str], Interaction]:
        columns = "user_id, item_id, liked, timestamp"
        found = (Interaction(u, i, bool(liked), time) for u, i, liked, time in self.home.table("interactions", columns))
        return {(row.user_id, row.item_id): row for row in found}

    @rule()
    def restart(self) -> None:
        self._reopen()

    @rule(user=users, whole=st.booleans(), step=st.sampled_from(IN_A_DELETION))
    def crash_in_a_deletion(self, user: str, whole: bool, step: str) -> None:
        items = None if whole else _some_items(user, 3)
        with TRAP.set_at(step, 1):
            try:
                request = self.home.forget(user, items)
                self.acknowledged.append(request.request_id)
                self._note_forgotten(user, items)
                return
            except Crash:
                self.met[step] += 1
        self._reopen()
        if step in COMMITTED:
            self._note_forgotten(user, items)  # done, though nobody was told

    @precondition(lambda self: self.unsettled)
    @rule(step=st.sampled_from(IN_A_PASS), times=st.sampled_from([1, 1, 1, 2]))
    def crash_in_a_pass(self, step: str, times: int) -> None:
        begun = self._begun()
        with TRAP.set_at(step, times):
            try:
                self.home.build()
                self._note_full_build(begun)
                return  # this pass has no such step
            except Crash:
                self.met[step] += 1
        # A kill leaves what was being written; the handlers of this process have just tidied it up.
        left = self.home.store.root / "tmp" / f"{os.getpid()}-{next(self.numbers):016x}"
        left.mkdir()
        (left / "adapter_model.safetensors").write_bytes(b"half of an adapter")
        self._reopen()
        self._note_cut_off(begun)

    def _reopen(self) -> None:
        self.home.close()
        self.home = self._opened(self.home.folder)
        self.home.start()

    # What must hold

    @invariant()
    def nothing_names_a_user_who_is_gone(self) -> None:
        held = {user for user, _ in self.rows}
        for table in ("interactions", "due", "arrivals", "events", "exposures", "placements", "changes", "memberships"):
            assert not {user for (user,) in self.home.table(table, "user_id")} & self.gone, table
        assert not any(self._shown(user, None) for user in self.gone)
        assert self._counted_by_the_ledger() == self.counted
        arrived = {user for table in ("due", "arrivals") for (user,) in self.home.table(table, "user_id")}
        assert {user for user, _ in self.counted} | arrived == held
        remembered = {user for (user,) in self.home.table("placements", "user_id")}
        changed = {user for (user,) in self.home.table("changes", "user_id")}
        assert remembered | changed <= held
        assert not remembered & changed
        kept = self.home.table("set_aside", "user_id, request_id")
        assert {user for user, request in kept if not request} == {user for user, _ in self.aside}
        assert {user for user, request in kept if request} <= self.holds

    @invariant()
    def masks_belong_to_deletions_that_are_owed_and_to_restrictions(self) -> None:
        owed = {request.request_id for request in self.home.ledger.pending()}
        owed |= {one for (one,) in self.home.table("forget_requests WHERE state = 'held'", "request_id")}
        owed |= {one for (one,) in self.home.table("restraints", "restraint_id")}
        assert {request for (request,) in self.home.table("masks", "request_id")} <= owed

    def _compare(self) -> None:
        assert self.home.ledger.pending() == []
        mask = self.home.ledger.mask()
        assert mask.empty
        for request_id in self.acknowledged:
            request = self.home.ledger.request(request_id)
            assert request.state == ("held" if request_id in self.held else "completed")
            assert (request.receipt is None) == (request_id in self.held)
        recorded = self.home.table("memberships", "partition_digest, unit_key, user_id, shard")
        generation, files = self.clean.of(list(self.counted.values()), recorded)
        assert self.home.ledger.generation() == generation
        assert self.home.opened_files() == files
        assert self.home.store.keys_left() == (None if self.wrapping_key is None else 0)
        self.met["compared"] += 1


def _is_newer(row: Interaction, held: Interaction | None) -> bool:
    return held is None or (held.timestamp, held.liked) < (row.timestamp, row.liked)


def _move(user: str, rows: dict[tuple[str, str], Interaction], to: dict[tuple[str, str], Interaction]) -> None:
    for pair in [pair for pair in rows if pair[0] == user]:
        to[pair] = rows.pop(pair)


def _some_items(user: str, pick: int) -> list[str]:
    """Those of the user's items whose bits are set in `pick`; the first one if none is."""
    items = [item for owner, item in EVERYTHING if owner == user]
    return [item for number, item in enumerate(items) if pick >> number & 1] or items[:1]


@contextmanager
def stories_of(
    config: BuildConfig, folder: Path, model: ModelSpec, wrapping_key: bytes | None = None
) -> Iterator[type[Story]]:
    """Stories that begin with copies of one home, and whose steps are counted. Clean builds are never encrypted."""
    folder.mkdir()
    beginning = Home(folder / "origin", model, config, wrapping_key=wrapping_key)
    beginning.ledger.import_data(ITEMS, AT_FIRST, NOUN)
    beginning.build()
    beginning.close()
    clean = CleanBuilds(folder, model, config)
    parts = {"origin": folder / "origin", "process_pool": RememberingPublicTexts(), "clean": clean, "met": Counter()}
    parts["wrapping_key"] = wrapping_key
    story: type[Story] = types.new_class("Story", (Story,), exec_body=lambda own: own.update(parts))
    yield story
    shutil.rmtree(folder)


OFTEN = [
    pytest.param(0.025, id="few"),
    pytest.param(1, id="many", marks=pytest.mark.thorough),
    pytest.param(10, id="most", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("often", OFTEN)
@pytest.mark.parametrize("variant", VARIANTS)
def test_after_any_story_what_is_served_is_what_a_clean_build_would_serve(
    variant: str, often: float, scratch: Path, smallest_model: ModelSpec
) -> None:
    config, usually = VARIANTS[variant]
    # The same stories every time, and other ones for each variant.
    number = list(VARIANTS).index(variant)
    _tell(round(often * usually), number, config, scratch / variant, smallest_model)


ENCODER_DECODERS = {  # as LoRA's targets are called in each
    "t5": replace(CONFIG, lora_targets=("q", "v")),
    "bart": replace(CONFIG, lora_targets=("q_proj", "v_proj"), activation="prompt", level="D"),
}


@pytest.mark.parametrize(
    "sequences", [pytest.param(1, id="few"), pytest.param(50, id="many", marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("kind", ["t5", pytest.param("bart", marks=pytest.mark.thorough)])
def test_after_any_story_an_encoder_decoder_model_serves_what_a_clean_build_would(
    kind: str, sequences: int, scratch: Path, tiny_models: Callable[..., Path]
) -> None:
    model = ModelSpec(str(tiny_models(kind, **SMALLEST_ENCODER_DECODERS[kind])))
    _tell(sequences, len(kind), ENCODER_DECODERS[kind], scratch / kind, model)


# One that has a gate and factors; the others are told of at length.
KINDS = ["dora", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("ia3", "rslora", "vera"))]


@pytest.mark.parametrize(
    "sequences", [pytest.param(1, id="few"), pytest.param(20, id="many", marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("adapter", KINDS)
def test_after_any_story_adapters_of_any_kind_are_those_of_a_clean_build(
    adapter: AdapterKind, sequences: int, scratch: Path, smallest_model: ModelSpec
) -> None:
    config = replace(CONFIG, adapter=adapter, lora_rank=2)
    _tell(sequences, len(adapter), config, scratch / adapter, smallest_model)


def _tell(
    sequences: int,
    number: int,
    config: BuildConfig,
    folder: Path,
    model: ModelSpec,
    wrapping_key: bytes | None = None,
) -> None:
    """So many stories, drawn from a seed of this number; each of them ends in comparisons with clean builds."""
    chosen = settings(
        max_examples=sequences,
        stateful_step_count=STEPS,
        database=None,
        deadline=None,
        phases=(Phase.generate,),  # a failing story is short already, and to shorten it would take minutes
        suppress_health_check=list(HealthCheck),
    )
    with stories_of(config, folder, model, wrapping_key) as story:
        run_state_machine_as_test(seed(number)(story), settings=chosen)
        assert story.met["stories"] >= sequences
        assert story.met["compared"] >= sequences / 2


@pytest.mark.thorough
def test_after_any_story_an_encrypted_store_holds_what_a_clean_build_would(
    scratch: Path, smallest_model: ModelSpec
) -> None:
    _tell(20, len(VARIANTS), CONFIG, scratch / "encrypted", smallest_model, WRAPPING_KEY)


# Every named step for certain


@pytest.fixture(scope="module")
def told(scratch: Path, smallest_model: ModelSpec) -> Iterator[type[Story]]:
    """Stories whose steps a test tells."""
    with stories_of(CONFIG, scratch / "told", smallest_model) as story:
        yield story


# Random stories crash at the others too, and at length each is tried for certain.
QUICK = ("lethe.store.after_swap", "lethe.reconcile.published", "lethe.reconcile.before_receipt")


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=[] if step in QUICK else pytest.mark.thorough) for step in IN_A_PASS]
)
def test_a_pass_that_crashes_at_any_step_is_completed_by_the_next(told: type[Story], step: str) -> None:
    story = told()
    story.forget_several(somebody=[USERS[0], USERS[3]])
    story.forget_single_items(user=USERS[1], pick=1)
    story.crash_in_a_pass(step=step, times=1)
    assert told.met[step] == 1
    story.reconcile_once()
    story.teardown()


@pytest.mark.thorough
@pytest.mark.parametrize("step", [*IN_A_PASS, "lethe.store.destroying_keys"])
def test_a_pass_over_an_encrypted_store_that_crashes_at_any_step_is_completed_by_the_next(
    step: str, scratch: Path, smallest_model: ModelSpec
) -> None:
    with stories_of(CONFIG, scratch / f"encrypted-{step}", smallest_model, WRAPPING_KEY) as encrypted:
        story = encrypted()
        story.forget_several(somebody=[USERS[0], USERS[3]])
        story.crash_in_a_pass(step=step, times=1)
        assert encrypted.met[step] == 1
        story.reconcile_once()
        story.teardown()


@pytest.mark.parametrize("step", IN_A_DELETION)
@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_a_deletion_that_crashes_at_any_step_is_done_or_was_not_asked_for(
    told: type[Story], step: str, whole: bool
) -> None:
    story = told()
    met = told.met[step]
    story.crash_in_a_deletion(user=USERS[1], whole=whole, step=step)
    assert told.met[step] == met + 1
    assert (len(story.rows) < len(AT_FIRST)) == (step in COMMITTED)
    story.reconcile_once()
    story.teardown()


@pytest.mark.thorough
@pytest.mark.parametrize("step", IN_A_DELETION)
def test_a_merge_that_crashes_at_any_step_is_done_or_was_not_asked_for(told: type[Story], step: str) -> None:
    story = told()
    story.somebody_is_shown_an_item(user=USERS[1], item=ITEMS[0])
    with TRAP.set_at(step, 1), pytest.raises(Crash):
        story.home.intake.merge(USERS[1], USERS[2], None)
    story._reopen()
    if step in COMMITTED:
        story._note_merged(USERS[1], USERS[2])
    assert (USERS[1] in story.gone) == (step in COMMITTED)
    story.nothing_names_a_user_who_is_gone()
    story.reconcile_once()
    story.forget_a_user(user=USERS[2])
    story.reconcile_once()
    story.teardown()


@pytest.mark.parametrize("step", WHILE_RESTRICTING)
def test_a_restriction_that_crashes_at_any_step_stands_or_was_not_asked_for(told: type[Story], step: str) -> None:
    story = told()
    story.crash_while_somebody_is_restricted(user=USERS[1], step=step)
    assert (USERS[1] in story.restricted) == (step != "restraint.before_commit")
    story.reconcile_once()
    story.nothing_names_a_user_who_is_gone()
    story.teardown()

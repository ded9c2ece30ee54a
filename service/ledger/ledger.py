"""The ledger's face: every question and every change, and where each transaction begins and ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import sqlalchemy as sa

from service.errors import LetheError
from service.ledger import (
    artifact_keys,
    audit,
    catalog,
    deletions,
    exporting,
    histories,
    horizon,
    lineage,
    masks,
    memberships,
    outbox,
    placements,
    receipt_log,
    rekeying,
    requests,
    shelf,
    state,
    tables,
    tombstones,
)
from service.ledger.artifact_keys import ArtifactKeys
from service.ledger.audit import AuditTrail
from service.ledger.database import BUSY_SECONDS, Database
from service.ledger.deletions import AcceptedForget
from service.ledger.events import Event, EventOutcome, EventTaker
from service.ledger.exporting import ForgetPreview, PersonExport
from service.ledger.hashes import KeyedHashes
from service.ledger.histories import LedgerCounts
from service.ledger.importing import (
    AT_ONCE,
    Arrivals,
    Given,
    ImportCounts,
    check_source,
    take,
)
from service.ledger.impressions import ImpressionBook
from service.ledger.keys import KeyRing
from service.ledger.outbox import Outbox
from service.ledger.read_transaction import ReadTransaction
from service.ledger.receipt_log import ReceiptLog
from service.ledger.restraining import RestraintBook
from service.ledger.restraints import restricted_among, restricted_since
from service.ledger.searching import ColumnSearch, search_columns
from service.ledger.selecting import RowSelection, SelectedRows, select_rows
from service.ledger.shelf import ItemOutcome
from service.records import (
    COMMAND_LINE,
    ById,
    CatalogEntry,
    Correction,
    ForgetRequest,
    Interaction,
    Item,
    ItemName,
    LedgerView,
    Mask,
    Published,
    RatedItem,
    Requester,
    ShardAssignment,
    Tombstone,
    WantedForget,
)

REMEMBER_SECONDS = 30 * 86_400.0


class Ledger:
    """An open ledger; safe to share among threads.

    `url` is an SQLAlchemy URL of an SQLite file or of PostgreSQL, or an SQLite file's path. `secret` keys the hashes of user
    ids: with another secret, tombstones no longer recognize anybody, so a ledger that knows another one is refused with
    InvalidSetting; `retired` are those from before a rotation. `clock` tells seconds since the epoch; nothing depends on it but
    the times that are reported, and how long a deletion that found nothing is remembered: `remember_seconds`. `busy_seconds`
    is how long a busy SQLite file is waited for. With `announces`, what becomes of deletions is put into the outbox.
    Every method raises LedgerUnavailable when the database cannot be asked.
    """

    remembers: ClassVar[bool] = True  # builds may use what earlier ones remembered, and remember what they find

    def __init__(
        self,
        url: str | Path,
        secret: bytes,
        clock: Callable[[], float] = time.time,
        busy_seconds: float = BUSY_SECONDS,
        remember_seconds: float = REMEMBER_SECONDS,
        retired: Sequence[bytes] = (),
        announces: bool = False,
    ) -> None:
        self._hashes = KeyedHashes(secret, retired)
        self._database = Database(url, busy_seconds, guard=self._require_secret)
        self._clock = clock
        self._remember_seconds = remember_seconds
        self._announces = announces
        try:
            rekeying.check_secret(self._database, self._hashes)
        except LetheError:
            self._database.close()
            raise
        self._last_mask: Mask | None = None
        self.keys = KeyRing(self._database, self._hashes, clock)
        self.trail = AuditTrail(self._database, self._hashes, clock)
        self.restraints = RestraintBook(self._database, self._hashes, clock)
        self.receipt_log = ReceiptLog(self._database)
        self.outbox = Outbox(self._database, clock)
        self.impressions = ImpressionBook(self._database, self._hashes, clock)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def subject(self, user_id: str) -> str:
        """The keyed hash under which a user is known after their deletion: hex HMAC-SHA256 of the id."""
        return self._hashes.subject(user_id)

    def subjects(self, user_id: str) -> tuple[str, ...]:
        """The keyed hashes of a user: under this secret and all retired ones, and of the id as it was spelled earlier."""
        return self._hashes.subjects(user_id)

    def _require_secret(self, connection: sa.Connection) -> None:
        rekeying.require_secret(connection, self._hashes)

    # What is known

    def import_data(
        self,
        items: Iterable[Item],
        interactions: Iterable[Interaction],
        item_type: str | None,
        allow_returning: bool = False,
        create_items: bool = False,
        advance: Callable[[int], None] = lambda _: None,
        source: str | None = None,
    ) -> ImportCounts:
        """Take in a catalog and interactions, all or nothing. Of two rows of one user and item the newest counts.

        Of equal times the larger rating counts, then that which is liked; so what is held does not depend on the order of
        rows or imports, and rows that the ledger already holds change nothing. Interactions under a tombstone are skipped,
        unless `allow_returning` says that their users came back of their own will: then these tombstones are removed.
        With `create_items` an unknown item is made, its id as its title; it lives as long as somebody's row names it.
        `advance` is told of interactions taken in. `source` is noted with every row that is new or newer; one that is held as
        it is keeps its own. Raises ImportRefused for what is no label of a source, for an interaction with an unknown item, or
        another item type than the catalog's.
        """
        given = Given.of(items, interactions)
        check_source(source)
        with self._database.write_transaction() as connection:
            arrivals = Arrivals(connection, self._hashes, allow_returning, create_items, self._clock(), source)
            return take(connection, given, item_type, arrivals, advance)

    def item_type(self) -> str:
        """What the catalog's items are called in prompts; "item" until an import has said."""
        with self._database.read_transaction() as connection:
            return state.item_type(connection)

    def items(self) -> tuple[Item, ...]:
        """The catalog, by item id."""
        with self._database.read_transaction() as connection:
            return catalog.all_items(connection)

    def item_ids(self) -> frozenset[str]:
        """Ids of the catalog, created items among them."""
        with self._database.read_transaction() as connection:
            return catalog.all_ids(connection)

    def unnamed_items(self) -> int:
        """How many created items are held though no row names them any more: none, if deletions were complete."""
        with self._database.read_transaction() as connection:
            return catalog.count_unnamed(connection)

    def items_by_id(self, ids: Iterable[str]) -> dict[str, Item]:
        """The items with these ids; unknown ids are absent."""
        with self._database.read_transaction() as connection:
            return catalog.items_by_id(connection, ids)

    def items_meant(self, names: Iterable[ItemName]) -> dict[ItemName, list[Item]]:
        """Name -> items, by id: text is an id, or else an exact title, or else one that says the same ("the matrix")."""
        with self._database.read_transaction() as connection:
            return catalog.items_meant(connection, names)

    def put_items(self, entries: Sequence[CatalogEntry]) -> list[ItemOutcome]:
        """State items as they are from now on, all or none; the outcome of each, in their order. Raises InvalidInput."""
        with self._database.write_transaction() as connection:
            return shelf.put(connection, entries)

    def change_item(self, item_id: str, change: Callable[[CatalogEntry], CatalogEntry]) -> CatalogEntry:
        """Change an item as it is held, and return what it is now. Raises UnknownItem, InvalidInput."""
        with self._database.write_transaction() as connection:
            changed = change(shelf.read_entry(connection, item_id))
            shelf.put(connection, [changed])
            return changed

    def delete_item(self, item_id: str) -> None:
        """Take an item out of the catalog: nobody gets it any more.

        Rows that name it stay, and count until the next full build. Raises UnknownItem.
        """
        with self._database.write_transaction() as connection:
            shelf.delete(connection, item_id)

    def entry(self, item_id: str) -> CatalogEntry:
        """One item with all that is stated of it. Raises UnknownItem."""
        with self._database.read_transaction() as connection:
            return shelf.read_entry(connection, item_id)

    def entries_after(self, item_id: str | None, limit: int) -> list[CatalogEntry]:
        """The first `limit` items behind this id, by item id."""
        with self._database.read_transaction() as connection:
            return shelf.read_page(connection, item_id, limit)

    def catalog_entries(self) -> tuple[int, tuple[CatalogEntry, ...]]:
        """The revision of what may be shown, and every item, deleted ones too."""
        with self._database.read_transaction() as connection:
            return shelf.read_all(connection)

    def availability_revision(self) -> int:
        """Grows with every change of what may be shown, or is stated of items."""
        with self._database.read_transaction() as connection:
            return int(state.read_state(connection).availability)

    def history(self, user_id: str, limit: int) -> tuple[RatedItem, ...]:
        """The user's last `limit` opinions, oldest first. Raises UnknownUser when there are none."""
        with self._database.read_transaction() as connection:
            return histories.read_history(connection, user_id, limit)

    def has_order(self, user_id: str) -> bool:
        """Whether it is known in which order the user's interactions came: not all of them have one time."""
        with self._database.read_transaction() as connection:
            return histories.read_has_order(connection, user_id)

    def seen(self, user_id: str) -> frozenset[str]:
        """Ids of the items that the user has interacted with; empty for an unknown user."""
        with self._database.read_transaction() as connection:
            return histories.read_seen(connection, user_id)

    def users_after(self, user_id: str | None, limit: int) -> list[str]:
        """The first `limit` people behind this id (None: of all), by id; not those whose data may not be used."""
        with self._database.read_transaction() as connection:
            return histories.read_users(connection, user_id, limit)

    def counts(self) -> LedgerCounts:
        with self._database.read_transaction() as connection:
            return histories.read_counts(connection)

    def view(self) -> LedgerView:
        """One consistent reading of everything that a build wants, whatever the order in which it came in."""
        with self.read_transaction() as transaction:
            return transaction.view()

    def forgotten_since(self, fence: int, users: Collection[str]) -> tuple[int, frozenset[str]]:
        """The fence of now, and those of these users of whom anything was forgotten or restricted after `fence`."""
        with self._database.read_transaction() as connection:
            now = int(state.read_state(connection).fence)
            if not users or now == fence:
                return now, frozenset()
            late = lineage.late_requests(connection, fence, users, self._hashes)
            return now, frozenset(late).union(restricted_since(connection, fence, users, self._hashes))

    def take_events(self, events: Sequence[Event], allow_returning: bool = False) -> list[EventOutcome]:
        """Take rows as they stream in, of anybody and in any order; the outcome of each, in their order.

        The newest of a user and item counts, as in an import. Of an event with an id every further one with it changes
        nothing. One that is refused (its user asked for deletion, or no item has its id) keeps no other out. With
        `allow_returning` the tombstones that the rows lie under are removed. Raises InvalidInput for what is no id.
        """
        with self._database.write_transaction() as connection:
            return EventTaker(connection, self._hashes, self._clock(), allow_returning).take(events)

    # The horizon

    def would_horizon_move(self) -> bool:
        """Whether a full build would let anything count that does not yet."""
        with self._database.read_transaction() as connection:
            return horizon.would_move(connection)

    def begin_full_build(self) -> None:
        """Say what the full build that begins will let count: all that has arrived by now.

        What comes from then on waits for the next one. One that is under way goes on with what it began with.
        """
        with self._database.write_transaction() as connection:
            horizon.begin_full_build(connection)

    def is_full_build_under_way(self) -> bool:
        """Whether one has begun that has not moved the horizon yet."""
        with self._database.read_transaction() as connection:
            return horizon.is_under_way(connection)

    def made_ahead(self) -> tuple[frozenset[str], frozenset[str]]:
        """Digests of the adapters and memories, masked ones left out, that are served or that the full build under way made."""
        with self._database.read_transaction() as connection:
            return lineage.unmasked(connection) if horizon.is_under_way(connection) else (frozenset(), frozenset())

    def advance_horizon(self) -> int:
        """Let what is due make samples and counts, or else all that has arrived; how many rows that is.

        What comes from then on lies beyond the horizon, also when nothing had arrived.
        """
        with self._database.write_transaction() as connection:
            return horizon.advance(connection)

    def beyond_horizon(self) -> int:
        """How many rows have arrived that make no samples and counts yet."""
        with self._database.read_transaction() as connection:
            return horizon.waiting(connection)

    def is_behind(self) -> bool:
        """Whether what is published is not of this horizon and this catalog; False where nothing is published.

        Also if rows were set aside, or put back, since it was read.
        """
        with self._database.read_transaction() as connection:
            return state.is_behind(connection)

    # Where each unit stands

    @contextmanager
    def read_transaction(self) -> Iterator[ReadTransaction]:
        """The ledger as it is now, as a build wants it, for as long as the block lasts."""
        with self._database.read_transaction() as connection:
            yield ReadTransaction(connection)

    @contextmanager
    def read_transaction_when_due(self) -> Iterator[ReadTransaction]:
        """The ledger as if the full build under way had moved the horizon already, for as long as the block lasts."""
        with self._database.read_transaction() as connection:
            yield ReadTransaction(connection, due=True)

    def begin_fingerprint(self, fingerprint: str) -> None:
        """Forget what builds remember of everybody: from now on it is remembered under this fingerprint."""
        with self._database.write_transaction() as connection:
            placements.begin_fingerprint(connection, fingerprint)

    def save_assignments(self, changed: Mapping[str, int], assignments: Sequence[ShardAssignment]) -> None:
        """Remember the places of the users in `changed` (as `ReadTransaction.changed` told of them), all that they have.

        Users who changed again since, or are not held any more, are left out.
        """
        with self._database.write_transaction() as connection:
            placements.save_assignments(connection, changed, assignments)

    def recorded_partition(self, partition_digest: str) -> dict[str, str]:
        """Unit key -> shard name, as recorded under this digest; empty when nothing is."""
        with self._database.read_transaction() as connection:
            return memberships.read_partition(connection, partition_digest)

    def record_partition(self, partition_digest: str, rows: Iterable[tuple[str, str, str]]) -> None:
        """Store (unit_key, user_id, shard name) under this digest; users of whom nothing is held are left out."""
        columns = ("partition_digest", "unit_key", "user_id", "shard")
        given = [dict(zip(columns, (partition_digest, *row), strict=True)) for row in rows]
        with self._database.write_transaction() as connection:
            memberships.save_partition(connection, given)

    def prune_partition(self, partition_digest: str, units: Collection[str]) -> None:
        """Drop what is recorded under this digest of other units than these."""
        with self._database.write_transaction() as connection:
            memberships.prune_partition(connection, partition_digest, units)

    # Who has been seen by what

    def record_lineage(
        self,
        view_fence: int,
        adapters: Mapping[str, Iterable[str]],
        rows: Mapping[str, str],
        shards: Mapping[str, str] | None = None,
        memories: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Note that these adapters, validation rows (key -> user id) and memories have seen these users.

        `adapters` maps a digest to a user id for each sample that it was trained on, so that a user may be named often;
        `memories` maps a digest to the number of interactions of each user that it counts.
        `shards` (digest -> name of its shard) lets a receipt name what replaced an adapter, long after it is gone.

        To be called before any of them is used. Whoever asked for deletion after the view of `view_fence` was read is
        masked here at once: at the time of their request, nobody knew that these artifacts would see them.
        """
        seen = lineage.lineage_rows(adapters, rows, shards or {}, memories or {})
        with self._database.write_transaction() as connection:
            lineage.record(connection, seen, view_fence, self._hashes)

    def drop_lineage_except(
        self, adapters: Collection[str], rows: Collection[str], generation: str, memories: Collection[str] = ()
    ) -> None:
        """Forget who was seen by artifacts that exist no more; also masks that outlived their request and artifact.

        `generation` consists of these adapters, rows and memories. Nothing happens if another one is published by now.
        """
        with self._database.write_transaction() as connection:
            if generation == state.read_state(connection).generation:
                lineage.drop_except(connection, adapters, rows, memories)

    def mask(self) -> Mask:
        """What may not be used now. Cheap: one row is read while nothing has changed."""
        with self._database.read_transaction() as connection:
            mask = masks.read_mask(connection, self._last_mask)
        # Threads may leave an older one here: its revision tells, and the next reading is a full one.
        self._last_mask = mask
        return mask

    # Deletions

    def forget(
        self,
        user_id: str,
        item_ids: Sequence[ItemName] | None,
        idempotency_key: str | None,
        remember: bool = False,
        by: Requester = COMMAND_LINE,
    ) -> AcceptedForget:
        """Delete a user (or only these of their interactions) and mask all that has seen them, in one transaction.

        Items are named by id or title; a title stands for every item that has it. The answer is `completed` at once when
        nothing was held, and its `outcome` says so. What was held is kept out for ever; what was not, for a time, and only
        rows older than the request: they may still be under way. `remember` keeps that out for ever, too. A user whose
        deletion is still owed gets that request, unless the one who asks may not know that there was anything to delete.
        Raises InvalidInput for what is no id and for an empty list of items, IdempotencyConflict for a key used for another
        request.
        """
        command = deletions.ForgetCommand.of(
            user_id, item_ids, idempotency_key, remember, self._hashes, self._clock(), by
        )
        return self._accept(command)

    def forget_all(self, wanted: Sequence[WantedForget], remember: bool, by: Requester) -> list[AcceptedForget]:
        """Delete users, or these of their interactions, as `forget` does, all in one transaction. Raises InvalidInput."""
        now = self._clock()
        commands = [
            deletions.ForgetCommand.of(user_id, items, None, remember, self._hashes, now, by)
            for user_id, items in wanted
        ]
        return self._accept_all(commands, now)

    def forget_again(self, user_id: str, item_ids: Sequence[ItemName] | None) -> AcceptedForget:
        """Delete what an old ledger brought back, as `forget` does.

        The tombstone of a correction stays as it is: one without an end would keep out the corrected row, too.
        """
        command = deletions.ForgetCommand.of(
            user_id, item_ids, None, False, self._hashes, self._clock(), COMMAND_LINE, again=True
        )
        return self._accept(command)

    def rectify(
        self,
        user_id: str,
        correction: Correction,
        idempotency_key: str | None,
        by: Requester = COMMAND_LINE,
    ) -> AcceptedForget:
        """Erase one interaction as `forget` does, and hold what the person says instead, in one transaction.

        The corrected row is the newest of its user: it has the time of the correction. Older rows of this user and item are
        kept out from now on. Raises InvalidInput, UnknownInteraction, IdempotencyConflict.
        """
        names = (ById(correction.item_id),)
        command = deletions.ForgetCommand.of(
            user_id, names, idempotency_key, False, self._hashes, self._clock(), by, correction
        )
        return self._accept(command)

    def merge(
        self, user_id: str, into: str, idempotency_key: str | None, by: Requester = COMMAND_LINE
    ) -> AcceptedForget:
        """Let all that is held of a user be another's, and forget the user as `forget` does, in one transaction.

        Of two rows of one item the newest counts. What has seen the user is masked, and rebuilt with the rows as the other's;
        rows that come in under the user's id are refused from now on. Raises InvalidInput, UnknownUser, MergeRefused,
        IdempotencyConflict.
        """
        command = deletions.ForgetCommand.of(
            user_id, None, idempotency_key, False, self._hashes, self._clock(), by, into=into
        )
        return self._accept(command)

    def _accept(self, command: deletions.ForgetCommand) -> AcceptedForget:
        return self._accept_all([command], command.accepted_at)[0]

    def _accept_all(self, commands: Sequence[deletions.ForgetCommand], now: float) -> list[AcceptedForget]:
        known = (self._hashes, self._remember_seconds, self._clock)
        with self._database.write_transaction() as connection:
            tombstones.remove_expired(connection, now)
            accepted = [deletions.accept(connection, command, *known) for command in commands]
            for one in accepted:
                if one.request.receipt is None:
                    self._announce(connection, {one.request.request_id: one.request.masked_at}, "masked")
            sys.audit("lethe.forget.before_commit")
        sys.audit("lethe.forget.after_commit")
        return accepted

    def request(self, request_id: str) -> ForgetRequest:
        """Raises UnknownRequest."""
        with self._database.read_transaction() as connection:
            return requests.one_request(connection, request_id)

    def requests_after(self, place: tuple[float, str] | None, in_state: str | None, limit: int) -> list[ForgetRequest]:
        """The first `limit` deletions behind this place (time of acceptance, request id), of one state or of all."""
        with self._database.read_transaction() as connection:
            return requests.read_page(connection, place, in_state, limit)

    def preview(self, user_id: str, item_ids: Collection[ItemName] | None) -> ForgetPreview:
        """What a deletion would find if it came now; nothing is changed. Raises InvalidInput for what is no id."""
        with self._database.read_transaction() as connection:
            return exporting.preview(connection, user_id, item_ids, self._hashes)

    def select_rows(self, selection: RowSelection, most_users: int) -> SelectedRows:
        """The rows that meet all conditions of a selection; nothing is changed.

        Raises InvalidInput for one without a condition, of more people than `most_users`, and for what is no id.
        """
        with self._database.read_transaction() as connection:
            return select_rows(connection, selection, most_users, self._hashes)

    def export(self, user_id: str) -> PersonExport:
        """All that is held of a person, and where it counts. Raises InvalidInput for what is no id."""
        with self._database.read_transaction() as connection:
            return exporting.export(connection, user_id, self._hashes)

    def pending(self) -> list[ForgetRequest]:
        """Deletions that are not completed, oldest first; failed ones are to be tried again."""
        with self._database.read_transaction() as connection:
            return requests.find_requests(connection, requests.PENDING)

    def start(self, request_ids: Iterable[str]) -> list[ForgetRequest]:
        """Note that work on these owed requests begins, and return them; completed ones are left as they are."""
        ids = list(request_ids)
        with self._database.write_transaction() as connection:
            requests.start(connection, ids, self._clock())
            # Before the database's file is rewritten, so that nothing of it is left there.
            for request_id in ids:
                self._remove_from_trail(connection, request_id)
            return [requests.one_request(connection, request_id) for request_id in ids]

    def fail(self, request_ids: Iterable[str], reason: str) -> None:
        """Note why the last attempt failed; the requests stay owed. `reason` may be shown to anybody."""
        with self._database.write_transaction() as connection:
            failed = requests.fail(connection, request_ids, reason)
            self._announce(connection, dict.fromkeys(failed, self._clock()), "failed")

    def complete(self, request_id: str, receipt: str, completed_at: float) -> None:
        """Note that a deletion is done: its masks fall. The first receipt stays, and is in the log. Raises UnknownRequest."""
        self.complete_all([(request_id, receipt, completed_at)])

    def complete_all(self, done: Iterable[tuple[str, str, float]]) -> None:
        """`complete` for each (request id, receipt, time of completion), in one transaction."""
        with self._database.write_transaction() as connection:
            for request_id, receipt, completed_at in done:
                self._complete(connection, request_id, receipt, completed_at)

    def _complete(self, connection: sa.Connection, request_id: str, receipt: str, completed_at: float) -> None:
        first = requests.one_request(connection, request_id)
        requests.complete(connection, request_id, receipt, completed_at)
        self._remove_from_trail(connection, request_id)
        if first.receipt is None:
            receipt_log.append(connection, request_id, receipt)
            self._announce(connection, {request_id: completed_at}, "completed")
            event = audit.AuditEvent(self._clock(), "lethe", "forget.complete", "done", request_id, first.subject)
            audit.append(connection, self._hashes, event)

    def _announce(self, connection: sa.Connection, moments: Mapping[str, float], state: outbox.Announced) -> None:
        if self._announces:
            outbox.announce(connection, moments, state)

    def _remove_from_trail(self, connection: sa.Connection, request_id: str) -> None:
        found = requests.find_requests(connection, tables.forget_requests.c.request_id == request_id)
        for request in found:
            if request.scope == "user":
                audit.remove_person(connection, [request.subject], request_id)

    def masked_by(self, request_id: str) -> masks.MaskedArtifacts:
        """What this request has masked; nothing once it is completed."""
        with self._database.read_transaction() as connection:
            return masks.masked_by(connection, request_id)

    def now(self) -> float:
        """Seconds since the epoch, by the ledger's clock."""
        return self._clock()

    def erase_traces(self) -> None:
        """Overwrite what deleted rows left in the database's own files.

        On SQLite waits up to 5 s for long readers, then raises LedgerUnavailable.
        """
        self._database.erase_traces()

    # Keys of an encrypted store

    def artifact_keys(self, wrapping_key: bytes) -> ArtifactKeys:
        """Keys of the store's directories, wrapped by one of 32 bytes. Raises InvalidSetting if another one wrapped them."""
        return ArtifactKeys(self._database, wrapping_key)

    def has_artifact_keys(self) -> bool:
        """Whether any were ever made with this ledger: then what wrapped them is needed."""
        with self._database.read_transaction() as connection:
            return artifact_keys.any_keys(connection)

    # What must not come back

    def tombstones(self, request_id: str | None = None) -> list[Tombstone]:
        """All tombstones, or those of one request."""
        chosen = () if request_id is None else (tables.tombstones.c.request_id == request_id,)
        with self._database.read_transaction() as connection:
            return tombstones.read_tombstones(connection, *chosen)

    def tombstones_over(self, interactions: Iterable[Interaction]) -> list[Tombstone]:
        """The tombstones that an import of these interactions would meet; whose data is restricted would not come in."""
        met: set[Tombstone] = set()
        with self._database.read_transaction() as connection:
            for given in Given.of((), interactions).interactions.by_users(AT_ONCE):
                subjects = {user_id: self._hashes.subject(user_id) for user_id in {row.user_id for row in given}}
                restricted = restricted_among(connection, subjects, self._hashes)
                rows = [row for row in given if row.user_id not in restricted]
                for stones in tombstones.over(connection, rows, subjects, self._hashes, self._clock()).values():
                    met.update(stones)
        return sorted(met, key=lambda stone: stone.scope_hash)

    def restore_tombstones(self, known: Iterable[Tombstone]) -> tuple[int, list[Tombstone]]:
        """Set tombstones that this ledger lacks, and let the fence not be behind theirs.

        Returns how many it lacked, and those that it holds and are not known. Those whose time is over are left out.
        """
        now = self._clock()
        stones = [stone for stone in known if stone.expires_at is None or now < stone.expires_at]
        with self._database.write_transaction() as connection:
            state.raise_fence(connection, max((stone.fence for stone in stones), default=0))
            return tombstones.add_missing_tombstones(connection, stones)

    def resurrected_users(self) -> dict[str, list[str] | None]:
        """Users who are held despite a tombstone -> the items concerned, or None for everything.

        Hashes every user's id once, if there is any tombstone.
        """
        with self._database.read_transaction() as connection:
            return tombstones.resurrected_users(connection, self._hashes, self._clock())

    def search(self, text: str) -> ColumnSearch:
        """Look for a text that should be gone in every column that could hold it."""
        with self._database.read_transaction() as connection:
            return search_columns(connection, text)

    def file(self) -> Path | None:
        """The database's file, if it is one of SQLite."""
        return self._database.file()

    def image(self) -> bytes:
        """The file of an SQLite database as it would be if it had never held anything else than now. Takes its size twice."""
        return self._database.image()

    # What is served, and how things stand

    def require_writable(self) -> None:
        """Write nothing new. Raises LedgerUnavailable if the database is read-only or full, SecretChanged."""
        self._database.require_writable()

    def publish(
        self,
        published: Published,
        adapters: Collection[str],
        rows: Collection[str],
        memories: Collection[str] = (),
    ) -> bool:
        """Note the generation that is served, which consists of these adapters, rows and memories.

        False, and nothing noted, if what is published was built from a later view: deletions that are completed by then
        are not in the earlier one. Also if nobody knows any more who was seen by one of its parts, because
        another worker finished meanwhile and dropped the lineage of what it did not know.
        """
        with self._database.write_transaction() as connection:
            known = lineage.all_known(connection, adapters, rows, memories)
            if not known or not state.publish(connection, published):
                return False
            masks.lift_settled(connection, published.fence)
            return True

    def published(self) -> Published | None:
        """What is served and how it was built, if anything is."""
        with self._database.read_transaction() as connection:
            return state.published(connection)

    def generation(self) -> str | None:
        """The published generation, if any."""
        with self._database.read_transaction() as connection:
            generation: str | None = state.read_state(connection).generation
            return generation

    def set_shards_training(self, count: int) -> None:
        with self._database.write_transaction() as connection:
            state.set_state(connection, shards_training=count)

    def shards_training(self) -> int:
        with self._database.read_transaction() as connection:
            return int(state.read_state(connection).shards_training)

    def requests_by_state(self) -> dict[str, int]:
        """Every state -> how many requests are in it."""
        with self._database.read_transaction() as connection:
            return requests.count_by_state(connection)

    def completion_times(self) -> list[tuple[float, float]]:
        """(accepted_at, completed_at) in seconds of the deletions that were owed for a time, oldest first."""
        with self._database.read_transaction() as connection:
            return requests.completion_times(connection)

    def oldest_pending_age(self) -> float:
        """Seconds since the oldest owed deletion was accepted; 0 when none is owed."""
        with self._database.read_transaction() as connection:
            since = requests.oldest_pending_since(connection)
        return 0.0 if since is None else max(0.0, self._clock() - since)

    def overdue(self, deadline: float) -> int:
        """How many deletions have been owed for longer than `deadline` seconds."""
        with self._database.read_transaction() as connection:
            return requests.count_pending_since(connection, self._clock() - deadline)

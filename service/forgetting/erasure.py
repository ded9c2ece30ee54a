"""Looking for what a deletion should have erased: rows, artifacts that had seen the person, and bytes.

A search that finds nothing is evidence only because it would have found: `tests/forgetting/test_erasure.py` switches each
erasing step off and sees it fail.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from adapters_store import Remains, Store, StoredGeneration
from service.forgetting.ports import AuditedLedger
from service.records import ForgetRequest


@dataclass(frozen=True, slots=True)
class ErasureAudit:
    """What was found of a deletion: all zero when everything is gone; and how much was searched."""

    person_in_ledger: int
    old_adapters: int
    old_memories: int
    old_generations: int
    masked_rows_in_use: int
    abandoned_files: int
    files_naming_old_artifacts: int
    names_searched: int  # of artifacts, rows and generations that had seen the person
    people_searched: int  # whose ids were hashed and compared
    files_searched: int
    bytes_searched: int
    unnamed_items: int = 0  # created items in the ledger or the served catalog that nobody's row names
    remains: Remains | None = (
        None  # of an object store, which may keep what it no longer shows; among `abandoned_files`
    )

    keys: int | None = None  # of an encrypted store's directories that are not there; among `abandoned_files`

    def stated(self) -> dict[str, int]:
        """What a receipt says of it: numbers alone.

        Of a store in a folder nothing is said of versions and uploads, of one that is not encrypted nothing of keys.
        """
        numbers = asdict(self)
        remains, keys = numbers.pop("remains") or {}, numbers.pop("keys")
        return numbers | {"found": self.found} | remains | ({} if keys is None else {"keys": keys})

    @property
    def found(self) -> int:
        return (
            self.person_in_ledger
            + self.unnamed_items
            + self.old_adapters
            + self.old_memories
            + self.old_generations
            + self.masked_rows_in_use
            + self.abandoned_files
            + self.files_naming_old_artifacts
        )


class ErasureAuditor:
    """Searches ledger and store as they are now."""

    def __init__(self, ledger: AuditedLedger, store: Store) -> None:
        self._ledger = ledger
        self._store = store
        self._published = _published(ledger, store)
        # Every user's id must be hashed for this, so it is done once.
        self._people = ledger.counts().users
        self._found_again = frozenset(
            subject for user in ledger.resurrected_users() for subject in ledger.subjects(user)
        )

    def search(self, requests: Sequence[ForgetRequest]) -> ErasureAudit:
        """Look for everything of these deletions at once. Their masked rows are known until they are completed."""
        adapters = {digest for request in requests for digest in self._saw(request)}
        adapters -= _digests(self._published, "adapters")
        memories = {digest for request in requests for digest in self._counted(request)}
        memories -= _digests(self._published, "memories")
        generations = {request.generation_before for request in requests if request.generation_before}
        generations -= {self._published.id} if self._published else set()
        in_use = _rows(self._published)
        rows = {row for request in requests for row in self._masked_rows(request, in_use)}
        bytes_found = self._store.search([name.encode() for name in sorted(adapters | memories | rows)])
        return ErasureAudit(
            unnamed_items=self._unnamed_items(),
            remains=self._store.remains(),
            keys=self._store.keys_left(),
            person_in_ledger=len(self._found_again.intersection(request.subject for request in requests)),
            old_adapters=len(adapters.intersection(self._store.adapters.digests())),
            old_memories=len(memories.intersection(self._store.memories.digests())),
            old_generations=len(generations.intersection(self._store.generations())),
            masked_rows_in_use=len(rows & in_use),
            abandoned_files=self._store.abandoned(),
            files_naming_old_artifacts=len(bytes_found.hits),
            names_searched=len(adapters | memories | rows | generations),
            people_searched=self._people,
            files_searched=bytes_found.files,
            bytes_searched=bytes_found.bytes,
        )

    def _unnamed_items(self) -> int:
        listed = self._published is not None and "items.json" in self._published.manifest["files"]
        served = set(json.loads(self._published.read("items.json"))) if self._published and listed else set()
        published, ids = self._ledger.published(), self._ledger.item_ids()
        # Of a deletion that came since, the served catalog still knows what only that person named: the next pass has it.
        current = published is not None and published.fence == self._ledger.mask().fence
        return self._ledger.unnamed_items() + (len(served - ids) if current else 0)

    def _saw(self, request: ForgetRequest) -> frozenset[str]:
        # A build that was under way when it was accepted has named what it made only afterwards, among the masks.
        return self._ledger.masked_by(request.request_id).adapters.union(request.affected_shards)

    def _counted(self, request: ForgetRequest) -> frozenset[str]:
        # The masks fall when a deletion is completed; from then on its receipt names them.
        stated = [] if request.receipt is None else json.loads(request.receipt)["receipt"].get("memories", [])
        return self._ledger.masked_by(request.request_id).memories.union(stated)

    def _masked_rows(self, request: ForgetRequest, in_use: frozenset[str]) -> frozenset[str]:
        rows = self._ledger.masked_by(request.request_id).rows
        # Rows that never held the forgotten items keep their keys, and so do equal rows of who came back meanwhile (then
        # there is no tombstone any more); of who is gone as a whole, none may be in use.
        is_gone = request.scope == "user" and self._ledger.tombstones(request.request_id)
        return rows if is_gone else rows - in_use


def encodings(text: str) -> Iterator[bytes]:
    """The forms in which a text may lie in a file: UTF-8, UTF-16 in both byte orders, and as JSON escapes it."""
    yield text.encode()
    yield text.encode("utf-16-le")
    yield text.encode("utf-16-be")
    yield json.dumps(text)[1:-1].encode()
    yield json.dumps(text, ensure_ascii=False)[1:-1].encode()


def needles_of(texts: Iterable[str]) -> list[bytes]:
    """All encodings of all texts."""
    return sorted({needle for text in texts for needle in encodings(text)})


def _published(ledger: AuditedLedger, store: Store) -> StoredGeneration | None:
    generation = ledger.generation()
    return None if generation is None else store.generation(generation)


def _digests(published: StoredGeneration | None, kind: str) -> set[str]:
    return set() if published is None else {artifact["digest"] for artifact in published.manifest.get(kind, ())}


def _rows(published: StoredGeneration | None) -> frozenset[str]:
    return frozenset() if published is None else frozenset(json.loads(published.read("rows.json")))

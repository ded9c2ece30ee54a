"""The one truth about who is in the model and which deletions are owed. SQLAlchemy Core over SQLite or PostgreSQL.

Every write is one transaction, and writers queue: on SQLite by `BEGIN IMMEDIATE`, on PostgreSQL by locking the one row of
`state`. So a deletion, its masks and its place in the order of deletions (the fence) become visible together.

What remains of a forgotten user: their keyed hash (in `forget_requests` and `tombstones`), and the names of the artifacts
that had seen them, until these artifacts are replaced.
"""

from service.ledger.artifact_keys import ArtifactKeys, rewrap
from service.ledger.audit import AuditEntry, AuditTrail, ChainCheck
from service.ledger.connections import ledger_exists
from service.ledger.database import upgrade_ledger
from service.ledger.deletions import AcceptedForget
from service.ledger.events import Event, EventOutcome
from service.ledger.exporting import ForgetPreview, PersonExport
from service.ledger.hashes import KeyedHashes
from service.ledger.histories import LedgerCounts
from service.ledger.importing import ImportCounts, check_source
from service.ledger.impressions import SMALLEST_GROUP, HeldImpression, ImpressionBook, OnlineQuality
from service.ledger.keys import ApiKey, KeyRing, Quota, Scope
from service.ledger.ledger import Ledger
from service.ledger.masks import MaskedArtifacts
from service.ledger.merkle import leaf_hash, proves_consistency, proves_inclusion
from service.ledger.outbox import Announced, Outbox, OutboxCounts, OutboxEvent
from service.ledger.placements import MEMORIZED, VALIDATES, AssignmentColumns
from service.ledger.read_transaction import ReadTransaction
from service.ledger.receipt_log import (
    Consistency,
    Inclusion,
    LogCheck,
    ReceiptLog,
    TreeHead,
    entry_of,
)
from service.ledger.rekeying import (
    KEY_ID_LENGTH,
    Rekeyed,
    known_check,
    rekey,
)
from service.ledger.restraining import LONGEST_GROUND, Lifted, RestraintBook, RestraintStatus
from service.ledger.searching import ColumnSearch
from service.ledger.selecting import MOST_ITEMS, RowSelection, SelectedRows
from service.ledger.shelf import ItemOutcome

__all__ = [
    "KEY_ID_LENGTH",
    "LONGEST_GROUND",
    "MEMORIZED",
    "MOST_ITEMS",
    "SMALLEST_GROUP",
    "VALIDATES",
    "AcceptedForget",
    "Announced",
    "ApiKey",
    "ArtifactKeys",
    "AssignmentColumns",
    "AuditEntry",
    "AuditTrail",
    "ChainCheck",
    "ColumnSearch",
    "Consistency",
    "Event",
    "EventOutcome",
    "ForgetPreview",
    "HeldImpression",
    "ImportCounts",
    "ImpressionBook",
    "Inclusion",
    "ItemOutcome",
    "KeyRing",
    "KeyedHashes",
    "Ledger",
    "LedgerCounts",
    "Lifted",
    "LogCheck",
    "MaskedArtifacts",
    "OnlineQuality",
    "Outbox",
    "OutboxCounts",
    "OutboxEvent",
    "PersonExport",
    "Quota",
    "ReadTransaction",
    "ReceiptLog",
    "Rekeyed",
    "RestraintBook",
    "RestraintStatus",
    "RowSelection",
    "Scope",
    "SelectedRows",
    "TreeHead",
    "check_source",
    "entry_of",
    "known_check",
    "leaf_hash",
    "ledger_exists",
    "proves_consistency",
    "proves_inclusion",
    "rekey",
    "rewrap",
    "upgrade_ledger",
]

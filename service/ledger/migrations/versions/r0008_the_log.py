"""A log of receipts, to which each is appended when its request is completed; and an outbox of notifications."""

import hashlib
import secrets

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
at_start = True

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add tables, and enter the receipts that there are, in the order of completion."""
    nodes = op.create_table(
        "receipt_log",
        sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hash", _Text, nullable=False),
        sqlite_with_rowid=False,
    )
    logged = op.create_table(
        "logged_receipts",
        sa.Column("request_id", _Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("salt", _Text, nullable=False),
        sqlite_with_rowid=False,
    )
    _enter_known(nodes, logged)
    op.create_table(
        "outbox",
        sa.Column("request_id", _Text, primary_key=True),
        sa.Column("state", _Text, primary_key=True),
        sa.Column("occurred_at", sa.Double, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("next_attempt_at", sa.Double),
        sa.Column("delivered_at", sa.Double),
        sqlite_with_rowid=False,
    )
    op.create_index("outbox_next_attempt_at", "outbox", ["next_attempt_at"])
    # Who does not know of the log would complete deletions whose receipts are not in it.
    op.execute("UPDATE state SET oldest_schema = '0008'")


def _enter_known(nodes: sa.Table, logged: sa.Table) -> None:
    known = sa.text(
        "SELECT request_id, receipt FROM forget_requests WHERE receipt IS NOT NULL ORDER BY completed_at, request_id"
    )
    salted = [(row.request_id, secrets.token_bytes(32), row.receipt) for row in op.get_bind().execute(known)]
    op.bulk_insert(
        logged,
        [
            {"request_id": request_id, "position": position, "salt": salt.hex()}
            for position, (request_id, salt, _) in enumerate(salted)
        ],
    )
    level, hashes = 0, [_leaf(salt, receipt) for _, salt, receipt in salted]
    while hashes:
        rows = [{"level": level, "position": position, "hash": made.hex()} for position, made in enumerate(hashes)]
        op.bulk_insert(nodes, rows)
        pairs = zip(hashes[::2], hashes[1::2], strict=False)  # a last one without a partner fills no subtree yet
        level, hashes = level + 1, [hashlib.sha256(b"\x01" + left + right).digest() for left, right in pairs]


def _leaf(salt: bytes, receipt: str) -> bytes:
    entry = hashlib.sha256(salt + hashlib.sha256(receipt.encode()).digest()).digest()
    return hashlib.sha256(b"\x00" + entry).digest()

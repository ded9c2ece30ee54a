"""API keys, the audit trail, by which key a deletion was asked for, and an index on the states that are polled."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
at_start = True

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add tables, a column that may be absent from what an earlier version writes, and an index."""
    op.create_table(
        "api_keys",
        sa.Column("key_id", _Text, primary_key=True),
        sa.Column("name", _Text, nullable=False),
        sa.Column("key_hash", _Text, nullable=False),
        sa.Column("scopes", _Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
        sa.Column("last_used_at", sa.Double),
        sa.Column("requests_per_minute", sa.BigInteger),
        sa.Column("tokens_per_minute", sa.BigInteger),
        sa.Column("deletions_per_minute", sa.BigInteger),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "audit_log",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", _Text, nullable=False),
        sa.Column("action", _Text, nullable=False),
        sa.Column("outcome", _Text, nullable=False),
        sa.Column("request_id", _Text),
        sa.Column("subject", _Text),
        sa.Column("subject_salt", _Text),
        sa.Column("subject_digest", _Text, nullable=False),
        sa.Column("address", _Text),
        sa.Column("address_salt", _Text),
        sa.Column("address_digest", _Text, nullable=False),
        sa.Column("previous", _Text, nullable=False),
        sa.Column("digest", _Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("audit_log_subject", "audit_log", ["subject"])
    op.add_column("forget_requests", sa.Column("requested_by", _Text))
    op.create_index("forget_requests_state", "forget_requests", ["state"])

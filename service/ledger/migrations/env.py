"""What Alembic runs: the pending revisions, on the connection and within the transaction that it was given."""

from alembic import context

from service.ledger import tables
from service.ledger.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"], target_metadata=tables.metadata, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()

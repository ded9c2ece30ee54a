"""How a ledger of an earlier version becomes one of this version: Alembic's revisions, in a chain.

A revision's id is its number in four digits (`0003`); one that a version of Lethe does not know is of a later version. Beside
Alembic's fields each revision states

    at_start    whether any process may run it when it opens the ledger: it only adds what may be absent, in a moment, and
                whoever does not know it may go on writing. Otherwise `lethe upgrade` runs it, with all others stopped.

A revision after which processes of earlier versions must not write sets `state.oldest_schema` to the oldest revision whose
processes may. Whatever it does, requests, receipts, masks and tombstones stay; and no revision is changed after its release.
"""

VERSION_TABLE = "lethe_schema"  # not Alembic's own name: others may keep theirs in the same database

# A process of an earlier version would forget a person and leave their rows in `due`.
OLDEST_SCHEMA = "0011"

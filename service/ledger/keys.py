"""API keys: who may ask over the network for what. The ledger holds a keyed hash of each key, never the key.

A key is `lethe_<key id>_<random>`. Its id may be told to anybody, and stands in the audit trail and in receipts. Rows of keys
are never removed: where there has once been a key, nobody is let in without one.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

import sqlalchemy as sa

from service.errors import InvalidInput
from service.ledger import audit, tables
from service.ledger.database import Database
from service.ledger.hashes import KeyedHashes
from service.ledger.statements import Row, is_storable

LONGEST_NAME = 100  # characters
_FORM = re.compile(r"lethe_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_USE_NOTED_AFTER = 60.0  # seconds between two notes of a key's use: each is a write
_TRIES = 3  # at an id that is not taken


class Scope(StrEnum):
    """What a key may be used for. `rights` and `receipts` are the ones that tell of whom anything was held."""

    RECOMMEND = "recommend"
    EXPLAIN = "explain"
    FORGET = "forget"
    RIGHTS = "rights"
    INGEST = "ingest"
    ITEMS = "items"
    RECEIPTS = "receipts"
    OPERATE = "operate"
    TITLES = "titles"  # where candidates must be of the catalog (LETHE_CATALOG_ONLY): to name others all the same
    METRICS = "metrics"  # part of `operate`, for a scraper that should be able to do nothing else


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a caller may do a minute. None: what the installation's settings say."""

    requests: int | None = None
    tokens: int | None = None
    deletions: int | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key. Times are seconds since the epoch."""

    key_id: str
    name: str
    scopes: frozenset[Scope]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None
    quota: Quota = Quota()

    def state(self, now: float) -> str:
        """live | expired | revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "live" if self.expires_at is None or now < self.expires_at else "expired"


class KeyRing:
    """The keys of one ledger. Every method is one transaction; each raises LedgerUnavailable."""

    def __init__(self, database: Database, hashes: KeyedHashes, clock: Callable[[], float]) -> None:
        self._database = database
        self._hashes = hashes
        self._clock = clock

    def create(
        self, name: str, scopes: Iterable[Scope], expires_at: float | None, quota: Quota, actor: str
    ) -> tuple[ApiKey, str]:
        """A new key: what is known of it, and the key itself, which can never be shown again.

        Raises InvalidInput for a name or an expiry that cannot be, and where no scope is given.
        """
        now = self._clock()
        chosen = _checked(name, frozenset(scopes), expires_at, now)
        with self._database.write_transaction() as connection:
            key_id = _unused_id(connection)
            token = f"lethe_{key_id}_{secrets.token_urlsafe(32)}"
            key = ApiKey(key_id, name, chosen, now, expires_at, quota=quota)
            connection.execute(sa.insert(tables.api_keys).values(_row(key, self._hash(token))))
            audit.append(
                connection, self._hashes, audit.AuditEvent(now, actor, "key.create", "done", request_id=key_id)
            )
        return key, token

    def all(self) -> list[ApiKey]:
        """Every key that there ever was, the oldest first."""
        c = tables.api_keys.c
        with self._database.read_transaction() as connection:
            return [
                _key(row) for row in connection.execute(sa.select(tables.api_keys).order_by(c.created_at, c.key_id))
            ]

    def any(self) -> bool:
        """Whether there has ever been a key: from then on nobody is let in without one."""
        with self._database.read_transaction() as connection:
            return _any(connection)

    def revoke(self, key_id: str, actor: str) -> ApiKey:
        """The key, which from this moment on opens nothing on any replica. Raises InvalidInput if there is none of this id."""
        now = self._clock()
        with self._database.write_transaction() as connection:
            found = _find(connection, key_id)
            if found is None:
                raise InvalidInput("there is no key of this id; see `lethe keys list`")
            key = _key(found)
            if key.revoked_at is None:
                key = replace(key, revoked_at=now)
                _change(connection, key_id, revoked_at=now)
                audit.append(
                    connection, self._hashes, audit.AuditEvent(now, actor, "key.revoke", "done", request_id=key_id)
                )
        return key

    def authenticate(self, token: str | None) -> tuple[ApiKey | None, bool]:
        """The live key that this is, or None; and whether one is needed because there has ever been any.

        Read anew each time, in one transaction, so that a revocation counts from the next request on.
        """
        form = _FORM.fullmatch(token) if token is not None and is_storable(token) else None
        with self._database.read_transaction() as connection:
            row = None if form is None else _find(connection, form[1])
            needed = row is not None or _any(connection)
        if row is None or token is None or not self._matches(token, row.key_hash):
            return None, needed
        key = _key(row)
        return (key if key.state(self._clock()) == "live" else None), needed

    def wants_note(self, key: ApiKey) -> bool:
        """Whether the last use that is noted was long ago."""
        return key.last_used_at is None or self._clock() - key.last_used_at > _USE_NOTED_AFTER

    def note_use(self, key: ApiKey, token: str) -> None:
        """Note that the key is in use now. One that was hashed under a retired secret is hashed under the present one."""
        with self._database.write_transaction() as connection:
            _change(connection, key.key_id, last_used_at=self._clock(), key_hash=self._hash(token))

    def _hash(self, token: str) -> str:
        return self._hashes.of("api key", token)

    def _matches(self, token: str, key_hash: str) -> bool:
        # All are tried, so that the time tells nothing of which it is.
        tried = [hmac.compare_digest(hashes.of("api key", token), key_hash) for hashes in self._hashes.every()]
        return any(tried)


def _checked(name: str, scopes: frozenset[Scope], expires_at: float | None, now: float) -> frozenset[Scope]:
    if not name or len(name) > LONGEST_NAME or not name.isprintable() or not is_storable(name):
        raise InvalidInput(f"the name of a key is 1 to {LONGEST_NAME} printable characters")
    if not scopes:
        raise InvalidInput(f"a key without a scope opens nothing; name some of {', '.join(Scope)}")
    if expires_at is not None and expires_at <= now:
        raise InvalidInput("the key would have expired already; give a time to come")
    return scopes


def _unused_id(connection: sa.Connection) -> str:
    for _ in range(_TRIES):
        key_id = secrets.token_hex(6)
        if _find(connection, key_id) is None:
            return key_id
    raise InvalidInput("no unused key id was found; try again")


def _any(connection: sa.Connection) -> bool:
    return connection.execute(sa.select(tables.api_keys.c.key_id).limit(1)).first() is not None


def _find(connection: sa.Connection, key_id: str) -> Row | None:
    if not is_storable(key_id):
        return None
    return connection.execute(sa.select(tables.api_keys).where(tables.api_keys.c.key_id == key_id)).first()


def _change(connection: sa.Connection, key_id: str, **values: object) -> None:
    connection.execute(sa.update(tables.api_keys).where(tables.api_keys.c.key_id == key_id).values(**values))


def _row(key: ApiKey, key_hash: str) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "key_hash": key_hash,
        "scopes": json.dumps(sorted(key.scopes)),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "requests_per_minute": key.quota.requests,
        "tokens_per_minute": key.quota.tokens,
        "deletions_per_minute": key.quota.deletions,
    }


def _key(row: Row) -> ApiKey:
    # A scope of a later version opens nothing here.
    scopes = frozenset(Scope(name) for name in json.loads(row.scopes) if name in set(Scope))
    quota = Quota(row.requests_per_minute, row.tokens_per_minute, row.deletions_per_minute)
    return ApiKey(row.key_id, row.name, scopes, row.created_at, row.expires_at, row.revoked_at, row.last_used_at, quota)

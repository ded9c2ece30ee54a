"""Lets a request in or not: by the key that it brings, what the key is for, and what is left of its quota."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from service.access.identity import Bearer
from service.access.quotas import Buckets, Level
from service.errors import Forbidden, LetheError, QuotaExceeded, Unauthenticated
from service.ledger import ApiKey, Quota, Scope
from service.records import Requester

FAILURES_PER_MINUTE = 60  # refusals of one address, or key, that are looked into and told of

_DOTS_OF_A_TOKEN = 2  # header.claims.signature; no key of ours holds one

log = logging.getLogger(__name__)


class Keys(Protocol):
    """The ledger's keys."""

    def authenticate(self, token: str | None) -> tuple[ApiKey | None, bool]: ...

    def wants_note(self, key: ApiKey) -> bool: ...

    def note_use(self, key: ApiKey, token: str) -> None: ...


class Identities(Protocol):
    """An identity provider's tokens."""

    def bearer_of(self, token: str) -> Bearer: ...


class Trail(Protocol):
    """The ledger's audit trail."""

    def note(
        self, actor: str, action: str, outcome: str, request_id: str | None = None, address: str | None = None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Access:
    """What opens a route: any one of these scopes, or nothing at all if it is `public`."""

    scopes: frozenset[Scope] = frozenset()
    public: bool = False


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller has left of one quota, for the headers of the answer."""

    kind: str
    limit: int
    left: int
    seconds: int  # until all of it is there again


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever was let in. `name` tells callers apart (queues and buckets go by it) and holds no address."""

    name: str
    actor: str
    key_id: str | None
    scopes: frozenset[Scope]
    address: str | None
    quota: Quota
    allowance: Allowance | None = field(default=None, compare=False)

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def require(self, scope: Scope) -> None:
        """Raises Forbidden, which names the scope."""
        if not self.may(scope):
            raise Forbidden(f"This needs an API key with the scope `{scope}`.")

    def requester(self) -> Requester:
        """The caller as one who asks for a deletion."""
        return Requester(self.actor, self.key_id, self.address, self.may(Scope.RIGHTS))


class Account:
    """What one caller's scoring is charged to; `name` is whose turn it is in the queue.

    `free_titles`: whether the caller may have titles ranked that no catalog knows.
    """

    def __init__(self, name: str, charge: Callable[[int], object], free_titles: bool) -> None:
        self.name = name
        self.free_titles = free_titles
        self._charge = charge

    def charge(self, tokens: int) -> None:
        """Raises QuotaExceeded."""
        self._charge(tokens)


class Doorkeeper:
    """Decides for every request anew. It asks the ledger, so it blocks; threads share it.

    Without any key in the ledger everybody is let in if `open_without_keys`, and nobody otherwise. Once there has been a key,
    or where there are `identities`, everybody needs one, or a token of theirs. `quota` is for whoever has none of their own;
    `hash_of` hides an address, and the bearer of a token, in the names of buckets and callers. With `catalog_only` nobody but a
    key with the scope `titles` may have titles ranked that no catalog knows.
    """

    def __init__(
        self,
        keys: Keys,
        trail: Trail,
        buckets: Buckets,
        quota: Quota,
        hash_of: Callable[[str], str],
        open_without_keys: bool,
        identities: Identities | None = None,
        catalog_only: bool = False,
    ) -> None:
        self._keys = keys
        self._trail = trail
        self._buckets = buckets
        self._quota = quota
        self._hash_of = hash_of
        self._open = open_without_keys and identities is None
        self._identities = identities
        self._catalog_only = catalog_only
        # Notes of use are written beside the requests: a busy ledger must not hold these up.
        self._notes = ThreadPoolExecutor(max_workers=1, thread_name_prefix="key-use")

    def close(self) -> None:
        """Give up what is not noted yet."""
        self._notes.shutdown(wait=False, cancel_futures=True)

    def admit(self, token: str | None, address: str | None, access: Access, action: str) -> Caller:
        """The caller, with one request charged. `action` is what the trail calls the route.

        Raises:
            Unauthenticated: a key is needed, and this is none, or none any more: it is not told which.
            IdentityUnavailable: it is a token of an identity provider whose keys cannot be fetched.
            Forbidden: the key is for other things.
            QuotaExceeded: too many requests, or too many failures, within a minute.
            LedgerUnavailable: it cannot be said who may come in, so nobody may.
        """
        if access.public:
            return self._charged(self._stranger(address))
        key, needed = self._keys.authenticate(token)
        if key is None and token is not None and self._identities is not None and token.count(".") == _DOTS_OF_A_TOKEN:
            caller = self._charged(self._bearer(self._identities, token, address))
        elif key is None:
            if needed or not self._open:
                self._refuse_stranger(address)
            return self._charged(self._stranger(address))
        else:
            caller = self._charged(_caller_of(key, address))
            self._note_use(key, token)
        if not access.scopes & caller.scopes:
            self._refuse(caller, access, action)
        return caller

    def charge_deletion(self, caller: Caller) -> None:
        """Raises QuotaExceeded."""
        self._charge(caller, "deletions", 1)

    def account(self, caller: Caller) -> Account:
        """To be charged with the tokens that are scored for the caller."""
        free_titles = not self._catalog_only or (caller.key_id is not None and caller.may(Scope.TITLES))
        return Account(caller.name, lambda tokens: self._charge(caller, "tokens", tokens), free_titles)

    def _stranger(self, address: str | None) -> Caller:
        name = f"address-{self._hash_of(_network(address))[:32]}"
        return Caller(name, "anyone", None, frozenset(Scope), address, Quota())

    def _bearer(self, identities: Identities, token: str, address: str | None) -> Caller:
        try:
            bearer = identities.bearer_of(token)
        except Unauthenticated:
            self._refuse_stranger(address)
            raise
        # A provider's tokens may name people; what is written of them must not.
        name = f"token-{self._hash_of(bearer.name)[:16]}"
        return Caller(name, name, name, bearer.scopes, address, Quota())

    def _refuse_stranger(self, address: str | None) -> None:
        level = self._buckets.take(f"failures:{self._stranger(address).name}", FAILURES_PER_MINUTE, 1)
        if not level.granted:
            raise _exceeded("failures", FAILURES_PER_MINUTE, level)
        raise Unauthenticated("This needs an API key, and none was sent that is known and valid.")

    def _refuse(self, caller: Caller, access: Access, action: str) -> None:
        # Bounded, or whoever holds a key could fill the trail.
        if self._buckets.take(f"failures:{caller.name}", FAILURES_PER_MINUTE, 1).granted:
            self._trail.note(caller.actor, action, "refused: scope", address=caller.address)
        raise Forbidden(f"This needs an API key with the scope {' or '.join(f'`{s}`' for s in sorted(access.scopes))}.")

    def _charged(self, caller: Caller) -> Caller:
        allowance = self._charge(caller, "requests", 1)
        return Caller(caller.name, caller.actor, caller.key_id, caller.scopes, caller.address, caller.quota, allowance)

    def _charge(self, caller: Caller, kind: str, cost: int) -> Allowance:
        own: int | None = getattr(caller.quota, kind)
        limit: int = getattr(self._quota, kind) if own is None else own
        level = self._buckets.take(f"{kind}:{caller.name}", limit, cost)
        if not level.granted:
            raise _exceeded(kind, limit, level)
        return Allowance(kind, limit, int(level.left), round((limit - level.left) * 60 / limit))

    def _note_use(self, key: ApiKey, token: str | None) -> None:
        if token is not None and self._keys.wants_note(key):
            self._notes.submit(self._write_use, key, token)

    def _write_use(self, key: ApiKey, token: str) -> None:
        try:
            if self._keys.wants_note(key):
                self._keys.note_use(key, token)
        except LetheError as error:
            log.warning("key_use_not_noted", extra={"kind": type(error).__name__})


def _caller_of(key: ApiKey, address: str | None) -> Caller:
    return Caller(f"key-{key.key_id}", key.key_id, key.key_id, key.scopes, address, key.quota)


def _exceeded(kind: str, limit: int, level: Level) -> QuotaExceeded:
    told = "refusals" if kind == "failures" else kind
    return QuotaExceeded(
        f"More {told} than {limit} a minute. Try again later.", level.retry_after, kind, limit, int(level.left)
    )


def _network(address: str | None) -> str:
    """An IPv4 address, or of an IPv6 address the half that one subscriber has."""
    try:
        known = ipaddress.ip_address(address or "")
    except ValueError:
        return "unknown"
    if isinstance(known, ipaddress.IPv6Address) and known.ipv4_mapped is None:
        return str(ipaddress.ip_network((known, 64), strict=False))
    return str(getattr(known, "ipv4_mapped", None) or known)

"""Keyed hashes: how the ledger recognizes a user whom it must no longer know."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator, Sequence

from service.data.ledger.statements import storable
from service.errors import InvalidSetting


class KeyedHashes:
    """Hex HMAC-SHA256 under one secret. Without the secret nobody can try out which user a hash stands for.

    `retired` are secrets from before a rotation: what was written under them, and cannot be written anew because nobody knows
    whom it stands for, is still recognized.
    """

    def __init__(self, secret: bytes, retired: Sequence[bytes] = ()) -> None:
        if not secret:
            raise InvalidSetting("the ledger's secret is empty; give it random bytes and keep them")
        self._secret = secret
        self.retired = tuple(KeyedHashes(earlier) for earlier in retired if earlier != secret)

    def every(self) -> Iterator[KeyedHashes]:
        """These hashes, and those under each retired secret."""
        yield self
        yield from self.retired

    def check(self) -> str:
        """What tells this secret from another, and nothing else of it."""
        return self.of("check")

    def subjects(self, user_id: str) -> frozenset[str]:
        """The hashes of a user under every secret."""
        return frozenset(hashes.subject(user_id) for hashes in self.every())

    def subject(self, user_id: str) -> str:
        """The hash of a user. Raises InvalidInput for an id that cannot be stored."""
        return self.of("subject", storable(user_id))

    def grave(self, subject: str, item_id: str) -> str:
        """The hash of one interaction of a user: who knows the user cannot read from it which item it was."""
        return self.of("grave", subject, item_id)

    def of(self, purpose: str, *parts: str) -> str:
        """The hash of these parts; one for another purpose tells nothing about it."""
        message = json.dumps([purpose, *parts]).encode()
        return hmac.digest(self._secret, message, "sha256").hex()

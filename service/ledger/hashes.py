"""Keyed hashes: how the ledger recognizes a user whom it must no longer know."""

from __future__ import annotations

import hmac
import json
import unicodedata
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring_ascii

from service.errors import InvalidSetting
from service.ledger.statements import keyed


def _spellings(key: str) -> tuple[str, ...]:
    if key.isascii():
        return (key,)
    decomposed = unicodedata.normalize("NFD", key)
    return (key,) if decomposed == key else (key, decomposed)


class KeyedHashes:
    """Hex HMAC-SHA256 under one secret. Without the secret nobody can try out which user a hash stands for.

    `retired` are secrets from before a rotation: what was written under them, and cannot be written anew because nobody knows
    whom it stands for, is still recognized.
    """

    def __init__(self, secret: bytes, retired: Sequence[bytes] = ()) -> None:
        if not secret:
            raise InvalidSetting("the ledger's secret is empty; give it random bytes and keep them")
        # To take in the key costs more than to hash an id, and everybody's id is hashed for each deletion.
        self._keyed = hmac.new(secret, digestmod="sha256")
        self._subjects = self._keyed.copy()
        self._subjects.update(b'["subject", ')  # as the JSON list that `of` hashes begins
        self.retired = tuple(KeyedHashes(earlier) for earlier in retired if earlier != secret)

    def every(self) -> Iterator[KeyedHashes]:
        """These hashes, and those under each retired secret."""
        yield self
        yield from self.retired

    def check(self) -> str:
        """What tells this secret from another, and nothing else of it."""
        return self.of("check")

    def subject(self, user_id: str) -> str:
        """The hash of a user. Raises InvalidInput for what is no id."""
        return self._subject(keyed(user_id))

    def scope_hash(self, subject: str, item_id: str) -> str:
        """The hash of one interaction of a user: who knows the user cannot read from it which item it was."""
        return self.of("grave", subject, item_id)

    def subjects(self, user_id: str) -> tuple[str, ...]:
        """The hash of a user, then others by which one may be known: under retired secrets, and of ids as they were spelled.

        Earlier versions hashed ids without normalizing them.
        """
        own = self._own_subjects(user_id)
        return own if not self.retired else own + tuple(s for each in self.retired for s in each._own_subjects(user_id))

    def scope_hashes(self, user_id: str, item_id: str) -> tuple[str, ...]:
        """The hash of one interaction of a user, then others by which it may be known."""
        return tuple(
            hashes.scope_hash(subject, text)
            for hashes in self.every()
            for subject in hashes._own_subjects(user_id)
            for text in _spellings(item_id)
        )

    def _own_subjects(self, user_id: str) -> tuple[str, ...]:
        return tuple([self._subject(text) for text in _spellings(keyed(user_id))])

    def _subject(self, text: str) -> str:
        mac = self._subjects.copy()
        mac.update(f"{encode_basestring_ascii(text)}]".encode())
        return mac.hexdigest()

    def of(self, purpose: str, *parts: str) -> str:
        """The hash of these parts; one for another purpose tells nothing about it."""
        mac = self._keyed.copy()
        mac.update(json.dumps([purpose, *parts]).encode())
        return mac.hexdigest()

"""Everything that Lethe raises on purpose. Messages say what was wrong, what was expected and what to do; no user data.

LetheError
├── InvalidInput            the caller's request or file cannot be taken as it is
│   ├── ImportRefused         a file holds too many malformed rows, or is not of the expected form
│   ├── InvalidSetting        a setting is missing, out of range, or contradicts another
│   ├── UnknownUser           nothing is held of this user
│   ├── UnknownItem           an item id that no catalog holds
│   ├── UnknownRequest        no forget request has this id
│   ├── SelectionChanged      other rows are selected now than were previewed
│   ├── UnknownInteraction    nothing is held of this user and this item
│   ├── MergeRefused          one of two users is restricted, under a hold, or asked for deletion
│   ├── UnknownRestraint      no restriction, or no hold, stands over this user
│   └── IdempotencyConflict   the key was used before, for a different request
├── ModelUnsuitable         the frozen model cannot be used for scoring
├── StoreError              the store cannot be read or written
│   ├── Damaged               a file does not have the digest that its name or manifest states
│   └── NotReady              no generation is published yet, or it is not loaded yet
├── LedgerUnavailable       the database cannot be asked, so nothing may be answered
│   ├── LedgerNewer           a later version upgraded the ledger, and this one may not work with it any more
│   └── SecretChanged         the secret or the store key was rotated while this process ran; it must read the new one
├── IdentityUnavailable     the identity provider's keys cannot be fetched, so no token of it can be believed
├── ReceiptInvalid          a receipt's signature does not match its content
├── ProofInvalid            a proof of the receipts' log does not show what it should, or the log is not sound
├── NotDelivered            a webhook's receiver did not take a notification; it is tried again
├── OutOfMemory             the device's memory is full
├── AccessRefused           the caller may not do this
│   ├── Unauthenticated       a key is needed, and none came that is known and valid
│   └── Forbidden             the key is for other things
├── TooLarge                the request would cost more than any request may
└── Overloaded              too much is waiting; come back after `retry_after` seconds
    ├── QuotaExceeded         the caller has used up what they may do a minute
    └── TimedOut              the answer did not come within the request's time
"""

from __future__ import annotations


class LetheError(Exception):
    """Base of the tree. `str(error)` may be shown to anybody: it holds no user data."""


class InvalidInput(LetheError): ...


class ImportRefused(InvalidInput): ...


class InvalidSetting(InvalidInput): ...


class UnknownUser(InvalidInput): ...


class UnknownItem(InvalidInput): ...


class UnknownRequest(InvalidInput): ...


class UnknownInteraction(InvalidInput): ...


class UnknownRestraint(InvalidInput): ...


class SelectionChanged(InvalidInput): ...


class MergeRefused(InvalidInput): ...


class IdempotencyConflict(InvalidInput): ...


class ModelUnsuitable(LetheError): ...


class StoreError(LetheError): ...


class Damaged(StoreError): ...


class NotReady(StoreError): ...


class LedgerUnavailable(LetheError): ...


class LedgerNewer(LedgerUnavailable):
    """The process has to be replaced by one of the later version; no waiting helps."""


class SecretChanged(LedgerUnavailable):
    """The process has to be started anew, so that it reads the new secret or store key; no waiting helps."""


class IdentityUnavailable(LetheError): ...


class ReceiptInvalid(LetheError): ...


class ProofInvalid(LetheError): ...


class NotDelivered(LetheError): ...


class OutOfMemory(LetheError):
    """What could be given back has been: the next request may find room."""


class AccessRefused(LetheError):
    """The caller may not do this."""


class Unauthenticated(AccessRefused):
    """It is not told whether the key is unknown, expired or revoked."""


class Forbidden(AccessRefused):
    """The message names the scope that is missing."""


class TooLarge(LetheError):
    """The message says how much is allowed."""


class Overloaded(LetheError):
    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TimedOut(Overloaded): ...


class QuotaExceeded(Overloaded):
    """`kind` (requests, tokens, deletions, failures), how much of it is allowed a minute, and what is left."""

    def __init__(
        self, message: str, retry_after: int = 1, kind: str = "requests", limit: int = 1, left: int = 0
    ) -> None:
        super().__init__(message, retry_after)
        self.kind, self.limit, self.left = kind, limit, left

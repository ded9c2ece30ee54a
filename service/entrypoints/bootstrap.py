"""What every process of an installation opens first. Serving is wired in `serving`, building in `building`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from adapters_store import DirectoryKeys, Store, open_store
from service.config import Settings
from service.errors import InvalidSetting, LetheError
from service.forgetting.bell import Bell, open_bell
from service.forgetting.incidents import INCIDENTS, Incidents
from service.forgetting.intake import Intake
from service.forgetting.posting import Receiver
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.restore import Restored, restore_check
from service.forgetting.restraining import RestraintIntake
from service.forgetting.secret import SecretFiles, Secrets
from service.forgetting.store_key import open_store_key
from service.forgetting.tombstones import TombstoneFile
from service.forgetting.transparency import TransparencyLog
from service.forgetting.webhooks import WebhookSender
from service.ledger import Ledger, ledger_exists

_SECONDS_A_DAY = 86_400.0
_DELIVERY_SECONDS = 10.0  # that the receiver of a notification may take


@dataclass(frozen=True, slots=True)
class Home:
    """What every process of one installation shares."""

    settings: Settings
    secret: bytes
    ledger: Ledger
    store: Store
    signer: ReceiptSigner
    tombstones: TombstoneFile
    incidents: Incidents

    @classmethod
    def open(cls, settings: Settings) -> Home:
        """Make the home folder if it is not there, and open what is in it. Whatever this process makes is its user's alone.

        Raises:
            InvalidSetting: the folder cannot be used, or was written under another secret or store key than the one given.
            LedgerUnavailable: the database cannot be reached.
            StoreFailure: the store cannot be used, or its bucket keeps what a deletion erases.
        """
        os.umask(0o077)
        known = _open_secrets(settings)
        tombstones = TombstoneFile(tombstone_path(settings), known.hashes())
        tombstones.check()  # first: a new ledger would take any secret for its own
        ledger = Ledger(
            settings.ledger_at(),
            known.present,
            remember_seconds=settings.remember_days * _SECONDS_A_DAY,
            retired=known.retired,
            announces=settings.webhook_url is not None,
        )
        return cls(
            settings=settings,
            secret=known.present,
            ledger=ledger,
            store=store_of(settings, _artifact_keys(settings, ledger)),
            signer=ReceiptSigner.open(receipt_key_path(settings)),
            tombstones=tombstones,
            incidents=Incidents(settings.home / INCIDENTS),
        )

    def intake(self) -> Intake:
        return Intake(self.ledger, self.signer, self.tombstones)

    def restraint_intake(self) -> RestraintIntake:
        return RestraintIntake(self.ledger.restraints, self.tombstones)

    def webhooks(self) -> WebhookSender | None:
        """What delivers notifications; None: nobody wants any."""
        settings = self.settings
        if settings.webhook_url is None:
            return None
        receiver = Receiver(settings.webhook_url, settings.webhook_allow_private, _DELIVERY_SECONDS)
        key, due = settings.webhook_key(), settings.due_seconds()
        return WebhookSender(self.ledger.outbox, receiver, key, due, self.ledger.now)

    def log(self) -> TransparencyLog:
        return TransparencyLog(self.ledger.receipt_log, self.signer, self.ledger.now)

    def restore_check(self) -> Restored:
        """To be called before anything is answered or built: the ledger may be an old one that was restored."""
        return restore_check(self.ledger, self.tombstones, self.intake())

    def bell(self) -> Bell:
        return open_bell(self.settings.redis_url, self.settings.home / "worker.lock")


def secret_files(settings: Settings) -> SecretFiles:
    """Where the installation's secret is."""
    return SecretFiles(settings.home, settings.secret, settings.retired_secrets)


def store_of(settings: Settings, keys: DirectoryKeys | None) -> Store:
    """The store where the settings say it is; by default in the home folder. With `keys` encrypted. Raises StoreFailure."""
    copies_may_stay = settings.store_copies == "yes-copies-may-stay"
    return open_store(
        settings.store_url, settings.home / "store", settings.store_cache_bytes, copies_may_stay, keys=keys
    )


def is_encrypted(settings: Settings) -> bool:
    return settings.store_encryption == "per-artifact"


def receipt_key_path(settings: Settings) -> Path:
    return settings.home / "receipts.pem"


def tombstone_path(settings: Settings) -> Path:
    return settings.home / "tombstones.jsonl"


def _open_secrets(settings: Settings) -> Secrets:
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return secret_files(settings).open(lambda: _written_under_a_secret(settings))
    except OSError as error:
        raise InvalidSetting(
            f"LETHE_HOME cannot be used ({error.strerror}); give a folder that this user may write"
        ) from error


def _artifact_keys(settings: Settings, ledger: Ledger) -> DirectoryKeys | None:
    if not is_encrypted(settings):
        return None
    try:
        return ledger.artifact_keys(open_store_key(settings.home, settings.store_key, ledger.has_artifact_keys))
    except LetheError:
        ledger.close()
        raise


def _written_under_a_secret(settings: Settings) -> str | None:
    if tombstone_path(settings).exists():
        return "a tombstone file"
    return "a ledger" if ledger_exists(settings.ledger_at()) else None

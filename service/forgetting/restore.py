"""After an old ledger was restored: who was forgotten since is forgotten again, before anything is answered."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from service.forgetting.intake import Intake
from service.forgetting.ports import RestoredLedger
from service.forgetting.tombstones import TombstoneFile

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Restored:
    """What the ledger lacked: tombstones that were set again, and the deletions that were asked for again.

    `restraints` is the number of those that were set again, or that it still held though they had been lifted.
    """

    tombstones: int
    requests: tuple[str, ...]
    restraints: int = 0


def restore_check(ledger: RestoredLedger, tombstones: TombstoneFile, intake: Intake) -> Restored:
    """Bring the ledger's tombstones and those of the file together, and forget again whoever lies under one.

    Raises:
        LedgerUnavailable, StoreError: nothing may be answered before this has succeeded.
    """
    with tombstones.locked():  # or somebody who comes back meanwhile would be taken for somebody who must not
        restrained = _restore_restraints(ledger, tombstones)  # first, as what a hold keeps must not be erased below
        restored, unknown = ledger.restore_tombstones(tombstones.standing())
        tombstones.add_tombstones(unknown)
        found = ledger.resurrected_users()
        requests = tuple(intake.forget_again(user, items).request_id for user, items in sorted(found.items()))
    if restored or requests or restrained:
        told = {"tombstones": restored, "forgotten_again": len(requests), "restraints": restrained}
        log.warning("ledger_restored", extra=told)
    return Restored(restored, requests, restrained)


def _restore_restraints(ledger: RestoredLedger, tombstones: TombstoneFile) -> int:
    restored, unknown = ledger.restraints.restore(tombstones.restraints(), tombstones.lifted())
    tombstones.add_restraints(unknown)
    return restored

"""Restrictions and legal holds as a caller sets and lifts them: in the ledger, and in the tombstone file beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable

from service.forgetting.ports import RestraintLedger
from service.forgetting.tombstones import TombstoneFile
from service.ledger import Lifted, RestraintStatus
from service.records import COMMAND_LINE, Requester, RestraintKind, RestrictionGround


class RestraintIntake:
    """Sets restraints and lifts them. All methods raise InvalidInput, LedgerUnavailable: nothing was changed.

    StoreError: what was set is in force, but not yet safe from the restore of an old ledger; what was to be lifted may still
    be in force. Ask again.
    """

    def __init__(self, ledger: RestraintLedger, tombstones: TombstoneFile) -> None:
        self._ledger = ledger
        self._tombstones = tombstones

    def restrict(self, user_id: str, ground: RestrictionGround, by: Requester = COMMAND_LINE) -> RestraintStatus:
        """`RestraintBook.restrict`, and then a copy in the tombstone file."""
        return self._secured(self._ledger.restrict(user_id, ground, by))

    def hold(self, user_id: str, ground: str, by: Requester = COMMAND_LINE) -> RestraintStatus:
        """`RestraintBook.hold`, and then a copy in the tombstone file."""
        return self._secured(self._ledger.hold(user_id, ground, by))

    def lift_restriction(self, user_id: str, by: Requester = COMMAND_LINE) -> Lifted:
        """Take a restriction off the tombstone file, then off the ledger."""
        return self._lifted(user_id, "restriction", lambda: self._ledger.lift_restriction(user_id, by))

    def release_hold(self, user_id: str, by: Requester = COMMAND_LINE) -> Lifted:
        """Take a hold off the tombstone file, then off the ledger, which carries out the deletions that it has held."""
        return self._lifted(user_id, "hold", lambda: self._ledger.release_hold(user_id, by))

    def _secured(self, status: RestraintStatus) -> RestraintStatus:
        sys.audit("lethe.restraint.before_tombstone_file")
        self._tombstones.add_restraints([status.restraint])
        return status

    def _lifted(self, user_id: str, kind: RestraintKind, lift: Callable[[], Lifted]) -> Lifted:
        with self._tombstones.locked():
            standing = self._ledger.status(user_id, kind)
            if standing is None:
                return Lifted(None)
            # Before it is lifted in the ledger: a crash in between must not have it set again at the next start.
            self._tombstones.lift(standing.restraint)
            sys.audit("lethe.restraint.before_ledger")
            return lift()

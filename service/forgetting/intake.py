"""The first step of a deletion, as a caller sees it: accepted and masked, or completed at once if nothing was held."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from service.forgetting.ports import IntakeLedger
from service.forgetting.receipts import ReceiptSigner, receipt_content
from service.forgetting.tombstones import TombstoneFile
from service.ledger import AcceptedForget
from service.records import COMMAND_LINE, Correction, ForgetRequest, ItemName, Requester, WantedForget

_AT_ONCE = 25  # deletions of one transaction
# Whoever waits for SQLite's one writer looks again every 100 ms at least, and nobody queues: without a pause, a long row of
# transactions would leave no other deletion a chance until it times out.
_TURN_OF_OTHERS = 0.12  # seconds


class Intake:
    """Accepts deletions. What the ledger completes at once gets its receipt here: there is nothing to build for it."""

    def __init__(self, ledger: IntakeLedger, signer: ReceiptSigner, tombstones: TombstoneFile) -> None:
        self._ledger = ledger
        self._signer = signer
        self._tombstones = tombstones

    def forget(
        self,
        user_id: str,
        item_ids: Sequence[ItemName] | None,
        idempotency_key: str | None,
        remember: bool = False,
        by: Requester = COMMAND_LINE,
    ) -> ForgetRequest:
        """One transaction: rows deleted, masks and tombstone written, fence raised; then a copy of the tombstone.

        Raises:
            InvalidInput, IdempotencyConflict, LedgerUnavailable: nothing was accepted.
            StoreError: accepted and masked, but not yet safe from the restore of an old ledger; to be asked again.
        """
        return self._secured(self._ledger.forget(user_id, item_ids, idempotency_key, remember, by))

    def forget_all(self, wanted: Sequence[WantedForget], remember: bool, by: Requester) -> list[ForgetRequest]:
        """`forget` for each user and items (None: all), in their order, in few transactions. Raises what `forget` does.

        What is wanted twice is done once.
        What was accepted before it raises stays accepted; asked for again, those that are owed are the same requests.
        """
        distinct = list(dict.fromkeys(wanted))
        accepted: dict[WantedForget, ForgetRequest] = {}
        for at in range(0, len(distinct), _AT_ONCE):
            if at:
                time.sleep(_TURN_OF_OTHERS)
            some = distinct[at : at + _AT_ONCE]
            accepted |= zip(some, self._all_secured(self._ledger.forget_all(some, remember, by)), strict=True)
        return [accepted[one] for one in wanted]

    def forget_again(self, user_id: str, item_ids: Sequence[ItemName] | None) -> ForgetRequest:
        """Erase what an old ledger brought back of somebody. Raises what `forget` does."""
        return self._secured(self._ledger.forget_again(user_id, item_ids))

    def rectify(
        self,
        user_id: str,
        correction: Correction,
        idempotency_key: str | None,
        by: Requester = COMMAND_LINE,
    ) -> ForgetRequest:
        """`Ledger.rectify`, and then a copy of the tombstone over the older rows.

        Raises what `forget` does, and UnknownInteraction.
        """
        return self._secured(self._ledger.rectify(user_id, correction, idempotency_key, by))

    def merge(
        self, user_id: str, into: str, idempotency_key: str | None, by: Requester = COMMAND_LINE
    ) -> ForgetRequest:
        """`Ledger.merge`, and then a copy of the tombstone over the id that is left.

        Raises what `forget` does, and UnknownUser, MergeRefused.
        """
        return self._secured(self._ledger.merge(user_id, into, idempotency_key, by))

    def _secured(self, accepted: AcceptedForget) -> ForgetRequest:
        return self._all_secured([accepted])[0]

    def _all_secured(self, accepted: Sequence[AcceptedForget]) -> list[ForgetRequest]:
        sys.audit("lethe.forget.before_tombstone_file")
        self._tombstones.add_tombstones([stone for one in accepted for stone in one.tombstones])
        requests = [one.request for one in accepted]
        empty = [one for one in requests if one.state == "completed" and one.receipt is None]
        if empty:
            self._ledger.complete_all([(one.request_id, self._empty_receipt(one), one.masked_at) for one in empty])
        return requests

    def _empty_receipt(self, request: ForgetRequest) -> str:
        return self._signer.sign(
            receipt_content(
                request,
                published=self._ledger.published(),
                adapters={},
                memories=(),
                completed_at=request.masked_at,
                audit=None,
            )
        )

"""The first step of a deletion, as a caller sees it: accepted and masked, or completed at once if nothing was held."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from service.forgetting.ports import IntakeLedger
from service.forgetting.receipts import ReceiptSigner, receipt_content
from service.forgetting.tombstones import TombstoneFile
from service.ledger import AcceptedForget
from service.records import COMMAND_LINE, Correction, ForgetRequest, ItemName, Requester


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

    def _secured(self, accepted: AcceptedForget) -> ForgetRequest:
        sys.audit("lethe.forget.before_tombstone_file")
        self._tombstones.add_tombstones(accepted.tombstones)
        request = accepted.request
        if request.state == "completed" and request.receipt is None:
            receipt = self._empty_receipt(request)
            self._ledger.complete(request.request_id, receipt, request.masked_at)
        return request

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

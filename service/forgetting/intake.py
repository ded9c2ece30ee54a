"""The first step of a deletion, as a caller sees it: accepted and masked, or completed at once if nothing was held."""

from __future__ import annotations

import time

from service.build.build import environment
from service.data.ledger import Ledger
from service.forgetting.receipts import ReceiptSigner, receipt_content
from service.records import ForgetRequest


class Intake:
    """Accepts deletions. What the ledger completes at once gets its receipt here: there is nothing to build for it."""

    def __init__(self, ledger: Ledger, signer: ReceiptSigner) -> None:
        self._ledger = ledger
        self._signer = signer

    def forget(self, user_id: str, item_ids: list[str] | None, idempotency_key: str | None) -> ForgetRequest:
        """One transaction: rows deleted, masks and tombstone written, fence raised.

        Raises:
            InvalidInput, IdempotencyConflict, LedgerUnavailable: nothing was accepted.
        """
        request = self._ledger.forget(user_id, item_ids, idempotency_key)
        if request.state == "completed" and request.receipt is None:
            self._ledger.complete(request.request_id, self._empty_receipt(request))
        return request

    def _empty_receipt(self, request: ForgetRequest) -> str:
        generation = self._ledger.generation()
        return self._signer.sign(
            receipt_content(
                request,
                generation_before=generation,
                generation_after=generation or "",
                adapters={},
                claim="strict",
                unit="user",
                frozen_digest="",
                environment=environment(),
                completed_at=request.completed_at or time.time(),
            )
        )

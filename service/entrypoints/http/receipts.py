"""Receipts in other forms, and the log that they are in: attestations, signed tree heads, proofs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.access.doorkeeper import Caller
from service.entrypoints.http import problems
from service.entrypoints.http.access import Known
from service.entrypoints.http.online import Online
from service.entrypoints.http.receipt_schemas import Envelope, LogProof
from service.entrypoints.http.schemas import RequestId
from service.errors import UnknownRequest
from service.forgetting.attestations import attest
from service.ledger import Scope
from service.records import ForgetRequest

router = APIRouter(tags=["receipts"])

_LARGEST = 2**63 - 1
_Size = Annotated[int, Query(ge=0, le=_LARGEST)]
_NOT_YET = problems.documented(404, 409, 422, 500, 503)


def visible(request: ForgetRequest, caller: Caller) -> ForgetRequest:
    """The request, if the caller may know of it. Raises UnknownRequest: without `rights`, of one's own alone."""
    if caller.may(Scope.RIGHTS) or (caller.key_id is not None and request.requested_by == caller.key_id):
        return request
    raise UnknownRequest("no forget request has this id")  # as of one that there is not


@router.get("/forget/{request_id}/receipt/attestation", response_model=Envelope, responses=_NOT_YET)
def forget_attestation(request_id: RequestId, online: Online, caller: Known) -> Envelope | Response:
    """The receipt as an in-toto attestation: a Statement v1 in a DSSE envelope, signed by the receipts' key."""
    request = visible(online.ledger.request(request_id), caller)
    if request.receipt is None:
        return problems.receipt_not_ready()
    return Envelope.of(attest(request.receipt, online.signer))


@router.get("/forget/{request_id}/receipt/proof", response_model=LogProof, responses=_NOT_YET)
def forget_receipt_proof(
    request_id: RequestId, online: Online, caller: Known, size: _Size | None = None, since: _Size | None = None
) -> LogProof | Response:
    """That the receipt is in the log, now or over its first `size` entries, and that this goes on from the log at `since`."""
    request = visible(online.ledger.request(request_id), caller)
    if request.receipt is None:
        return problems.receipt_not_ready()
    return LogProof.of(online.log.prove(request_id, size, since))


@router.get("/receipts/log/head", responses=problems.documented(422, 500, 503))
def receipt_log_head(online: Online, size: _Size | None = None) -> Envelope:
    """The signed tree head of the log, now or over its first `size` entries. Keep it: it shows later that nothing was lost."""
    return Envelope.of(online.log.head(size))


@router.get("/receipts/log/consistency", responses=problems.documented(422, 500, 503))
def receipt_log_consistency(online: Online, first: _Size, second: _Size | None = None) -> LogProof:
    """That the log over its first `second` entries (now: over all) goes on from the log over the first `first`."""
    return LogProof.of(online.log.prove(None, second, first))

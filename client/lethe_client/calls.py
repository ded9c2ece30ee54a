"""Every call of the API as a value: what is sent, how the answer is read, and whether sending it twice does harm.

The functions are named as the operations of the OpenAPI document, and take the fields of its bodies. Nothing here talks to
anybody; `Client` and `AsyncClient` do.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter

from lethe_client import models as m
from lethe_client.shapes import Body

T = TypeVar("T")
B = TypeVar("B", bound=Body)

Fields = Mapping[str, Any]  # a model of the contract, as a mapping of its fields
Names = Iterable[str | m.ItemById | m.ItemByTitle | Fields]
DeletionState = Literal["accepted", "held", "retraining", "completed", "failed"]
Forgotten = m.ForgetAnswer | m.ForgetAcknowledged


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. `repeatable`: sent twice, it does what it does once."""

    method: str
    path: str
    read: Callable[[bytes], T]
    query: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True


# Recommendations


def recommend(
    user_id: str | None = None,
    *,
    history: m.History | Fields | None = None,
    candidates: Names | None = None,
    top_k: int = 10,
    rank_by: Literal["score", "model"] | None = None,
    explain: bool = False,
    strict: bool = False,
    exclude: Names = (),
    filter: m.Filter | Fields | None = None,
    offset: int = 0,
    cursor: str | None = None,
    diversity: float = 0.0,
) -> Call[m.RecommendAnswer]:
    """Rank items for somebody, or for a history. Without `candidates` they come from the catalog, unseen ones only."""
    form: type[m.RecommendForUser | m.RecommendForHistory]
    form = m.RecommendForUser if history is None else m.RecommendForHistory
    given = _given(
        user_id=user_id,
        history=history,
        candidates=candidates,
        top_k=top_k,
        rank_by=rank_by,
        explain=explain,
        strict=strict,
        exclude=exclude,
        filter=filter,
        offset=offset,
        cursor=cursor,
        diversity=diversity,
    )
    return _call("POST", "/recommend", m.RecommendAnswer, form.model_validate(given))


def recommend_batch(
    user_ids: Iterable[str],
    *,
    top_k: int = 10,
    exclude: Names = (),
    filter: m.Filter | Fields | None = None,
    diversity: float = 0.0,
) -> Call[m.BatchLine]:
    """Recommend to up to 1,000 people: a line for each in their order, as soon as it is there."""
    given = _given(user_ids=user_ids, top_k=top_k, exclude=exclude, filter=filter, diversity=diversity)
    return _call("POST", "/recommend/batch", m.BatchLine, m.BatchBody.model_validate(given))


def similar_items(
    item_id: str,
    *,
    top_k: int = 10,
    exclude: Names = (),
    filter: m.Filter | Fields | None = None,
    diversity: float = 0.0,
) -> Call[m.RecommendAnswer]:
    """Items like this one: what is recommended to whoever likes it, and of whom nothing else is known."""
    given = _given(top_k=top_k, exclude=exclude, filter=filter, diversity=diversity)
    return _call("POST", f"/items/{_segment(item_id)}/similar", m.RecommendAnswer, m.SimilarBody.model_validate(given))


def rerank(
    query: str = "",
    documents: Iterable[str | m.Document] = (),
    *,
    user_id: str | None = None,
    top_n: int | None = None,
    return_documents: bool = False,
    model: str = "lethe",
) -> Call[m.RerankAnswer]:
    """Score documents for somebody, or for whoever likes the items that the lines of `query` name."""
    given = _given(
        query=query,
        documents=documents,
        user_id=user_id,
        top_n=top_n,
        return_documents=return_documents,
        model=model,
    )
    return _call("POST", "/rerank", m.RerankAnswer, m.RerankBody.model_validate(given))


# Events


def take_interactions(
    interactions: Iterable[m.EventRow | Fields], *, allow_returning: bool = False
) -> Call[m.EventsAnswer]:
    """Take in what people did, up to 10,000 rows, all or none. A row without an `event_id` gets one."""
    rows = [_identified(m.EventRow.model_validate(row)) for row in interactions]
    given = _given(interactions=rows, allow_returning=allow_returning)
    return _call("POST", "/interactions", m.EventsAnswer, m.EventsBody.model_validate(given))


def forget_interactions(
    user_id: str, item_ids: Names, *, remember: bool = False, idempotency_key: str | None = None
) -> Call[Forgotten]:
    """Forget single interactions of somebody. They count for nothing when this is answered."""
    given = _given(user_id=user_id, item_ids=item_ids, remember=remember)
    body = m.ForgetInteractionsBody.model_validate(given)
    return _call("DELETE", "/interactions", _FORGOTTEN, body, headers=_key(idempotency_key))


def rectify_interaction(
    user_id: str,
    item_id: str,
    *,
    liked: bool | None = None,
    rating: float | None = None,
    idempotency_key: str | None = None,
) -> Call[m.ForgetAnswer]:
    """Forget what is held of a person and an item, and hold instead what the person says, at once (Article 16)."""
    body = m.RectifyBody.model_validate(_given(user_id=user_id, item_id=item_id, liked=liked, rating=rating))
    return _call("PATCH", "/interactions", m.ForgetAnswer, body, headers=_key(idempotency_key))


# Items


def put_items(items: Iterable[m.NamedItemBody | Fields]) -> Call[m.ItemsAnswer]:
    """State up to 10,000 items as they are from now on, all or none."""
    return _call("POST", "/items", m.ItemsAnswer, m.ItemsBody.model_validate({"items": list(items)}))


def list_items(*, cursor: str = "", limit: int = 100) -> Call[m.ItemsPage]:
    """One page of the catalog, in order of the items' ids. `cursor` is that of the page before."""
    return _call("GET", "/items", m.ItemsPage, query=_query(cursor=cursor, limit=limit))


def get_item(item_id: str) -> Call[m.ItemAnswer]:
    """One item."""
    return _call("GET", f"/items/{_segment(item_id)}", m.ItemAnswer)


def put_item(item_id: str, body: m.ItemBody | Fields) -> Call[m.ItemAnswer]:
    """State an item as it is from now on. A new one can be recommended from the next generation on."""
    return _call("PUT", f"/items/{_segment(item_id)}", m.ItemAnswer, _model(m.ItemBody, body))


def patch_item(item_id: str, body: m.ItemPatch | Fields) -> Call[m.ItemAnswer]:
    """Change the fields of an item that are given; null takes a value away."""
    return _call("PATCH", f"/items/{_segment(item_id)}", m.ItemAnswer, _model(m.ItemPatch, body))


def delete_item(item_id: str) -> Call[None]:
    """Take an item out of the catalog. What people did with it stays held, and counts until the next full build.

    Where the answer to a first attempt was lost, the second may say that there is no such item.
    """
    return Call("DELETE", f"/items/{_segment(item_id)}", _nothing)


# People


def export_user(user_id: str) -> Call[m.ExportAnswer]:
    """All that is held of a person, and where it counts (Articles 15 and 20)."""
    return _call("GET", f"/users/{_segment(user_id)}/export", m.ExportAnswer)


def export_user_csv(user_id: str) -> Call[str]:
    """A person's interactions as a table, a line each."""
    return Call("GET", f"/users/{_segment(user_id)}/export", bytes.decode, query={"format": "csv"})


def restrict_user(user_id: str, ground: Literal["restriction", "objection"]) -> Call[m.RestrictionAnswer]:
    """Use a person's data no more, and keep it (Articles 18 and 21). Effective when this is answered, and reversible."""
    body = m.RestrictionBody(ground=ground)
    return _call("PUT", f"/users/{_segment(user_id)}/restriction", m.RestrictionAnswer, body)


def read_restriction(user_id: str) -> Call[m.RestrictionAnswer]:
    """The restriction of a person's data."""
    return _call("GET", f"/users/{_segment(user_id)}/restriction", m.RestrictionAnswer)


def lift_restriction(user_id: str) -> Call[m.RestrictionLifted]:
    """Use a person's data again."""
    return _call("DELETE", f"/users/{_segment(user_id)}/restriction", m.RestrictionLifted)


def hold_user(user_id: str, ground: str) -> Call[m.HoldAnswer]:
    """Erase nothing of a person until the hold is released; deletions are in force, and wait."""
    return _call("PUT", f"/users/{_segment(user_id)}/hold", m.HoldAnswer, m.HoldBody(ground=ground))


def read_hold(user_id: str) -> Call[m.HoldAnswer]:
    """The legal hold over a person."""
    return _call("GET", f"/users/{_segment(user_id)}/hold", m.HoldAnswer)


def release_hold(user_id: str) -> Call[m.HoldReleased]:
    """Release a hold: the deletions that it has held are carried out now."""
    return _call("DELETE", f"/users/{_segment(user_id)}/hold", m.HoldReleased)


def merge_user(user_id: str, into: str, *, idempotency_key: str | None = None) -> Call[m.ForgetAnswer]:
    """Say that two ids are one person: what is held under the first is the other's, and the first is forgotten."""
    body, headers = m.MergeBody(into=into), _key(idempotency_key)
    return _call("POST", f"/users/{_segment(user_id)}/merge", m.ForgetAnswer, body, headers=headers)


# Deletions


def forget(
    user_id: str, *, item_ids: Names | None = None, remember: bool = False, idempotency_key: str | None = None
) -> Call[Forgotten]:
    """Forget somebody, or some of their interactions. What learned from them counts for nothing when this is answered.

    Without an `idempotency_key` the call gets one of its own, so that its attempts are one deletion.
    """
    body = m.ForgetBody.model_validate(_given(user_id=user_id, item_ids=item_ids, remember=remember))
    return _call("POST", "/forget", _FORGOTTEN, body, headers=_key(idempotency_key))


def list_forgets(*, state: DeletionState | None = None, cursor: str = "", limit: int = 100) -> Call[m.ForgetPage]:
    """One page of the deletions, the oldest first, each with its due date."""
    return _call("GET", "/forget", m.ForgetPage, query=_query(state=state, cursor=cursor, limit=limit))


def forget_status(request_id: str) -> Call[m.ForgetStatus | m.ForgetAcknowledged]:
    """Where a deletion stands."""
    return _call("GET", f"/forget/{_segment(request_id)}", _STATUS)


def preview_forget(user_id: str, *, item_ids: Names | None = None, remember: bool = False) -> Call[m.PreviewAnswer]:
    """What a deletion would erase and mask, if it came now. Nothing is changed."""
    body = m.PreviewBody.model_validate(_given(user_id=user_id, item_ids=item_ids, remember=remember))
    return _call("POST", "/forget/preview", m.PreviewAnswer, body)


def forget_batch(
    user_ids: Iterable[str] | None = None,
    *,
    selection: m.PreviewedSelection | Fields | None = None,
    remember: bool = False,
) -> Call[m.BatchForgetAnswer]:
    """Forget many users, or the rows of a selection that `preview_batch` found; one build for all, a receipt each.

    A selection is not sent again where it is unknown whether it arrived: what it has erased it would not find.
    """
    form: type[m.BatchForgetUsers | m.BatchForgetSelection]
    form = m.BatchForgetUsers if selection is None else m.BatchForgetSelection
    body = form.model_validate(_given(user_ids=user_ids, selection=selection, remember=remember))
    return _call("POST", "/forget/batch", m.BatchForgetAnswer, body, repeatable=selection is None)


def preview_batch(
    *,
    item_ids: Iterable[str] | None = None,
    user_ids: Iterable[str] | None = None,
    sources: Iterable[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Call[m.SelectionPreview]:
    """How many rows meet all conditions that are given, and of how many people. Nothing is changed."""
    given = _given(item_ids=item_ids, user_ids=user_ids, sources=sources, since=since, until=until)
    return _call("POST", "/forget/batch/preview", m.SelectionPreview, m.SelectionBody.model_validate(given))


# Receipts and their log


def forget_receipt(request_id: str) -> Call[bytes]:
    """The signed receipt of a completed deletion, byte for byte as `lethe receipts verify` checks it."""
    return Call("GET", f"/forget/{_segment(request_id)}/receipt", bytes)


def forget_attestation(request_id: str) -> Call[m.Envelope]:
    """The receipt as an in-toto attestation in a DSSE envelope."""
    return _call("GET", f"/forget/{_segment(request_id)}/receipt/attestation", m.Envelope)


def forget_receipt_proof(request_id: str, *, size: int | None = None, since: int | None = None) -> Call[m.LogProof]:
    """That the receipt is in the log of the first `size` receipts (now: of all), which goes on from the log at `since`."""
    path = f"/forget/{_segment(request_id)}/receipt/proof"
    return _call("GET", path, m.LogProof, query=_query(size=size, since=since))


def receipt_log_head(*, size: int | None = None) -> Call[m.Envelope]:
    """The signed tree head of the log of receipts, now or over its first `size`."""
    return _call("GET", "/receipts/log/head", m.Envelope, query=_query(size=size))


def receipt_log_consistency(first: int, *, second: int | None = None) -> Call[m.LogProof]:
    """That the log over its first `second` receipts (now: over all) goes on from the log over the first `first`."""
    return _call("GET", "/receipts/log/consistency", m.LogProof, query=_query(first=first, second=second))


# What is served


def generation() -> Call[m.GenerationAnswer]:
    """The generation that the process serves."""
    return _call("GET", "/generation", m.GenerationAnswer)


def read_quality() -> Call[m.QualityAnswer]:
    """How each generation did among those whom it was shown to, of groups of 20 people or more."""
    return _call("GET", "/quality", m.QualityAnswer)


def healthz() -> Call[m.Health]:
    """Whether the process can do its duty."""
    return _call("GET", "/healthz", m.Health)


def readyz() -> Call[m.Health]:
    """Whether a generation is loaded, and deletions can be taken."""
    return _call("GET", "/readyz", m.Health)


def metrics() -> Call[str]:
    """Prometheus metrics."""
    return Call("GET", "/metrics", bytes.decode)


_FORGOTTEN: TypeAdapter[Forgotten] = TypeAdapter(Forgotten)
_STATUS: TypeAdapter[m.ForgetStatus | m.ForgetAcknowledged] = TypeAdapter(m.ForgetStatus | m.ForgetAcknowledged)


def _call(
    method: str,
    path: str,
    answer: Any,  # a model, or a TypeAdapter of several
    body: Body | m.RerankBody | None = None,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    repeatable: bool = True,
) -> Call[Any]:
    read = answer.validate_json if isinstance(answer, TypeAdapter) else answer.model_validate_json
    content = None if body is None else body.model_dump_json(exclude_unset=True, by_alias=True).encode()
    return Call(method, path, read, query or {}, content, headers or {}, repeatable)


def _given(**fields: Any) -> dict[str, Any]:
    # Iterators are read here, once; lists of texts that are texts themselves are left to be refused.
    read = {name: list(value) if _is_iterator(value) else value for name, value in fields.items()}
    return {name: value for name, value in read.items() if value is not None}


def _is_iterator(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | Body)


def _model(kind: type[B], given: B | Fields) -> B:
    return kind.model_validate(given)


def _identified(row: m.EventRow) -> m.EventRow:
    return row if row.event_id is not None else row.model_copy(update={"event_id": uuid.uuid4().hex})


def _key(idempotency_key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}


def _query(**parameters: object) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if value is not None and value != ""}


def _segment(text: str) -> str:
    """An id as one segment of a path: dots alone would climb."""
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")


def _nothing(_: bytes) -> None:
    return None

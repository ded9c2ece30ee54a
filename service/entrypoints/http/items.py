"""The catalog: items that come, change, are hidden and leave. What is hidden or deleted is shown to nobody from then on."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Path, Query, Response
from pydantic import BeforeValidator

from service.entrypoints.http import problems
from service.entrypoints.http.item_schemas import (
    LONGEST_PAGE,
    ItemAnswer,
    ItemBody,
    ItemPatch,
    ItemsAnswer,
    ItemsBody,
    ItemsPage,
)
from service.entrypoints.http.online import Online
from service.entrypoints.http.paging import ListCursor, cursor_of, ids_in
from service.entrypoints.http.schemas import Id
from service.entrypoints.http.segments import whole_segment
from service.ledger import ItemOutcome

router = APIRouter(tags=["items"])

ItemId = Annotated[Id, BeforeValidator(whole_segment), Path(description="The item's id")]


@router.post("/items", responses=problems.documented(400, 408, 413, 415, 422, 429, 500, 503))
def put_items(body: ItemsBody, online: Online, after: BackgroundTasks) -> ItemsAnswer:
    """State many items as they are from now on, all or none. They can be recommended from the next generation on."""
    with online.turnstile.passed():
        outcomes = online.ledger.put_items(body.entries())
    after.add_task(online.bell.ring)
    return ItemsAnswer.of(outcomes)


@router.get("/items", responses=problems.documented(422, 500, 503))
def list_items(
    online: Online,
    cursor: Annotated[ListCursor, Query()] = "",
    limit: Annotated[int, Query(ge=1, le=LONGEST_PAGE)] = 100,
) -> ItemsPage:
    """Page through the catalog in order of the items' ids."""
    after = next(iter(ids_in(cursor)), None)
    found = online.ledger.entries_after(after, limit)
    more = cursor_of((found[-1].item.item_id,)) if len(found) == limit else None
    return ItemsPage(items=list(map(ItemAnswer.of, found)), cursor=more)


@router.get("/items/{item_id}", responses=problems.documented(404, 422, 500, 503))
def get_item(item_id: ItemId, online: Online) -> ItemAnswer:
    """One item."""
    return ItemAnswer.of(online.ledger.entry(item_id))


@router.put(
    "/items/{item_id}",
    responses={
        201: {"description": "Created", "model": ItemAnswer},
        **problems.documented(400, 408, 413, 415, 422, 500, 503),
    },
)
def put_item(item_id: ItemId, body: ItemBody, online: Online, response: Response, after: BackgroundTasks) -> ItemAnswer:
    """State an item as it is from now on. A new one can be recommended from the next generation on."""
    entry = body.entry(item_id)
    [outcome] = online.ledger.put_items([entry])
    if outcome is ItemOutcome.CREATED:
        response.status_code = 201
    after.add_task(online.bell.ring)
    return ItemAnswer.of(entry)


@router.patch("/items/{item_id}", responses=problems.documented(400, 404, 408, 413, 415, 422, 500, 503))
def patch_item(item_id: ItemId, body: ItemPatch, online: Online, after: BackgroundTasks) -> ItemAnswer:
    """Change some of what is held of an item."""
    entry = online.ledger.change_item(item_id, body.changed)
    after.add_task(online.bell.ring)
    return ItemAnswer.of(entry)


@router.delete("/items/{item_id}", status_code=204, responses=problems.documented(404, 422, 500, 503))
def delete_item(item_id: ItemId, online: Online, after: BackgroundTasks) -> None:
    """Take an item out of the catalog. What people did with it stays held, and counts until the next full build."""
    online.ledger.delete_item(item_id)
    after.add_task(online.bell.ring)

"""`lethe forget`: `POST /forget` and `/forget/batch` from the command line, and the work itself where no worker runs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.entrypoints import building
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import err, print_report, progress_for_stderr
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.entrypoints.commands.people import people_in
from service.entrypoints.http.forgetting_schemas import SelectionBody, SelectionPreview
from service.entrypoints.http.schemas import ForgetAnswer
from service.errors import InvalidInput
from service.ledger import RowSelection
from service.records import COMMAND_LINE, ByTitle, ForgetRequest, ItemName, Outcome, WantedForget

NOTHING_HELD_EXIT = 3
_MOST_PEOPLE = 1_000_000  # of one selection
_SETTLED = ("completed", "held")
_WAIT_POLL = 0.5  # seconds
_NOTHING_HELD = (
    "nothing was held: is the id right? Rows that come in later are kept out for a time, if they are older than this "
    "request; --remember keeps all of them out for ever"
)
_HELD = "a legal hold stands over this person: what is masked is erased when it is released (`lethe rights release`)"
_PREVIEWED = "nothing was forgotten; to forget these rows, and no others, give the digest, too: --digest {digest}"


def forget(
    user_id: Annotated[
        str | None, typer.Argument(help="One person. Without: those of --users, or selected rows.")
    ] = None,
    item_id: Annotated[
        list[str] | None,
        typer.Option(
            help="Only what is held of this item: its id, or if no item has it, its exact title. May be repeated."
        ),
    ] = None,
    item_title: Annotated[
        list[str] | None, typer.Option(help="Only what is held of items with exactly this title. May be repeated.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(help="These people: an id a line, or the column user_id of .csv or .jsonl.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Rows that came from here, whosever they are. May be repeated.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Rows from this time on, as 2026-01-31T12:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Rows from before this time.")] = None,
    digest: Annotated[str | None, typer.Option(help="What the preview of a selection told: forget these rows.")] = None,
    remember: Annotated[
        bool, typer.Option(help="Keep the person out for ever, even if nothing is held of them.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the deletion is completed.")] = False,
    receipts: Annotated[
        Path | None, typer.Option(help="Folder for the receipts of many deletions, a file each; waits for them.")
    ] = None,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Forget a person, or some of what is held of them; or many people (--users), or rows by item, source and time.

    A selection of rows is previewed first: without --digest nothing is changed. One build carries out all deletions, and each
    has a receipt. Exit code 3 if nothing was held, now or before. With --wait, does the work here if no worker is at it. A user
    id that begins with a dash stands after `--`.
    """
    selecting = {"item_ids": item_id, "sources": source, "since": since, "until": until}
    if user_id is None:
        if item_title:
            raise InvalidInput("--item-title is for one person's interactions; select items by --item-id")
        selection = _selection(users, {name: value for name, value in selecting.items() if value})
        opened = _opened(home)
        wanted = _wanted(opened, users, selection, digest, json_)
        _forget_many(opened, wanted, remember, wait or receipts is not None, receipts, json_)
        return
    if users or source or since or until or digest or receipts:
        raise InvalidInput("give either a USER_ID, with --item-id or --item-title, or a selection without one")
    _forget_one(_opened(home), user_id, [*(item_id or ()), *map(ByTitle, item_title or ())], remember, wait, json_)


def _opened(home: Path | None) -> Home:
    opened = open_home(home, {})
    opened.restore_check()
    return opened


def _forget_one(opened: Home, user_id: str, names: Sequence[ItemName], remember: bool, wait: bool, json_: bool) -> None:
    request = opened.intake().forget(user_id, list(names) or None, None, remember)
    [request] = _carried_out(opened, [request], wait)
    print_report(_told(request, json_), json_)
    if request.state == "held":
        err.print(_HELD, style="yellow")
    if request.found is Outcome.NOTHING_HELD:
        err.print(_NOTHING_HELD, style="yellow")
        raise typer.Exit(NOTHING_HELD_EXIT)
    if request.items is not None and request.items.unknown:
        err.print(
            f"{request.items.unknown} of {request.items.named} items are unknown: no id, no title", style="yellow"
        )


def _selection(users: Path | None, conditions: dict[str, Any]) -> RowSelection | None:
    """The rows that are asked for; None: everything of the people that the file names."""
    if not conditions and users is None:
        raise InvalidInput(
            "say whom to forget: a USER_ID, --users FILE, or a selection (--source, --item-id, --since, --until)"
        )
    if not conditions:
        return None
    try:
        rows = SelectionBody.model_validate_json(json.dumps(conditions)).rows()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise InvalidInput(f"the selection's {first['loc'][0]}: {first['msg']}") from None
    return rows if users is None else replace(rows, user_ids=tuple(people_in(users)))


def _wanted(
    opened: Home, users: Path | None, selection: RowSelection | None, digest: str | None, json_: bool
) -> list[WantedForget]:
    """Whom to forget, and which of their rows. Without a digest a selection is previewed, and the command ends."""
    if selection is None:
        if digest is not None:
            raise InvalidInput("--digest belongs to a selection of rows; --users alone forgets people as a whole")
        return [(user, None) for user in people_in(users)] if users is not None else []
    found = opened.ledger.select_rows(selection, _MOST_PEOPLE)
    if digest is not None:
        return found.previewed(digest)
    print_report(SelectionPreview.of(found).model_dump(mode="json"), json_)
    err.print(_PREVIEWED.format(digest=found.digest), style="yellow")
    raise typer.Exit


def _forget_many(
    opened: Home, wanted: Sequence[WantedForget], remember: bool, wait: bool, receipts: Path | None, json_: bool
) -> None:
    _make_folder(receipts)
    began = time.monotonic()
    accepted = opened.intake().forget_all(wanted, remember, COMMAND_LINE)
    requests = _carried_out(opened, accepted, wait)
    report: dict[str, Any] = {"requests": len(requests), **Counter(request.state for request in requests)}
    report |= {
        "held_anything": sum(request.held for request in requests),
        "seconds": round(time.monotonic() - began, 1),
    }
    if receipts is not None:
        report["receipts"] = _write_receipts(opened, requests, receipts)
    if json_:
        report["request_ids"] = [request.request_id for request in requests]
    print_report(report, json_)
    if requests and all(request.found is Outcome.NOTHING_HELD for request in requests):
        err.print(_NOTHING_HELD, style="yellow")
        raise typer.Exit(NOTHING_HELD_EXIT)


def _make_folder(folder: Path | None) -> None:
    """Before anything is erased: whoever wants the receipts should not look for another folder then."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"--receipts cannot be made ({error.strerror})") from None


def _write_receipts(opened: Home, requests: Sequence[ForgetRequest], folder: Path) -> int:
    """A file for each deletion that has a receipt, by the request's id; how many."""
    # Read again: what was completed at once got its receipt after it was accepted.
    known = (opened.ledger.request(one.request_id) for one in requests)
    signed = {one.request_id: one.receipt for one in known if one.receipt is not None}
    for request_id, receipt in signed.items():
        (folder / f"{request_id}.json").write_bytes(receipt.encode())
    return len(signed)


def _carried_out(opened: Home, requests: Sequence[ForgetRequest], wait: bool) -> list[ForgetRequest]:
    """The requests as they stand now; with `wait`, when they are completed or held."""
    bell = opened.bell()
    bell.ring()
    while wait and (owed := [one.request_id for one in requests if one.state not in _SETTLED]):
        with bell.courtesy_lock() as held:
            if held:
                with progress_for_stderr() as progress:
                    building.reconciler(opened, bell, progress).reconcile_once()
        requests = _again(opened, requests, owed)
        if any(one.state not in _SETTLED for one in requests):
            time.sleep(_WAIT_POLL)
    bell.close()
    return list(requests)


def _again(opened: Home, requests: Sequence[ForgetRequest], owed: Collection[str]) -> list[ForgetRequest]:
    return [opened.ledger.request(one.request_id) if one.request_id in owed else one for one in requests]


def _told(request: ForgetRequest, json_: bool) -> dict[str, Any]:
    """What the answer of `POST /forget` states; as lines the counts stand one by one."""
    stated = ForgetAnswer.of(request).model_dump(mode="json")
    if json_:
        return stated
    flat: dict[str, Any] = {}
    for name, value in stated.items():
        flat |= (
            {f"{name}_{part}": number for part, number in value.items()} if isinstance(value, dict) else {name: value}
        )
    return {name: value for name, value in flat.items() if value is not None}

"""`lethe forget`: `POST /forget` from the command line, and the work itself where no worker runs."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from service.entrypoints import building
from service.entrypoints.commands.console import err, print_report, progress_for_stderr
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.entrypoints.http.schemas import ForgetAnswer
from service.records import ByTitle, ForgetRequest, ItemName, Outcome

NOTHING_HELD_EXIT = 3
_WAIT_POLL = 0.5  # seconds
_NOTHING_HELD = (
    "nothing was held: is the id right? Rows that come in later are kept out for a time, if they are older than this "
    "request; --remember keeps all of them out for ever"
)
_HELD = "a legal hold stands over this person: what is masked is erased when it is released (`lethe rights release`)"


def forget(
    user_id: str,
    item_id: Annotated[
        list[str] | None,
        typer.Option(
            help="Only what is held of this item: its id, or if no item has it, its exact title. May be repeated."
        ),
    ] = None,
    item_title: Annotated[
        list[str] | None, typer.Option(help="Only what is held of items with exactly this title. May be repeated.")
    ] = None,
    remember: Annotated[
        bool, typer.Option(help="Keep the person out for ever, even if nothing is held of them.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the deletion is completed.")] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Forget a person, or some of what is held of them. Exit code 3 if nothing was held, now or before.

    With --wait, does the work here if no worker is at it. A user id that begins with a dash stands after `--`.
    """
    opened = open_home(home, {})
    opened.restore_check()
    names: list[ItemName] = [*(item_id or ()), *map(ByTitle, item_title or ())]
    request = opened.intake().forget(user_id, names or None, None, remember)
    bell = opened.bell()
    bell.ring()
    while wait and request.state not in ("completed", "held"):
        with bell.courtesy_lock() as held:
            if held:
                with progress_for_stderr() as progress:
                    building.reconciler(opened, bell, progress).reconcile_once()
        request = opened.ledger.request(request.request_id)
        if request.state != "completed":
            time.sleep(_WAIT_POLL)
    bell.close()
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

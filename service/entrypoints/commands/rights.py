"""`lethe rights`: restriction, objection, legal holds and merges from the command line."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import print_report
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.entrypoints.http.people_schemas import HoldAnswer, HoldReleased, RestrictionAnswer, RestrictionLifted
from service.entrypoints.http.schemas import ForgetAnswer

rights_app = typer.Typer(
    no_args_is_help=True, help="Restriction, objection and legal holds of one person; and one id for two."
)


@rights_app.command("restrict")
def restrict(
    user_id: str,
    objection: Annotated[bool, typer.Option("--objection", help="They object (Art. 21), instead of Art. 18.")] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Use a person's data no more, and keep it: masked at once, and in nothing that is built from now on."""
    opened = _opened(home)
    status = opened.restraint_intake().restrict(user_id, "objection" if objection else "restriction")
    _ring(opened)
    print_report(RestrictionAnswer.of(status).model_dump(mode="json"), json_)


@rights_app.command("lift")
def lift(user_id: str, home: HomeOption = None, json_: JsonOption = False) -> None:
    """Use a restricted person's data again, as before."""
    opened = _opened(home)
    lifted = opened.restraint_intake().lift_restriction(user_id)
    _ring(opened)
    print_report(RestrictionLifted.of(lifted).model_dump(mode="json"), json_)


@rights_app.command("hold")
def hold(
    user_id: str,
    ground: Annotated[str, typer.Option(help="Why nothing may be erased; it goes when the hold is released.")],
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Erase nothing of a person until the hold is released; deletions are masked and held."""
    status = _opened(home).restraint_intake().hold(user_id, ground)
    print_report(HoldAnswer.of(status).model_dump(mode="json"), json_)


@rights_app.command("release")
def release(user_id: str, home: HomeOption = None, json_: JsonOption = False) -> None:
    """Release a hold: a worker carries out the deletions that it has held."""
    opened = _opened(home)
    released = opened.restraint_intake().release_hold(user_id)
    _ring(opened)
    print_report(HoldReleased.of(released).model_dump(mode="json"), json_)


@rights_app.command("merge")
def merge(
    user_id: str,
    into: Annotated[str, typer.Option(help="The user whose everything is from now on.")],
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Merge a user into another: two ids are one person. The first is forgotten, and what was held is the other's."""
    opened = _opened(home)
    accepted = opened.intake().merge(user_id, into, None)
    _ring(opened)
    print_report(ForgetAnswer.of(accepted).model_dump(mode="json"), json_)


@rights_app.command("show")
def show(user_id: str, home: HomeOption = None, json_: JsonOption = False) -> None:
    """What stands over a person."""
    book = _opened(home).ledger.restraints
    restriction, held = book.status(user_id, "restriction"), book.status(user_id, "hold")
    told: dict[str, Any] = {
        "restriction": restriction and RestrictionAnswer.of(restriction).model_dump(mode="json"),
        "hold": held and HoldAnswer.of(held).model_dump(mode="json"),
    }
    print_report(told, json_)


def _opened(home: HomeOption) -> Home:
    opened = open_home(home, {})
    opened.restore_check()
    return opened


def _ring(opened: Home) -> None:
    bell = opened.bell()
    bell.ring()
    bell.close()

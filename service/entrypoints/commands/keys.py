"""`lethe keys`: who may ask over the network, for what, and until when."""

from __future__ import annotations

import dataclasses
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from service.entrypoints.commands.console import err, print_report
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.errors import InvalidInput
from service.ledger import ApiKey, Quota, Scope

ACTOR = "command line"
_PERIOD = re.compile(r"(\d{1,5})([mhdy])")
_PERIODS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "y": timedelta(days=365)}

keys_app = typer.Typer(no_args_is_help=True, help="API keys: who may ask over the network, and for what.")
_Quota = Annotated[int | None, typer.Option(min=1, help="Instead of what the settings allow each key.")]


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="What people call it.")],
    scopes: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(Scope)}.")],
    expires: Annotated[
        str | None, typer.Option(help="After a time (90m, 12h, 30d, 2y) or at one (2027-01-31); default: never.")
    ] = None,
    requests_per_minute: _Quota = None,
    tokens_per_minute: _Quota = None,
    deletions_per_minute: _Quota = None,
    to: Annotated[Path | None, typer.Option(help="Write the key into this new file instead of printing it.")] = None,
    unless_there: Annotated[
        bool, typer.Option("--unless-there", help="Do nothing if the file of --to is there already.")
    ] = False,
    readable: Annotated[bool, typer.Option("--readable", help="Let every user of the machine read that file.")] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Make a key. It is shown this once: only a keyed hash of it is stored."""
    if unless_there and to is not None and to.exists():
        _tell_there(to, json_)
        return
    opened = open_home(home, {})
    expires_at = None if expires is None else _moment(expires, opened.ledger.now())
    quota = Quota(requests_per_minute, tokens_per_minute, deletions_per_minute)
    chosen = _scopes(scopes)
    try:
        file = None if to is None else _new_file(to, readable)
    except FileExistsError as error:
        if to is None or not unless_there:
            raise InvalidInput(f"{to} cannot be made as a new file ({error.strerror})") from error
        _tell_there(to, json_)  # two who begin together: another one makes it just now
        return
    key, token = opened.ledger.keys.create(name, chosen, expires_at, quota, ACTOR)
    if file is not None:
        with os.fdopen(file, "w") as opened_file:
            opened_file.write(token)
    shown = {"file": str(to)} if to is not None else {"key": token}
    print_report(_told(key, opened.ledger.now()) | shown, json_)
    if to is None:
        err.print("keep the key now: it cannot be shown again", style="yellow")


@keys_app.command("list")
def keys_list(home: HomeOption = None, json_: JsonOption = False) -> None:
    """List every key that there ever was: id, name, scopes, state, and when it was last used (to the minute)."""
    opened = open_home(home, {})
    told = [_told(key, opened.ledger.now()) for key in opened.ledger.keys.all()]
    if json_:
        print_report({"keys": told}, json_)
        return
    for one in told:
        typer.echo("  ".join(f"{name}={value}" for name, value in one.items() if value is not None))


@keys_app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `lethe keys list` tells it; not the key.")],
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Let a key open nothing from now on, on every replica. It stays in the list."""
    opened = open_home(home, {})
    print_report(_told(opened.ledger.keys.revoke(key_id, ACTOR), opened.ledger.now()), json_)


def _scopes(text: str) -> list[Scope]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    unknown = sorted(set(names) - set(Scope))
    if unknown:
        raise InvalidInput(f"there is no scope {unknown[0]!r}; known are {', '.join(Scope)}")
    return [Scope(name) for name in names]


def _moment(text: str, now: float) -> float:
    """Seconds since the epoch of a period from now, or of a day's beginning in UTC."""
    period = _PERIOD.fullmatch(text)
    if period is not None:
        return now + int(period[1]) * _PERIODS[period[2]].total_seconds()
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput("--expires is a time like 90m, 12h, 30d or 2y, or a day like 2027-01-31") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _tell_there(path: Path, json_: bool) -> None:
    print_report({"file": str(path), "made": False}, json_)


def _new_file(path: Path, readable: bool) -> int:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.fchmod(file, 0o644 if readable else 0o600)
    except FileExistsError:
        raise
    except OSError as error:
        raise InvalidInput(f"{path} cannot be made as a new file ({error.strerror})") from error
    return file


def _told(key: ApiKey, now: float) -> dict[str, object]:
    quota = {f"{name}_per_minute": number for name, number in dataclasses.asdict(key.quota).items() if number}
    return {
        "key_id": key.key_id,
        "name": key.name,
        "scopes": ",".join(sorted(key.scopes)),
        "state": key.state(now),
        "created_at": _iso(key.created_at),
        "expires_at": _iso(key.expires_at),
        "revoked_at": _iso(key.revoked_at),
        "last_used_at": _iso(key.last_used_at),
        **quota,
    }


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

"""`lethe audit`: who did what, when, from where, and how it ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from service.entrypoints.commands.console import err, print_report
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.ledger import AuditEntry, ChainCheck


def audit(
    limit: Annotated[int, typer.Option(min=1, help="How many entries, the newest.")] = 100,
    actor: Annotated[str | None, typer.Option(help="Only of this key id, or word.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, e.g. forget or key.revoke.")] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compute the whole chain anew; exit code 1 if an entry was changed or removed."),
    ] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Print the audit trail. Persons stand in it as keyed hashes, until their deletion is completed."""
    opened = open_home(home, {})
    if verify:
        _verify(opened.ledger.trail.check(), json_)
        return
    entries = [_told(entry) for entry in opened.ledger.trail.entries(limit, actor, action)]
    if json_:
        print_report({"entries": entries}, json_)
        return
    for entry in entries:
        typer.echo("  ".join(f"{name}={value}" for name, value in entry.items() if value is not None))


def _verify(found: ChainCheck, json_: bool) -> None:
    report = {"entries": found.entries, "first": found.first, "last": found.last, "newest": found.newest}
    print_report(report | {"sound": not found.faults}, json_)
    for fault in found.faults:
        err.print(fault, style="red")
    if found.faults:
        raise typer.Exit(1)


def _told(entry: AuditEntry) -> dict[str, Any]:
    event = entry.event
    return {
        "seq": entry.seq,
        "at": datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds"),
        "actor": event.actor,
        "action": event.action,
        "outcome": event.outcome,
        "request_id": event.request_id,
        "subject": event.subject,
        "address": event.address,
    }

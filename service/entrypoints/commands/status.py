"""`lethe status` and `lethe settings`: what is served and owed, and what can be set."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from adapters_store import Inspector, StoreFailure
from service.config import Settings
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import print_report
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.generation import Manifest


def status(home: HomeOption = None, json_: JsonOption = False) -> None:
    """What is served, from what, and which deletions are owed."""
    opened = open_home(home, {})
    report = _status(opened)
    if json_:
        print_report(report, json_)
        return
    print_report({name: value for name, value in report.items() if not isinstance(value, list)}, json_)
    _print_rows("shards", report["shards"])
    _print_rows("owed deletions", report["owed"])


def settings() -> None:
    """List every setting with its environment variable and default."""
    table = Table("variable", "default", "meaning")
    for name, field in Settings.model_fields.items():
        table.add_row(f"LETHE_{name.upper()}", str(field.default), field.description or "")
    Console().print(table)


def _status(opened: Home) -> dict[str, Any]:
    mask, counts = opened.ledger.mask(), opened.ledger.counts()
    manifest, store = _served(opened, mask.generation)
    return {
        "generation": mask.generation,
        "store": store,
        "fence": mask.fence,
        **dataclasses.asdict(counts),
        "beyond_horizon": opened.ledger.beyond_horizon(),
        "validation_rows": manifest.validation_rows if manifest else 0,
        "config": dataclasses.asdict(manifest.config) if manifest else {},
        "shards": [
            {
                "shard": adapter.shard,
                "digest": adapter.digest,
                "samples": adapter.samples,
                "masked": adapter.digest in mask.adapters,
            }
            for adapter in (manifest.adapters if manifest else ())
        ],
        "overdue": opened.ledger.overdue(opened.settings.forget_deadline),
        "owed": [
            {
                "request_id": request.request_id,
                "state": request.state,
                "held": request.held,
                "due_at": _iso(request.owed_since + opened.settings.due_seconds()),
                "overdue": opened.ledger.now() - request.owed_since > opened.settings.forget_deadline,
                "age_seconds": round(max(0.0, opened.ledger.now() - request.owed_since), 1),
                "attempts": request.attempts,
                "error": request.error,
            }
            for request in opened.ledger.pending()
        ],
    }


def _served(opened: Home, generation: str | None) -> tuple[Manifest | None, str]:
    """The published manifest, and how the store stands: whoever looks here may do so because it is damaged."""
    if generation is None:
        return None, "nothing is published yet"
    try:
        found = Inspector(opened.store).look(generation)
    except StoreFailure as failure:
        return None, str(failure)
    manifest = None if found.manifest is None else Manifest.of(found.manifest)
    return manifest, found.faults[0].reason if found.faults else "sound"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(*(rows[0] if rows else ()), title=f"{title}: {len(rows)}")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)

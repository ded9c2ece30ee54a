"""`lethe ingest`: events as lines of JSON -> ledger, as they come."""

from __future__ import annotations

import os
import select
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from service.data.events import EventMeanings
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import err, print_report
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.entrypoints.http.event_schemas import EventRow, EventWord
from service.entrypoints.http.events import citations, event_of
from service.errors import InvalidInput
from service.forgetting.arriving import EventIntake
from service.ledger import Event

_READ_BYTES = 1 << 20
_PATIENCE = 0.5  # seconds for which an incomplete batch waits for more lines


def ingest(
    file: Annotated[Path | None, typer.Argument(help="Lines of JSON; default: standard input")] = None,
    follow: Annotated[bool, typer.Option(help="Wait for what is appended to the file, until interrupted")] = False,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Lines written in one transaction, at most")] = 1_000,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Take in events, each a line as `POST /interactions` takes rows. What is sent twice counts once.

    Exit code 1 if a line could not be read; the others are taken.
    """
    if follow and file is None:
        raise InvalidInput("--follow waits at the end of a FILE; standard input is read to its end anyhow")
    opened = open_home(home, {})
    counts: Counter[str] = Counter()
    try:
        for lines in _batches(_source(file), follow, batch):
            counts.update(_take(opened, lines))
    except KeyboardInterrupt:
        err.print("interrupted; what was read is held", highlight=False)
    print_report(dict(sorted(counts.items())) or {"lines": 0}, json_)
    if counts["malformed"]:
        raise typer.Exit(1)


def meanings_of(opened: Home) -> EventMeanings:
    """What the settings take kinds of events and ratings for."""
    settings = opened.settings
    kinds = (settings.liked_events, settings.disliked_events, settings.ignored_events)
    return EventMeanings.of(settings.liked_above, *kinds)


def _source(file: Path | None) -> int:
    if file is None:
        return sys.stdin.fileno()
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(f"the file cannot be read ({error.strerror})") from None


def _batches(source: int, follow: bool, most: int) -> Iterator[list[bytes]]:
    """Whole lines, up to `most` at a time, and fewer where no more come for a while. The last may lack its line feed."""
    rest, waiting = b"", list[bytes]()
    while True:
        ready, _, _ = select.select([source], [], [], _PATIENCE)
        read = os.read(source, _READ_BYTES) if ready else None
        if read:
            *lines, rest = (rest + read).split(b"\n")
            waiting += filter(bytes.strip, lines)
        ended = read == b""
        while len(waiting) >= most or (waiting and not read):
            yield waiting[:most]
            waiting = waiting[most:]
        if ended and not follow:
            break
        if ended:
            time.sleep(_PATIENCE)
    if rest.strip():
        yield [rest]


def _take(opened: Home, lines: list[bytes]) -> Counter[str]:
    meanings, now = meanings_of(opened), int(opened.ledger.now())
    rows = [row for row in map(_row, lines) if row is not None]
    read = [event_of(row, meanings, now) for row in rows]
    events = [one for one in read if isinstance(one, Event)]
    taken = iter(EventIntake(opened.ledger, opened.tombstones).take(events) if events else [])
    outcomes: list[EventWord] = [next(taken).value if isinstance(one, Event) else one for one in read]
    if cited := citations(rows, read, outcomes):
        opened.ledger.impressions.attribute(list(cited.values()))
    counts: Counter[str] = Counter(map(str, outcomes))
    if malformed := len(lines) - len(rows):
        counts["malformed"] = malformed
    return counts


def _row(line: bytes) -> EventRow | None:
    try:
        return EventRow.model_validate_json(line)
    except ValidationError:
        return None

"""`lethe ingest`: events as lines of JSON, or as entries of a Redis stream -> ledger, as they come."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from service.data.events import EventMeanings
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.console import err, print_report
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.entrypoints.event_stream import Entry, StreamConsumer, open_stream
from service.entrypoints.http.event_schemas import EventRow, EventWord
from service.entrypoints.http.events import citations, event_of
from service.entrypoints.output import output_to_stderr
from service.errors import InvalidInput
from service.forgetting.arriving import EventIntake
from service.ledger import Event

_READ_BYTES = 1 << 20
_PATIENCE = 0.5  # seconds for which an incomplete batch waits for more lines

log = logging.getLogger(__name__)


def ingest(
    file: Annotated[Path | None, typer.Argument(help="Lines of JSON; default: standard input")] = None,
    follow: Annotated[bool, typer.Option(help="Wait for what is appended to the file, until interrupted")] = False,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Lines written in one transaction, at most")] = 1_000,
    stream: Annotated[
        str | None, typer.Option(help="Redis stream (at LETHE_STREAM_URL) to read until SIGTERM, instead of lines")
    ] = None,
    group: Annotated[str, typer.Option(help="Consumer group of the stream; made if it is not there")] = "lethe",
    consumer: Annotated[
        str | None, typer.Option(help="Name within the group, each process its own; default: this machine's")
    ] = None,
    claim_after: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which what another consumer has left lying is taken over")
    ] = 60.0,
    remove: Annotated[bool, typer.Option(help="Remove entries from the stream once they are taken")] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Take in events, each a line as `POST /interactions` takes rows. What is sent twice counts once.

    Exit code 1 if a line could not be read; the others are taken. An entry of a stream holds such a line in its field `row`.
    It is acknowledged once it is in the ledger, and delivered again until it is.
    """
    if follow and file is None:
        raise InvalidInput("--follow waits at the end of a FILE; standard input is read to its end anyhow")
    if stream is not None and file is not None:
        raise InvalidInput("give a FILE or a --stream, not both")
    opened = open_home(home, {})
    if stream is not None:
        name = consumer or socket.gethostname()
        print_report(_of_stream(opened, stream, group, name, claim_after, batch, remove), json_)
        return
    counts = _of_lines(opened, file, follow, batch)
    print_report(dict(sorted(counts.items())) or {"lines": 0}, json_)
    if counts["malformed"]:
        raise typer.Exit(1)


def _of_lines(opened: Home, file: Path | None, follow: bool, batch: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    try:
        for lines in _batches(_source(file), follow, batch):
            counts.update(_take(opened, list(map(_row, lines))))
    except KeyboardInterrupt:
        err.print("interrupted; what was read is held", highlight=False)
    return counts


def _of_stream(
    opened: Home, stream: str, group: str, consumer: str, claim_after: float, batch: int, remove: bool
) -> dict[str, int]:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = opened.settings
    read = open_stream(settings.stream_url or settings.redis_url, stream, group, consumer, claim_after)

    def take(entries: Sequence[Entry]) -> Counter[str]:
        rows = [_row(entry.row or b"", read.event_id(entry)) for entry in entries]
        for entry, row in zip(entries, rows, strict=True):
            if row is None:
                log.warning("stream_entry_malformed", extra={"fields": {"entry": entry.entry_id}})
        return _take(opened, rows)

    with output_to_stderr(settings.log_format, settings.log_level):
        counts = StreamConsumer(read, take, stop, batch, remove).run()
    read.close()
    return dict(sorted(counts.items())) or {"entries": 0}


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


def _take(opened: Home, rows: Sequence[EventRow | None]) -> Counter[str]:
    meanings, now = meanings_of(opened), int(opened.ledger.now())
    known = [row for row in rows if row is not None]
    read = [event_of(row, meanings, now) for row in known]
    events = [one for one in read if isinstance(one, Event)]
    taken = iter(EventIntake(opened.ledger, opened.tombstones).take(events) if events else [])
    outcomes: list[EventWord] = [next(taken).value if isinstance(one, Event) else one for one in read]
    if cited := citations(known, read, outcomes):
        opened.ledger.impressions.attribute(list(cited.values()))
    counts: Counter[str] = Counter(map(str, outcomes))
    if malformed := len(rows) - len(known):
        counts["malformed"] = malformed
    return counts


def _row(line: bytes, event_id: str | None = None) -> EventRow | None:
    """The event of a line, known by `event_id` if it has no id of its own; None if it is none."""
    try:
        row = EventRow.model_validate_json(line)
    except ValidationError:
        return None
    return row if row.event_id or event_id is None else row.model_copy(update={"event_id": event_id})

"""What servers and workers write to standard error: log lines, and how far a build has come.

On a terminal: one progress display at its foot, and log lines for people above it. Elsewhere each line is a JSON object (or
text, if the settings say so), progress too. A supervised worker beside a server on a terminal writes JSON to its parent,
which alone writes to the terminal: two processes that move one cursor would write over each other.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from service.entrypoints.telemetry import configure_logging, fields_of

LogFormat = Literal["auto", "json", "text"]
PROGRESS = "progress"  # the event of a line that tells how far a build has come

log = logging.getLogger(__name__)

_RELAYED_SECONDS = 0.2  # between two lines of progress that a display shows
_STYLES = {"warning": "yellow", "error": "red", "critical": "red"}
_UNSAID = {"time", "level", "logger", "event", "exception"}


class Output(Protocol):
    """What a long-lived process says, in one of three forms."""

    def phase(self, name: str, total: int) -> None:
        """A phase of so many steps begins."""

    def advance(self, steps: int) -> None:
        """So many more steps are done."""

    @property
    def shows(self) -> bool:
        """Whether this is a display, to which other processes hand over their lines."""

    def relay(self, line: str) -> None:
        """Show a line that a supervised process wrote."""

    def ready(self, docs: str, first_request: str) -> None:
        """Tell where to look, and a first command that works."""


class LogOutput:
    """Everything is a log line: progress when a phase begins and at every quarter of it, or every few moments if relayed."""

    shows = False

    def __init__(self, relayed: bool = False) -> None:
        self._relayed = relayed
        self._name, self._total, self._done, self._told = "", 0, 0, 0.0

    def phase(self, name: str, total: int) -> None:
        """A phase of so many steps begins."""
        self._name, self._total, self._done = name, total, 0
        if total:
            self._tell()

    def advance(self, steps: int) -> None:
        """So many more steps are done."""
        quarter = 4 * self._done // self._total
        self._done += steps
        due = self._relayed and time.monotonic() - self._told >= _RELAYED_SECONDS
        if due or 4 * self._done // self._total != quarter:
            self._tell()

    def relay(self, line: str) -> None:
        """Nothing is relayed to a log: whoever writes one shares its stream."""
        raise NotImplementedError

    def ready(self, docs: str, first_request: str) -> None:
        """One line, `ready`."""
        log.info("ready", extra={"fields": {"docs": docs, "try": first_request}})

    def _tell(self) -> None:
        self._told = time.monotonic()
        fields = {"phase": self._name, "done": self._done, "total": self._total}
        log.info(PROGRESS, extra={"fields": fields})


class TerminalOutput(logging.Handler):
    """One bar at the foot of a terminal for the phase that is under way, and lines above it. From any thread."""

    shows = True

    def __init__(self, console: Console) -> None:
        super().__init__()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Bars(*columns, TimeRemainingColumn(), console=console, transient=True)
        self._task = self._bars.add_task("", total=1, visible=False)
        self._began = time.monotonic()
        self._one_at_a_time = threading.RLock()

    def __enter__(self) -> TerminalOutput:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def phase(self, name: str, total: int) -> None:
        """Show a bar of so many steps."""
        with self._one_at_a_time:
            self._began = time.monotonic()
            self._bars.reset(self._task, total=max(total, 1), visible=total > 0, description=name)

    def advance(self, steps: int) -> None:
        """Move it on; a bar that is full becomes a line."""
        with self._one_at_a_time:
            self._bars.advance(self._task, steps)
            task = self._bars.tasks[0]
            if task.finished and task.visible:
                self._bars.update(self._task, visible=False)
                took = time.monotonic() - self._began
                self._line(_clock(time.time()), "info", f"{task.description}: {int(task.total or 0):,} in {took:.1f} s")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a log record of this process."""
        self._write(fields_of(record))

    def relay(self, line: str) -> None:
        """Write a line of a supervised process: JSON as a log line, or as progress; anything else as it stands."""
        fields = _parsed(line)
        if fields is None:
            self._line("", "info", line)
        elif fields["event"] == PROGRESS:
            self._follow(str(fields["phase"]), int(fields["done"]), int(fields["total"]))
        else:
            self._write(fields)

    def ready(self, docs: str, first_request: str) -> None:
        """Two lines that are easy to find and to copy."""
        self._bars.console.print(Text.assemble("\nReady. Look at ", (docs, "bold"), ", or try:\n"), soft_wrap=True)
        self._bars.console.print(Text(f"  {first_request}\n"), soft_wrap=True)

    def _follow(self, name: str, done: int, total: int) -> None:
        with self._one_at_a_time:
            if done == 0:
                self.phase(name, total)
            else:
                self.advance(done - int(self._bars.tasks[0].completed))

    def _write(self, fields: Mapping[str, Any]) -> None:
        shown = " ".join(f"{name}={value}" for name, value in fields.items() if name not in _UNSAID)
        said = f"{str(fields['event']).replace('_', ' ')} {shown}".rstrip()
        self._line(_clock(datetime.fromisoformat(fields["time"]).timestamp()), str(fields["level"]), said)
        for cause in fields.get("exception", ()):
            self._line("", "error", f"  {cause['type']} at {(cause['frames'] or ['an unknown place'])[-1]}")

    def _line(self, clock: str, level: str, said: str) -> None:
        mark = "" if level in ("info", "debug") else f"{level}: "
        self._bars.console.print(
            Text.assemble((f"{clock:8} ", "dim"), (f"{mark}{said}", _STYLES.get(level, ""))), soft_wrap=True
        )


class TextFormatter(logging.Formatter):
    """A line for people: time, event and known fields, as a terminal shows it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields = fields_of(record)
        shown = " ".join(f"{name}={value}" for name, value in fields.items() if name not in _UNSAID)
        causes = "".join(f" ({cause['type']})" for cause in fields.get("exception", ()))
        return f"{_clock(record.created)} {record.levelname.lower():7} {fields['event']} {shown}".rstrip() + causes


@contextmanager
def output_to_stderr(log_format: LogFormat, level: str, relayed: bool = False) -> Iterator[Output]:
    """Configure the logging of this process, and yield what it is to say everything with."""
    terminal = sys.stderr.isatty()
    if log_format == "json" or relayed or (log_format == "auto" and not terminal):
        configure_logging(level)
        yield LogOutput(relayed)
    elif terminal:
        with TerminalOutput(Console(stderr=True, highlight=False)) as display:
            configure_logging(level, handler=display)
            yield display
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(TextFormatter())
        configure_logging(level, handler=handler)
        yield LogOutput()


def _parsed(line: str) -> Mapping[str, Any] | None:
    """The fields of a log line; None if it is not one."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and {"time", "level", "event"} <= fields.keys() else None


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S")

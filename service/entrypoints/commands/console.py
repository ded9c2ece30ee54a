"""Progress for whoever waits at a terminal, and plain lines for whoever reads a log."""

from __future__ import annotations

import codecs
import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from service.errors import InvalidInput

err = Console(stderr=True, soft_wrap=True)


class BarProgress:
    """A bar for each phase."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        self._task = self._bars.add_task("starting", total=1)

    def phase(self, name: str, total: int) -> None:
        self._bars.update(self._task, total=max(total, 1), completed=int(total == 0) * 1)
        self._task = self._bars.add_task(name, total=total) if total else self._task

    def advance(self, steps: int) -> None:
        self._bars.advance(self._task, steps)

    def __enter__(self) -> BarProgress:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()


class LineProgress:
    """A line when a phase begins and at every quarter of it."""

    def __init__(self) -> None:
        self._name, self._total, self._done = "", 0, 0

    def phase(self, name: str, total: int) -> None:
        self._name, self._total, self._done = name, total, 0
        if total:
            self._say()

    def advance(self, steps: int) -> None:
        quarter = 4 * self._done // self._total
        self._done += steps
        if 4 * self._done // self._total != quarter:
            self._say()

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None

    def _say(self) -> None:
        print(f"{self._name}: {self._done}/{self._total}", file=sys.stderr, flush=True)  # noqa: T201


def progress_for_stderr() -> BarProgress | LineProgress:
    """Bars on a terminal, lines elsewhere. Use it as a context manager."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()


def print_report(report: dict[str, Any], json_: bool) -> None:
    """One line a value, or JSON."""
    if json_:
        typer.echo(json.dumps(report, indent=2))
        return
    for name, value in report.items():
        typer.echo(f"{name.replace('_', ' ')}: {value}")


def text_of(path: Path) -> str:
    """A file's text, whatever byte-order mark an editor or a shell has put before it."""
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        return content.decode(encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as text ({type(error).__name__}); expected UTF-8") from error

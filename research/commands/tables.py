"""Tables on a terminal and in pipes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

_PIPE_WIDTH = 128


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """One column for each name of the first row."""
    columns = (Column(name.replace("_", " "), overflow="fold") for name in rows[0])
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    # A pipe has no width of its own, and what is cut there cannot be seen by widening a window.
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)

"""What the corpus is made of: entries of two catalogs, and how its packed tables are read."""

from __future__ import annotations

import csv
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from research.pretraining.simulated import PublicFacts


@dataclass(frozen=True, slots=True)
class Entry:
    """One item as people's data sets write it."""

    item_type: str  # movie | book
    facts: PublicFacts
    forms: tuple[str, ...]  # spellings of the title, the usual one first
    keywords: tuple[str, ...]
    name: str  # what the spellings share


def rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a packed CSV file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    csv.field_size_limit(2**24)
    with lzma.open(path, "rt", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)

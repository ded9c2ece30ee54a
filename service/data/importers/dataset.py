"""What an importer hands over."""

from __future__ import annotations

from dataclasses import dataclass

from service.records import Interaction, Item


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that was not taken: the file's name, the line (or, in Parquet, the row; both from 1), and why."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """What an importer read. `unknown_items` counts interactions left out because no item of the files has their id."""

    items: list[Item]
    interactions: list[Interaction]
    noun: str
    rejected: list[Rejection]
    unknown_items: int = 0

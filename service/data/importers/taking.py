"""Rows with our names of columns -> interactions, on an import's terms; and the rows of a file by its suffix."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from service.data.importers.dataset import Dataset, Terms
from service.data.importers.delimiters import read_delimiter
from service.data.importers.fields import as_id, as_liked, as_rating, is_blank
from service.data.importers.files import PACKED_NAMES, Watch, format_suffix
from service.data.importers.parquet import parquet_rows
from service.data.importers.recbole import atomic_rows
from service.data.importers.rejections import MalformedRow, Rejections, Row, RowLocation, cell, collect
from service.data.importers.rows import Rows, csv_rows, json_rows
from service.data.importers.times import Clock
from service.data.interactions import Interactions
from service.errors import ImportRefused
from service.records import Interaction, Item

_FIRST_ROWS = 1_000  # decide the unit of a file's timestamps
_DELIMITED = {".csv": None, ".txt": None, ".dat": None, ".tsv": "\t", ".tab": "\t"}
_OTHERS: dict[str, Callable[..., Rows]] = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), json_rows),
    **dict.fromkeys((".parquet", ".pq"), parquet_rows),
    **dict.fromkeys((".inter", ".item"), atomic_rows),
}


@dataclass(frozen=True, slots=True)
class Manner:
    """What a format's interactions mean. Without times the number of a row's line is its time, unless `untimed` is."""

    liked_above: float | None  # None: nobody has said
    unrated: float | None = None  # this rating says that there is none; such rows count only as implicit ones
    untimed: int | None = None


@dataclass(frozen=True, slots=True)
class Taking:
    """One import under way: its terms, and what was rejected so far."""

    terms: Terms
    rejected: Rejections

    @classmethod
    def on(cls, terms: Terms) -> Taking:
        """A new import."""
        return cls(terms, Rejections(terms.max_rejected, columns=terms.columns))

    def rows(self, path: Path, required: Sequence[str] = ()) -> Rows:
        """Rows of a file whose suffix tells its format. Raises ImportRefused for another, and for no file."""
        if not path.is_file():
            raise ImportRefused(f"there is no file {path}")
        suffix = format_suffix(path)
        if suffix in _DELIMITED:
            stated = self.terms.delimiter
            delimiter = _DELIMITED[suffix] if stated is None else read_delimiter(stated)
            return csv_rows(path, self.rejected, required, delimiter, watch=self.watch(path))
        if suffix not in _OTHERS:
            known = ", ".join((*_DELIMITED, *_OTHERS))
            raise ImportRefused(f"{path.name} is none of {known}, nor one of these with {PACKED_NAMES} behind")
        return _OTHERS[suffix](path, self.rejected, required, watch=self.watch(path))

    def watch(self, path: Path) -> Watch | None:
        """Whom to tell what is read of a file."""
        return None if self.terms.watch is None else self.terms.watch(path.name, path.stat().st_size)

    def items(self, rows: Iterable[tuple[RowLocation, Row]], parse: Callable[[Row], Item]) -> list[Item]:
        """A catalog."""
        return list(collect(rows, self.rejected, lambda _, row: parse(row)))

    def interactions(self, rows: Rows, manner: Manner, items: Sequence[Item] | None) -> Interactions:
        """What people did. `items` is the catalog that came along, if one did."""
        known = None if self.terms.create_items else _known(items, self.terms.known_items)
        clock, rows = _clock(rows)
        parse = partial(_interaction, manner, self.terms.implicit, known, clock)
        return Interactions.of(collect(rows, self.rejected, parse))

    def dataset(self, items: list[Item], interactions: Interactions, item_type: str) -> Dataset:
        """All that was read. Raises ImportRefused where too much was rejected."""
        self.rejected.settle()
        return Dataset(items, interactions, item_type, self.rejected.found, self.rejected.rejected)


def renamed(rows: Rows, theirs: Mapping[str, str | tuple[str, ...]]) -> Rows:
    """The rows with our names of columns beside their own: of several names the first that says anything counts."""
    for location, row in rows:
        named = dict(row)
        for ours, names in theirs.items():
            for name in (names,) if isinstance(names, str) else names:
                if not is_blank(row.get(name)):
                    named[ours] = row[name]
                    break
        yield location, named


def _interaction(
    manner: Manner,
    implicit: bool,
    known: Callable[[str], bool] | None,
    clock: Clock | None,
    location: RowLocation,
    row: Row,
) -> Interaction | None:
    user_id, item_id = cell(row, "user_id", as_id), cell(row, "item_id", as_id)
    if known is not None and not known(item_id):
        raise MalformedRow("no catalog row has this item", "item_id")
    if clock is not None:
        time = cell(row, "timestamp", clock.seconds)
    else:
        time = location.line if manner.untimed is None else manner.untimed
    if implicit:
        return Interaction(user_id, item_id, True, time)
    if not is_blank(row.get("liked")):
        rating = None if is_blank(row.get("rating")) else cell(row, "rating", as_rating)
        return Interaction(user_id, item_id, cell(row, "liked", as_liked), time, rating)
    if is_blank(row.get("rating")):
        raise MalformedRow("has neither liked nor rating (--implicit takes every row as a like)")
    if manner.liked_above is None:
        raise ImportRefused(
            "the interactions hold ratings; say above which rating an item counts as liked (--liked-above)"
        )
    rating = cell(row, "rating", as_rating)
    if rating == manner.unrated:
        return None
    return Interaction(user_id, item_id, rating > manner.liked_above, time, rating)


def _known(items: Sequence[Item] | None, others: Container[str] | None) -> Callable[[str], bool] | None:
    if items is None:
        return None if others is None else others.__contains__
    own = {item.item_id for item in items}
    return own.__contains__ if others is None else lambda item_id: item_id in own or item_id in others


def _clock(rows: Rows) -> tuple[Clock | None, Iterator[tuple[RowLocation, Row]]]:
    """The clock of a file, if its first rows tell any time; and all of the rows."""
    first = list(islice(rows, _FIRST_ROWS))
    times = [row.get("timestamp") for _, row in first]
    return None if all(map(is_blank, times)) else Clock.of(times), chain(first, rows)

"""RecBole's atomic files (Zhao et al. 2021): tab-separated, and the first line names each column with its type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.data.importers.files import Watch, format_suffix, open_text
from service.data.importers.rejections import Rejections, RowLocation
from service.data.importers.rows import Rows, check_columns

_SEPARATOR = "\t"
# Each data set calls these as it likes; ours come first.
_TITLES = ("title", "movie_title", "name", "item_name", "book_title")
_YEARS = ("year", "release_year", "publication_year")
_GENRES = ("genres", "genre", "class", "categories")


def atomic_rows(path: Path, rejected: Rejections, required: Sequence[str], watch: Watch | None = None) -> Rows:
    """Rows of `.inter` and `.item`, with the columns' types cut off and a catalog's columns under our names too."""
    with open_text(path, watch=watch) as lines:
        typed = next(iter(lines), "").rstrip("\r\n").split(_SEPARATOR)
        names = [name.partition(":")[0] for name in typed]
        titled = {"title": _TITLES, "year": _YEARS, "genres": _GENRES} if format_suffix(path) == ".item" else {}
        ours = {our: names.index(found) for our, theirs in titled.items() if (found := _first(theirs, names))}
        check_columns(path.name, [*names, *(our for our in ours if our not in names)], required)
        for number, line in enumerate(lines, start=2):
            location, fields = RowLocation(path.name, number), line.rstrip("\r\n").split(_SEPARATOR)
            if len(fields) == len(names):
                row: dict[str, object] = dict(zip(names, fields, strict=True))
                row |= {our: fields[column] for our, column in ours.items()}
                if "genres" in ours:
                    row["genres"] = fields[ours["genres"]].split()
                yield location, row
            elif line.strip():
                rejected.add(location, f"expected {len(names)} fields, found {len(fields)}")


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)

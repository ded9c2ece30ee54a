"""Files of other people -> items and interactions: MovieLens, Book-Crossing, tables (CSV, JSONL, Parquet), and the demo.

Files may be plain, `.xz` or `.gz`. A row that cannot be taken becomes a Rejection, which tells where and why, never what
stood there; too many of them refuse the whole import. Importers know nothing of the ledger.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.data.simulated import FilmFeatures, PublicFacts, simulate_person
from service.errors import ImportRefused
from service.records import Interaction, Item

MAX_REJECTED = 100
LONGEST_ID = 256
LONGEST_TITLE = 500

MOVIELENS_LIKED_ABOVE = 3.0
BOOKCROSSING_LIKED_ABOVE = 5.0
MOVIELENS_GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
NO_GENRES = "(no genres listed)"

DEMO_USERS = 400
DEMO_FEWEST, DEMO_MOST = 12, 40  # interactions per simulated user
DEMO_SEED = 20_240
DEMO_START = 1_700_000_000  # seconds since the epoch
DEMO_STEP = 3_600

_SUFFIXES = ("", ".xz", ".gz")
_PLACES_NAMED = 5
_YEAR_IN_TITLE = re.compile(r"\((\d{4})\)")
_TRUTHS = {"1": True, "true": True, "0": False, "false": False}
_INT64_LIMIT = 2**63

Row = Mapping[str, Any]
_T = TypeVar("_T")


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


def movielens(folder: Path, max_rejected: int = MAX_REJECTED) -> Dataset:
    """MovieLens 100K (`u.data`, `u.item`), 1M (`ratings.dat`, `movies.dat`) or later (`ratings.csv`, `movies.csv`).

    Liked means a rating above 3. Raises ImportRefused for missing or damaged files and too many malformed rows.
    """
    layout, ratings, movies = _find_layout(folder, _MOVIELENS, "MovieLens")
    return _read_layout(layout, ratings, movies, "movie", max_rejected)


def bookcrossing(folder: Path, max_rejected: int = MAX_REJECTED) -> Dataset:
    """Book-Crossing: the original `BX-Book-Ratings.csv` and `BX-Books.csv`, or a subset of them in UTF-8.

    Liked means a rating above 5. Rows with rating 0 are left out: they say that a book was met, not what was thought of
    it. There are no times, so a row's line number stands for its time. Many ratings name books that the book file
    lacks; they are left out and counted as `unknown_items`. Raises ImportRefused as `movielens` does.
    """
    layout, ratings, books = _find_layout(folder, _BOOKCROSSING, "Book-Crossing")
    return _read_layout(layout, ratings, books, "book", max_rejected)


def table(
    items_file: Path | None,
    interactions_file: Path | None,
    liked_above: float | None,
    noun: str,
    max_rejected: int = MAX_REJECTED,
) -> Dataset:
    """Tables of one's own: `.csv`, `.jsonl` or `.parquet`, each also with `.xz` or `.gz` behind.

    Items: `item_id`, `title`, and if known `year`, `genres` (a list, or separated by `|`), `author`. Interactions:
    `user_id`, `item_id`, `timestamp` (seconds, or ISO 8601, UTC where no zone is given), and `liked` (0, 1, true, false)
    or `rating`, which counts as liked above `liked_above`. Raises ImportRefused as `movielens` does.
    """
    rejected = _Rejections(max_rejected)
    items = (
        [] if items_file is None else _collect(_table_rows(items_file, rejected, _ITEM_COLUMNS), rejected, _table_item)
    )
    interactions: list[Interaction] = []
    if interactions_file is not None:
        rows = _table_rows(interactions_file, rejected, _INTERACTION_COLUMNS)
        interactions = _collect(rows, rejected, lambda place, row: _table_interaction(row, liked_above))
    return Dataset(items, interactions, noun, rejected.found)


def demo() -> Dataset:
    """The bundled catalogue of films, and simulated users who always are the same. No real person's data."""
    text = resources.files("service.bundled").joinpath("demo_items.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    items = [_table_item(None, row) for row in rows]
    features = FilmFeatures.of([_public_facts(item, row) for item, row in zip(items, rows, strict=True)])
    people = (_demo_person(number, items, features) for number in range(1, DEMO_USERS + 1))
    return Dataset(items, [row for person in people for row in person], "movie", [])


def _public_facts(item: Item, row: Mapping[str, str]) -> PublicFacts:
    return PublicFacts(item.title, int(row["year"]), item.genres, float(row["vote_average"]), float(row["vote_count"]))


def _demo_person(number: int, items: Sequence[Item], features: FilmFeatures) -> Iterator[Interaction]:
    rng = np.random.default_rng((DEMO_SEED, number))
    films, liked = simulate_person(features, int(rng.integers(DEMO_FEWEST, DEMO_MOST + 1)), rng)
    start = DEMO_START + int(rng.integers(0, 365 * 24)) * DEMO_STEP
    for step, (film, good) in enumerate(zip(films.tolist(), liked.tolist(), strict=True)):
        yield Interaction(f"demo-{number:03}", items[film].item_id, good, start + step * DEMO_STEP)


# Rejections


@dataclass(frozen=True, slots=True)
class _Place:
    file: str
    line: int
    lines: int = 1  # a record of CSV may span several


class _MalformedRow(Exception):
    """Never leaves this file: `str()` is the reason of a Rejection."""


@dataclass(slots=True)
class _Rejections:
    limit: int
    found: list[Rejection] = field(default_factory=list)
    lines_lost: int = 0

    def add(self, place: _Place, reason: str) -> None:
        self.found.append(Rejection(place.file, place.line, reason))
        # A quote that does not end swallows many rows: each counts, or they would be lost in silence.
        self.lines_lost += place.lines
        if self.lines_lost > self.limit:
            first = "; ".join(f"{r.file} line {r.line}: {r.reason}" for r in self.found[:_PLACES_NAMED])
            raise ImportRefused(f"more than {self.limit} malformed rows, so nothing is imported. The first: {first}")


def _collect(
    rows: Iterable[tuple[_Place, Row]], rejected: _Rejections, parse: Callable[[_Place, Row], _T | None]
) -> list[_T]:
    taken = []
    for place, row in rows:
        try:
            value = parse(place, row)
        except _MalformedRow as error:
            rejected.add(place, str(error))
            continue
        if value is not None:
            taken.append(value)
    return taken


# Known data sets


@dataclass(frozen=True, slots=True)
class _Layout:
    """One published form of a data set: two files, how they are split, and how a row of each is read."""

    ratings: str
    items: str
    encoding: str
    ratings_rows: Callable[[Path, str, _Rejections], Iterator[tuple[_Place, Row]]]
    items_rows: Callable[[Path, str, _Rejections], Iterator[tuple[_Place, Row]]]
    parse_rating: Callable[[_Place, Row], Interaction | None]
    parse_item: Callable[[_Place, Row], Item]


def _find_layout(folder: Path, layouts: Sequence[_Layout], name: str) -> tuple[_Layout, Path, Path]:
    for layout in layouts:
        ratings, items = _find(folder, layout.ratings), _find(folder, layout.items)
        if ratings is not None and items is not None:
            return layout, ratings, items
    wanted = ", or ".join(f"{layout.ratings} and {layout.items}" for layout in layouts)
    raise ImportRefused(f"no {name} files in {folder}: looked for {wanted}; each may end in .xz or .gz")


def _find(folder: Path, name: str) -> Path | None:
    return next((path for suffix in _SUFFIXES if (path := folder / (name + suffix)).is_file()), None)


def _read_layout(layout: _Layout, ratings: Path, items: Path, noun: str, max_rejected: int) -> Dataset:
    rejected = _Rejections(max_rejected)
    catalogue = _collect(layout.items_rows(items, layout.encoding, rejected), rejected, layout.parse_item)
    opinions = _collect(layout.ratings_rows(ratings, layout.encoding, rejected), rejected, layout.parse_rating)
    known = {item.item_id for item in catalogue}
    interactions = [row for row in opinions if row.item_id in known]
    return Dataset(catalogue, interactions, noun, rejected.found, len(opinions) - len(interactions))


def _movielens_rating(_place: _Place, row: Row) -> Interaction:
    liked = _rating(row["rating"]) > MOVIELENS_LIKED_ABOVE
    return Interaction(_id(row["userId"]), _id(row["movieId"]), liked, _timestamp(row["timestamp"]))


def _movielens_item(_place: _Place, row: Row) -> Item:
    title = _title(row["title"])
    named = [genre for genre in row["genres"].split("|") if genre != NO_GENRES]
    return Item(_id(row["movieId"]), title, _year_of_title(title), _genres(named))


def _movielens_flags_item(_place: _Place, row: Row) -> Item:
    title = _title(row["title"])
    named = tuple(genre for genre in MOVIELENS_GENRES if _liked(row[genre]))
    return Item(_id(row["movieId"]), title, _year_of_title(title), named)


def _year_of_title(title: str) -> int | None:
    years = _YEAR_IN_TITLE.findall(title)
    return int(years[-1]) if years else None


def _bookcrossing_rating(place: _Place, row: Row) -> Interaction | None:
    rating = _rating(row["Book-Rating"])
    user_id, item_id = _id(row["User-ID"]), _id(row["ISBN"])
    return Interaction(user_id, item_id, rating > BOOKCROSSING_LIKED_ABOVE, place.line) if rating != 0 else None


def _bookcrossing_item(_place: _Place, row: Row) -> Item:
    year = _year(row["Year-Of-Publication"])
    return Item(_id(row["ISBN"]), _title(row["Book-Title"]), year, (), _optional_text(row["Book-Author"]))


# Rows of a file


def _split_rows(
    separator: str, names: Sequence[str]
) -> Callable[[Path, str, _Rejections], Iterator[tuple[_Place, Row]]]:
    def rows(path: Path, encoding: str, rejected: _Rejections) -> Iterator[tuple[_Place, Row]]:
        with _open_text(path, encoding) as lines:
            for number, line in enumerate(lines, start=1):
                place, fields = _Place(path.name, number), line.rstrip("\r\n").split(separator)
                if len(fields) == len(names):
                    yield place, dict(zip(names, fields, strict=True))
                elif line.strip():
                    rejected.add(place, f"expected {len(names)} fields, found {len(fields)}")

    return rows


def _csv_rows(
    delimiter: str, required: Sequence[str], **dialect: Any
) -> Callable[[Path, str, _Rejections], Iterator[tuple[_Place, Row]]]:
    def rows(path: Path, encoding: str, rejected: _Rejections) -> Iterator[tuple[_Place, Row]]:
        with _open_text(path, encoding) as lines:
            reader = csv.reader(lines, delimiter=delimiter, **dialect)
            records = _csv_records(reader, path.name, rejected)
            _, header = next(records, (None, []))
            _check_columns(path.name, header, required)
            for place, fields in records:
                if len(fields) == len(header):
                    yield place, dict(zip(header, fields, strict=True))
                elif fields:
                    rejected.add(place, f"expected {len(header)} fields, found {len(fields)}")

    return rows


def _csv_records(reader: Any, file: str, rejected: _Rejections) -> Iterator[tuple[_Place, list[str]]]:
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            rejected.add(_Place(file, start, reader.line_num + 1 - start), "not CSV (a quote that does not end?)")
            continue
        yield _Place(file, start, reader.line_num + 1 - start), fields


def _check_columns(file: str, header: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in header]
    if missing:
        raise ImportRefused(f"{file} lacks the column(s) {', '.join(missing)}; the first line must name the columns")


def _table_rows(path: Path, rejected: _Rejections, required: Sequence[str]) -> Iterator[tuple[_Place, Row]]:
    if not path.is_file():
        raise ImportRefused(f"there is no file {path}")
    packed = path.suffix in _SUFFIXES[1:]
    kind = Path(path.stem).suffix if packed else path.suffix
    if kind == ".csv":
        return _csv_rows(",", required)(path, "utf-8-sig", rejected)
    if kind == ".jsonl":
        return _jsonl_rows(path, rejected, required)
    if kind == ".parquet":
        return _parquet_rows(path, required)
    raise ImportRefused(f"{path.name} is none of .csv, .jsonl and .parquet, nor one of these with .xz or .gz behind")


def _jsonl_rows(path: Path, rejected: _Rejections, required: Sequence[str]) -> Iterator[tuple[_Place, Row]]:
    with _open_text(path, "utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            place = _Place(path.name, number)
            if not line.strip():
                continue
            try:
                yield place, _json_object(line, required)
            except _MalformedRow as error:
                rejected.add(place, str(error))


def _json_object(line: str, required: Sequence[str]) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _MalformedRow("not JSON") from error
    if not isinstance(value, dict):
        raise _MalformedRow("not a JSON object")
    missing = [name for name in required if name not in value]
    if missing:
        raise _MalformedRow(f"lacks {', '.join(missing)}")
    return value


def _parquet_rows(path: Path, required: Sequence[str]) -> Iterator[tuple[_Place, Row]]:
    with _open_binary(path) as file:
        try:
            content = pq.ParquetFile(file if path.suffix == ".parquet" else io.BytesIO(file.read()))
            _check_columns(path.name, content.schema_arrow.names, required)
            batches = content.iter_batches()
            rows = (row for batch in batches for row in _microseconds(batch).to_pylist())
            yield from ((_Place(path.name, number), row) for number, row in enumerate(rows, start=1))
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise ImportRefused(f"{path.name} cannot be read as Parquet ({type(error).__name__})") from error


def _microseconds(batch: Any) -> Any:
    # Python's times end at microseconds: finer columns would not convert.
    columns = [
        column.cast(pa.timestamp("us", column.type.tz), safe=False) if pa.types.is_timestamp(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


@contextmanager
def _open_binary(path: Path) -> Iterator[IO[bytes]]:
    try:
        with _unpacked(path) as file:
            yield file
    except (lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise ImportRefused(f"{path.name} cannot be read or is damaged ({type(error).__name__})") from error


def _unpacked(path: Path) -> IO[bytes]:
    if path.suffix == ".xz":
        return lzma.open(path)
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


@contextmanager
def _open_text(path: Path, encoding: str) -> Iterator[IO[str]]:
    # Bytes that are not of the encoding become lone surrogates, which `_text` refuses: one bad row, not a bad file.
    with _open_binary(path) as file, io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="") as text:
        yield text


# Values


def _table_item(_place: _Place | None, row: Row) -> Item:
    return Item(
        _id(row["item_id"]),
        _title(row["title"]),
        _year(row.get("year")),
        _genres(row.get("genres")),
        _optional_text(row.get("author")),
    )


def _table_interaction(row: Row, liked_above: float | None) -> Interaction:
    user_id, item_id, timestamp = _id(row["user_id"]), _id(row["item_id"]), _timestamp(row["timestamp"])
    if not _is_blank(row.get("liked")):
        return Interaction(user_id, item_id, _liked(row["liked"]), timestamp)
    if _is_blank(row.get("rating")):
        raise _MalformedRow("has neither liked nor rating")
    if liked_above is None:
        raise ImportRefused("the interactions hold ratings; say above which rating an item counts as liked")
    return Interaction(user_id, item_id, _rating(row["rating"]) > liked_above, timestamp)


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: object, name: str, longest: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _MalformedRow(f"{name} is empty or no text")
    if len(value) > longest:
        raise _MalformedRow(f"{name} is longer than {longest} characters")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise _MalformedRow(f"{name} holds characters that are not text in the file's encoding")
    return value


def _id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return _text(value, "id", LONGEST_ID).strip()


def _title(value: object) -> str:
    return _text(value, "title", LONGEST_TITLE)


def _optional_text(value: object) -> str | None:
    return None if _is_blank(value) else _text(value, "author", LONGEST_TITLE)


def _genres(value: object) -> tuple[str, ...]:
    if _is_blank(value):
        return ()
    named = value.split("|") if isinstance(value, str) else value
    if not isinstance(named, list):
        raise _MalformedRow("genres are neither a list nor text")
    return tuple(_text(genre, "genre", LONGEST_ID).strip() for genre in named)


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _MalformedRow(f"{name} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise _MalformedRow(f"{name} is not a number") from error
    if not math.isfinite(number):
        raise _MalformedRow(f"{name} is not a finite number")
    return number


def _rating(value: object) -> float:
    return _number(value, "rating")


def _year(value: object) -> int | None:
    # 0 is Book-Crossing's word for "unknown".
    return None if _is_blank(value) else int(_bounded(_number(value, "year"), "year", 10_000)) or None


def _liked(value: object) -> bool:
    known = _TRUTHS.get(str(value).strip().lower())
    if known is None:
        raise _MalformedRow("liked is none of 0, 1, true and false")
    return known


def _timestamp(value: object) -> int:
    if isinstance(value, datetime):
        return _seconds(value)
    if isinstance(value, str) and not _looks_numeric(value):
        return _seconds(_iso_time(value))
    return int(_bounded(_number(value, "timestamp"), "timestamp", _INT64_LIMIT))


def _looks_numeric(text: str) -> bool:
    return bool(re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text))


def _iso_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise _MalformedRow("timestamp is neither seconds nor ISO 8601") from error


def _seconds(moment: datetime) -> int:
    try:
        return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except OverflowError as error:
        raise _MalformedRow("timestamp is out of range") from error


def _bounded(number: float, name: str, limit: int) -> float:
    if not -limit < number < limit:
        raise _MalformedRow(f"{name} is out of range")
    return number


_ITEM_COLUMNS = ("item_id", "title")
_INTERACTION_COLUMNS = ("user_id", "item_id", "timestamp")

_RATING_FIELDS = ("userId", "movieId", "rating", "timestamp")
_FLAG_FIELDS = ("movieId", "title", "released", "video", "url", "unknown", *MOVIELENS_GENRES)
_MOVIELENS = (
    _Layout(
        "u.data",
        "u.item",
        "latin-1",
        _split_rows("\t", _RATING_FIELDS),
        _split_rows("|", _FLAG_FIELDS),
        _movielens_rating,
        _movielens_flags_item,
    ),
    _Layout(
        "ratings.dat",
        "movies.dat",
        "latin-1",
        _split_rows("::", _RATING_FIELDS),
        _split_rows("::", ("movieId", "title", "genres")),
        _movielens_rating,
        _movielens_item,
    ),
    _Layout(
        "ratings.csv",
        "movies.csv",
        "utf-8-sig",
        _csv_rows(",", _RATING_FIELDS),
        _csv_rows(",", ("movieId", "title", "genres")),
        _movielens_rating,
        _movielens_item,
    ),
)

_BX_RATING_COLUMNS = ("User-ID", "ISBN", "Book-Rating")
_BX_BOOK_COLUMNS = ("ISBN", "Book-Title", "Book-Author", "Year-Of-Publication")


def _bookcrossing_layout(ratings: str, books: str, encoding: str, delimiter: str, **dialect: Any) -> _Layout:
    return _Layout(
        ratings,
        books,
        encoding,
        _csv_rows(delimiter, _BX_RATING_COLUMNS, **dialect),
        _csv_rows(delimiter, _BX_BOOK_COLUMNS, **dialect),
        _bookcrossing_rating,
        _bookcrossing_item,
    )


_BOOKCROSSING = (
    _bookcrossing_layout("BX-Book-Ratings.csv", "BX-Books.csv", "latin-1", ";", escapechar="\\"),
    _bookcrossing_layout("subset_BX-Ratings.csv", "subset_BX-Books.csv", "utf-8-sig", ","),
    _bookcrossing_layout("merged_ratings.csv", "merged_books.csv", "utf-8-sig", ","),
)

"""What people have: each named format, encodings, delimiters, names of columns, units of time, and implicit feedback."""

from __future__ import annotations

import gzip
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.data import importers
from service.data.importers import Limit, Terms
from service.data.importers.times import Clock
from service.errors import ImportRefused
from service.records import Interaction, Item

ALL = Terms(create_items=True)


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    return path


def read(path: Path, terms: Terms = ALL, liked_above: float | None = None) -> list[Interaction]:
    return list(importers.table(None, path, liked_above, "item", terms).interactions)


def lines(*objects: dict[str, Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


# Encodings


def test_movielens_10m_is_utf_8_in_the_form_of_1m_which_is_latin_1(tmp_path: Path) -> None:
    write(tmp_path, "ratings.dat", "1::73::5::838985046\n")
    for encoding in ("utf-8", "latin-1"):
        write(tmp_path, "movies.dat", "73::Misérables, Les (1995)::Drama|Musical\n", encoding)
        assert importers.movielens(tmp_path).items == [Item("73", "Misérables, Les (1995)", 1995, ("Drama", "Musical"))]


def test_files_and_suffixes_of_any_case_are_found(tmp_path: Path) -> None:
    write(tmp_path, "RATINGS.CSV.GZ", "userId,movieId,rating,timestamp\n1,1,3.5,964982703\n")
    write(tmp_path, "Movies.csv", "movieId,title,genres\n1,Heat (1995),Action\n")
    assert len(importers.movielens(tmp_path).interactions) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "rows.TSV", "user_id\titem_id\tliked\nJürgen\ta\t1\n", encoding)
    assert read(path) == [Interaction("Jürgen", "a", True, 2)]


# Delimiters and columns


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "::", "^", "~", " "])
def test_the_delimiter_is_the_one_by_which_the_header_falls_into_columns(tmp_path: Path, delimiter: str) -> None:
    text = "user_id,item_id,liked,timestamp\nu,a,1,5\nv,b,0,6\n".replace(",", delimiter)
    expected = [Interaction("u", "a", True, 5), Interaction("v", "b", False, 6)]
    assert read(write(tmp_path, "rows.csv", text)) == expected
    assert read(write(tmp_path, "rows.csv", text), Terms(create_items=True, delimiter=delimiter)) == expected


def test_a_delimiter_may_be_written_as_it_is_typed(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.csv", "user_id\titem_id\tliked,too\nu\ta,b\t1\n")
    terms = Terms(create_items=True, delimiter="\\t", columns={"liked": "liked,too"})
    assert read(path, terms) == [Interaction("u", "a,b", True, 2)]


@pytest.mark.parametrize("column", ["user_id", "item_id", "liked", "timestamp"])
def test_a_column_that_is_there_twice_is_refused_by_its_name(tmp_path: Path, column: str) -> None:
    path = write(tmp_path, "said.csv", f"user_id,item_id,liked,timestamp,{column}\nann,i1,1,5,7\n")
    with pytest.raises(ImportRefused, match=rf"{column} more than once") as refused:
        read(path)
    assert "ann" not in str(refused.value)


def test_columns_of_other_names_are_taken_for_ours_and_told_by_theirs(tmp_path: Path) -> None:
    columns = {"user_id": "uid", "item_id": "asin", "title": "name", "rating": "stars", "timestamp": "at"}
    terms = Terms(Limit(99), columns=columns)
    items = write(tmp_path, "items.csv", "asin,name\nB1,Dune\n")
    rows = write(tmp_path, "rows.csv", "uid,asin,stars,at\nu,B1,5,7\nv,B1,many,8\n")
    found = importers.table(items, rows, 3, "book", terms)
    assert (found.items, list(found.interactions)) == ([Item("B1", "Dune")], [Interaction("u", "B1", True, 7)])
    assert [(one.line, one.column) for one in found.rejected] == [(3, "stars")]


@pytest.mark.parametrize(("columns", "told"), [({"user": "uid"}, "user"), ({"user_id": "uid"}, "uid")])
def test_a_mapping_to_nothing_is_refused_by_its_name(tmp_path: Path, columns: dict[str, str], told: str) -> None:
    path = write(tmp_path, "rows.csv", "user_id,item_id,liked\nu,a,1\n")
    with pytest.raises(ImportRefused, match=told):
        read(path, Terms(columns=columns))


# JSON


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_read_element_by_element(tmp_path: Path, indent: int | None) -> None:
    rows: list[Any] = [{"user_id": f"u{n}", "item_id": "a", "liked": n % 2, "x": "y" * 99} for n in range(2_000)]
    path = write(tmp_path, "rows.json", json.dumps([*rows[:7], "no object", *rows[7:]], indent=indent))
    found = importers.table(None, path, None, "item", ALL)
    assert [row.user_id for row in found.interactions] == [row["user_id"] for row in rows]
    assert [str(one) for one in found.rejected] == ["rows.json row 8: not a JSON object"]


def test_json_lines_may_be_called_json(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.json", "\n" + lines({"user_id": 1, "item_id": 2, "liked": False, "timestamp": 5}))
    assert read(path) == [Interaction("1", "2", False, 5)]


@pytest.mark.parametrize("broken", ["[", "[{}", '[{"user_id": 1', "[1 2]", "[" * 99_999])
def test_a_broken_array_is_refused(tmp_path: Path, broken: str) -> None:
    with pytest.raises(ImportRefused, match=r"rows\.json"):
        read(write(tmp_path, "rows.json", broken))


# Parquet


def parquet(folder: Path, **columns: Any) -> Path:
    rows = {"user_id": ["u", "v"], "item_id": pa.array(["a", "b"]).dictionary_encode(), **columns}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


@pytest.mark.parametrize(
    "rating", [pa.array([Decimal("4.50"), Decimal("1.00")]), pa.array([5, 1], pa.uint8()), pa.array([4.5, 1.0])]
)
def test_ratings_of_any_number_type(tmp_path: Path, rating: Any) -> None:
    assert [row.liked for row in read(parquet(tmp_path, rating=rating), liked_above=3)] == [True, False]


@pytest.mark.parametrize("liked", [[True, False], [1.0, 0.0], [1, 0], ["true", "0"], [Decimal(1), Decimal(0)]])
def test_likes_of_any_type(tmp_path: Path, liked: Any) -> None:
    assert [row.liked for row in read(parquet(tmp_path, liked=pa.array(liked)))] == [True, False]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([date(2020, 1, 1), date(2020, 1, 2)]),
        pa.array([date(2020, 1, 1), date(2020, 1, 2)], pa.date64()),
        *(
            pa.array([1577836800, 1577923200]).cast(pa.timestamp("s")).cast(pa.timestamp(u))
            for u in ("s", "ms", "us", "ns")
        ),
        pa.array([1577836800, 1577923200]).cast(pa.timestamp("s", "Europe/Berlin")),
        pa.array([1577836800, 1577923200]),
        pa.array([1577836800.0, 1577923200.0]),
        pa.array([1577836800 * 10**9, 1577923200 * 10**9]),
        pa.array(["2020-01-01", "2020-01-02"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_times_of_any_type(tmp_path: Path, times: Any) -> None:
    found = read(parquet(tmp_path, liked=[True, True], timestamp=times))
    assert [row.timestamp for row in found] == [1577836800, 1577923200]


def test_a_time_beyond_the_calendar_costs_one_row(tmp_path: Path) -> None:
    times = pa.array([2**62, 1577836800 * 10**6]).cast(pa.timestamp("us"))
    found = importers.table(
        None, parquet(tmp_path, liked=[True, True], timestamp=times), None, "item", Terms(Limit(50), create_items=True)
    )
    assert ([row.user_id for row in found.interactions], str(found.rejected[0])[:22]) == (
        ["v"],
        "rows.parquet row 1, co",
    )


# Units of time


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9], ids=["s", "ms", "us", "ns"])
@pytest.mark.parametrize("written", [int, str, float])
def test_the_unit_of_timestamps_is_told_by_their_size(scale: int, written: Any) -> None:
    values = [written(second * scale) for second in (1_600_000_000, 946_684_800, 0)]
    clock = Clock.of(values)
    assert [clock.seconds(value) for value in values] == [1_600_000_000, 946_684_800, 0]


def test_nanoseconds_are_not_rounded_on_their_way() -> None:
    assert Clock.of(["1700000000000000001"]).seconds("1699999999999999999") == 1_699_999_999


@pytest.mark.parametrize(
    "text",
    [
        "2022-06-24 21:20:13",
        "2022-06-24T21:20:13Z",
        "2022-06-24T23:20:13.5+02:00",
        "2022-06-24 21:20:13 UTC",
        "Fri Jun 24 14:20:13 -0700 2022",
    ],
)
def test_written_times(text: str) -> None:
    assert Clock.of([text]).seconds(text) == 1_656_105_613


def test_a_file_that_mixes_units_is_told_so(tmp_path: Path) -> None:
    rows = "user_id,item_id,liked,timestamp\n" + "u,a,1,1700000000\n" * 5 + "u,b,1,1700000000000\n"
    with pytest.raises(ImportRefused, match=r"line 7, column timestamp: .*milliseconds.*seconds.*mixes units"):
        read(write(tmp_path, "rows.csv", rows))


def test_without_times_the_lines_are_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.csv", "user_id,item_id,liked\nu,a,1\nu,b,1\n")
    assert [row.timestamp for row in read(path)] == [2, 3]


# Implicit feedback, and items that no catalog states


def test_implicit_feedback_is_a_like_a_row_and_without_it_the_way_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "plays.csv", "user_id,item_id,timestamp,rating\nu,a,5,\nv,a,6,0\n")
    taken = read(path, Terms(implicit=True, create_items=True))
    assert taken == [Interaction("u", "a", True, 5), Interaction("v", "a", True, 6)]
    bare = write(tmp_path, "bare.csv", "user_id,item_id\nu,a\n")
    with pytest.raises(ImportRefused, match="--implicit"):
        read(bare)


def test_an_item_without_a_catalog_row_is_a_rejection_wherever_the_catalog_is(tmp_path: Path) -> None:
    items = write(tmp_path, "items.csv", "item_id,title\na,A\n")
    rows = write(tmp_path, "rows.csv", "user_id,item_id,liked\nu,a,1\nu,b,1\nu,c,1\n")
    for known, taken in ((None, "a"), (frozenset("b"), "ab"), (frozenset("bc"), "abc")):
        found = importers.table(items, rows, None, "item", Terms(Limit(99), known_items=known))
        assert [row.item_id for row in found.interactions] == list(taken)
        assert [one.column for one in found.rejected] == ["item_id"] * (3 - len(taken))
    assert len(read(rows, Terms(create_items=True))) == 3


def test_where_nothing_is_left_no_limit_helps(tmp_path: Path) -> None:
    items = write(tmp_path, "items.csv", "item_id,title\n" + "".join(f"i{n},T\n" for n in range(500)))
    rows = write(tmp_path, "rows.csv", "user_id,item_id,liked\nu,elsewhere,1\n")
    with pytest.raises(ImportRefused, match="not one row"):
        importers.table(items, rows, None, "item", Terms(Limit(100)))


@pytest.mark.parametrize("text", ["few", "", "-1", "1.5", "%"])
def test_a_limit_is_a_share_or_a_number(text: str) -> None:
    with pytest.raises(ImportRefused, match="--max-rejected"):
        Limit.parse(text)


# Other people's formats


def test_recbole(tmp_path: Path) -> None:
    write(tmp_path, "x.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t1\t5\t881250949\n")
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    write(tmp_path, "x.item", header + '1\t"Heat" again\t1995\tAction Crime\n')
    found = importers.recbole(tmp_path, 3, "movie")
    assert found.items == [Item("1", '"Heat" again', 1995, ("Action", "Crime"))]
    assert list(found.interactions) == [Interaction("7", "1", True, 881250949)]


def test_amazon_2018(tmp_path: Path) -> None:
    reviews = {
        "overall": 5.0,
        "reviewTime": "09 13, 2009",
        "reviewerID": "A1",
        "asin": "B1",
        "unixReviewTime": 1252800000,
    }
    products = {"category": ["Books", "Fantasy"], "title": "Dune", "brand": "F. H.", "asin": "B1"}
    found = importers.amazon(
        write(tmp_path, "Books.json.gz", lines(reviews)), write(tmp_path, "m.json.gz", lines(products)), "book"
    )
    assert found.items == [Item("B1", "Dune", None, ("Books", "Fantasy"), "F. H.")]
    assert list(found.interactions) == [Interaction("A1", "B1", True, 1252800000)]


def test_amazon_2023(tmp_path: Path) -> None:
    reviews = {
        "rating": 2.0,
        "title": "no",
        "asin": "B1v",
        "parent_asin": "B1",
        "user_id": "A1",
        "timestamp": 1588687728923,
    }
    products = {"title": "Dune", "store": "F.", "categories": ["Books"], "parent_asin": "B1", "author": {"name": "x"}}
    found = importers.amazon(
        write(tmp_path, "B.jsonl", lines(reviews)), write(tmp_path, "m.jsonl", lines(products)), "b"
    )
    assert found.items[0].item_id == "B1"
    assert list(found.interactions) == [Interaction("A1", "B1", False, 1588687728)]


def test_goodreads(tmp_path: Path) -> None:
    when = "Sun Jul 30 07:44:10 -0700 2017"
    rated = {"user_id": "u", "book_id": "9", "rating": 5, "date_added": when, "date_updated": "", "read_at": ""}
    shelved = {"user_id": "u", "book_id": "10", "rating": 0, "date_added": when}
    books = [{"book_id": "9", "title": "Dune", "publication_year": "1965"}, {"book_id": "10", "title": "It"}]
    interactions = write(tmp_path, "i.json.gz", lines(rated, shelved))
    found = importers.goodreads(interactions, write(tmp_path, "b.json", lines(*books)))
    assert found.items == [Item("9", "Dune", 1965), Item("10", "It")]
    assert list(found.interactions) == [Interaction("u", "9", True, 1501425850)]
    assert len(importers.goodreads(interactions, None, Terms(implicit=True)).interactions) == 2


def test_goodreads_as_csv(tmp_path: Path) -> None:
    path = write(
        tmp_path, "goodreads_interactions.csv", "user_id,book_id,is_read,rating,is_reviewed\n0,948,1,5,0\n0,947,1,0,1\n"
    )
    assert list(importers.goodreads(path, None).interactions) == [Interaction("0", "948", True, 2)]

"""Every format, and every way in which a file can be wrong."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.data import importers
from service.data.importers import Limit, Terms
from service.errors import ImportRefused
from service.records import Interaction, Item

CANARY = "canary-55d1"
HEAT = "1|Heat (1995)|01-Jan-1995||http://x|" + "|".join("1" if n in (1, 16) else "0" for n in range(19))
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".xz": lzma.compress,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}
LENIENT = Terms(Limit(99))


def write(folder: Path, name: str, text: str, encoding: str = "utf-8", packed: str = "") -> Path:
    path = folder / (name + packed)
    path.write_bytes(PACKERS[packed](text.encode(encoding)))
    return path


def hundred_k(folder: Path, ratings: str, packed: str = "") -> Path:
    write(folder, "u.item", HEAT + "\n2|Café (1996) |||x" + "|0" * 19 + "\n", "latin-1", packed)
    write(folder, "u.data", ratings, packed=packed)
    return folder


def import_table(folder: Path, interactions: str, name: str = "rows.csv", **options: Any) -> importers.Dataset:
    liked_above, item_type = options.pop("liked_above", None), options.pop("noun", "movie")
    return importers.table(
        None, write(folder, name, interactions), liked_above, item_type, options.pop("terms", LENIENT)
    )


# Formats


@pytest.mark.parametrize("packed", PACKERS)
def test_movielens_100k(tmp_path: Path, packed: str) -> None:
    read = importers.movielens(hundred_k(tmp_path, "7\t1\t4\t881250949\n7\t2\t3\t881250950\n", packed))
    assert read.items == [Item("1", "Heat (1995)", 1995, ("Action", "Thriller")), Item("2", "Café (1996) ", 1996)]
    assert read.interactions == [Interaction("7", "1", True, 881250949), Interaction("7", "2", False, 881250950)]
    assert (read.item_type, read.rejected, read.rejected_rows) == ("movie", [], 0)


def test_movielens_1m(tmp_path: Path) -> None:
    write(tmp_path, "movies.dat", "1::Heat: a Story (1995)::Action|Crime\r\n2::Ça va (1999)::Drama\r\n", "latin-1")
    write(tmp_path, "ratings.dat", "9::2::5::978300760\r\n")
    read = importers.movielens(tmp_path)
    assert read.items[1] == Item("2", "Ça va (1999)", 1999, ("Drama",))
    assert read.interactions == [Interaction("9", "2", True, 978300760)]


def test_movielens_latest(tmp_path: Path) -> None:
    write(
        tmp_path,
        "movies.csv",
        'movieId,title,genres\n1,"Heat, or Fire (1995)",Action|Crime\n2,Odd,(no genres listed)\n',
    )
    write(tmp_path, "ratings.csv", "userId,movieId,rating,timestamp\n1,1,3.5,964982703\n1,2,3.0,964982704\n")
    read = importers.movielens(tmp_path)
    assert read.items == [Item("1", "Heat, or Fire (1995)", 1995, ("Action", "Crime")), Item("2", "Odd")]
    assert [row.liked for row in read.interactions] == [True, False]


def test_bookcrossing_as_published(tmp_path: Path) -> None:
    books = '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher"\n"01";"Un \\"été\\"; bref";"A. B.";"0";"P"\n'
    ratings = '"User-ID";"ISBN";"Book-Rating"\n"5";"01";"6"\n"5";"01";"0"\n"6";"01";"5"\n"6";"99";"9"\n'
    write(tmp_path, "BX-Books.csv", books, "latin-1")
    write(tmp_path, "BX-Book-Ratings.csv", ratings, "latin-1")
    read = importers.bookcrossing(tmp_path, LENIENT)
    assert read.items == [Item("01", 'Un "été"; bref', None, (), "A. B.")]
    assert read.interactions == [Interaction("5", "01", True, 2), Interaction("6", "01", False, 4)]
    assert (read.item_type, read.rejected_rows) == ("book", 1)
    assert "no catalog row" in read.rejected[0].reason


@pytest.mark.parametrize(
    ("ratings", "books"),
    [("subset_BX-Ratings.csv", "subset_BX-Books.csv"), ("merged_ratings.csv", "merged_books.csv")],
)
def test_bookcrossing_subsets(tmp_path: Path, ratings: str, books: str) -> None:
    write(tmp_path, books, "ISBN,Book-Title,Book-Author,Year-Of-Publication,X\n01,Été,,1999,x\n", packed=".xz")
    write(tmp_path, ratings, "User-ID,ISBN,Book-Rating\n5,01,10\n", packed=".gz")
    read = importers.bookcrossing(tmp_path)
    assert read.items == [Item("01", "Été", 1999, (), None)]
    assert read.interactions == [Interaction("5", "01", True, 2)]


@pytest.mark.parametrize(("ratings", "books"), [("ratings.csv", "books.csv"), ("ratings_v1.csv", "books_v2.csv")])
def test_goodbooks_has_no_times(tmp_path: Path, ratings: str, books: str) -> None:
    header = "book_id,authors,original_publication_year,title,X\n"
    write(tmp_path, books, header + '1,"A. B., C. D.",2008.0,Été (#1),x\n2,E. F.,,Dune,x\n', packed=".xz")
    write(tmp_path, ratings, "book_id,user_id,rating\n1,7,4\n2,7,3\n9,7,5\n", packed=".gz")
    read = importers.goodbooks(tmp_path, LENIENT)
    assert read.items == [Item("1", "Été (#1)", 2008, (), "A. B."), Item("2", "Dune", None, (), "E. F.")]
    assert read.interactions == [Interaction("7", "1", True, 0), Interaction("7", "2", False, 0)]
    assert (read.item_type, read.rejected_rows) == ("book", 1)
    assert "no catalog row" in read.rejected[0].reason


def test_a_table_of_csv(tmp_path: Path) -> None:
    items = write(
        tmp_path, "items.csv", "\ufefftitle,item_id,genres,year,author\nHeat,a,Drama|War,1995,\nDune,b,,,F. H.\n"
    )
    rows = "user_id,item_id,liked,timestamp\nann,a,1,5\nann,b,FALSE,2020-01-02T03:04:05Z\nbob,a,true,1.5e9\n"
    read = importers.table(items, write(tmp_path, "rows.csv", rows, packed=".gz"), None, "film")
    assert read.items == [Item("a", "Heat", 1995, ("Drama", "War")), Item("b", "Dune", None, (), "F. H.")]
    moment = int(datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp())
    assert read.interactions == [
        Interaction("ann", "a", True, 5),
        Interaction("ann", "b", False, moment),
        Interaction("bob", "a", True, 1_500_000_000),
    ]
    assert read.item_type == "film"


def test_a_table_of_jsonl(tmp_path: Path) -> None:
    items = write(tmp_path, "items.jsonl", '{"item_id": 3, "title": "Heat", "genres": ["Drama"], "year": 1995}\n')
    rows = [
        {"user_id": 1, "item_id": 3, "liked": True, "timestamp": 5},
        {"user_id": 2, "item_id": 3, "rating": 2.5, "timestamp": "2020-01-02"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    read = importers.table(items, write(tmp_path, "rows.jsonl", lines, packed=".xz"), 2, "movie")
    assert read.items == [Item("3", "Heat", 1995, ("Drama",))]
    midnight = int(datetime(2020, 1, 2, tzinfo=UTC).timestamp())
    assert read.interactions == [Interaction("1", "3", True, 5), Interaction("2", "3", True, midnight)]


@pytest.mark.parametrize("packed", PACKERS)
def test_a_table_of_parquet(tmp_path: Path, packed: str) -> None:
    moment = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    columns = {
        "user_id": ["ann", "bob"],
        "item_id": [1, 2],
        "rating": [5.0, 1.0],
        "timestamp": pa.array([moment, moment], pa.timestamp("ns", "UTC")),
    }
    pq.write_table(pa.table({"item_id": [1, 2], "title": ["A", "B"], "genres": [["x"], []]}), tmp_path / "i.parquet")
    pq.write_table(pa.table(columns), tmp_path / "plain")
    rows = tmp_path / f"rows.parquet{packed}"
    rows.write_bytes(PACKERS[packed]((tmp_path / "plain").read_bytes()))
    read = importers.table(tmp_path / "i.parquet", rows, 3, "movie")
    assert read.items == [Item("1", "A", None, ("x",)), Item("2", "B")]
    seconds = int(moment.timestamp())
    assert read.interactions == [Interaction("ann", "1", True, seconds), Interaction("bob", "2", False, seconds)]


# What is wrong with a row


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",a,1,5", "id"),
        ("ann, ,1,5", "id"),
        (f"{'x' * 257},a,1,5", "id"),
        ("ann,a,perhaps,5", "liked"),
        ("ann,a,,5", "neither"),
        ("ann,a,1,yesterday", "timestamp"),
        ("ann,a,1,", "timestamp"),
        ("ann,a,1,nan", "timestamp"),
        ("ann,a,1,1e30", "timestamp"),
        ("ann,a,1", "fields"),
        ("ann,a,1,5,6", "fields"),
        ("an\0n,a,1,5", "characters"),
    ],
)
def test_a_malformed_row_is_told_by_its_place_and_never_its_content(tmp_path: Path, row: str, reason: str) -> None:
    read = import_table(tmp_path, f"user_id,item_id,liked,timestamp\nbob,a,1,5\n{row}\nbob,b,0,6\n")
    assert [interaction.item_id for interaction in read.interactions] == ["a", "b"]
    [rejection] = read.rejected
    assert (rejection.file, rejection.line) == ("rows.csv", 3)
    assert reason in rejection.reason
    assert "ann" not in rejection.reason


@pytest.mark.parametrize("rating", ["nan", "inf", "-inf", "five", "", "1e999"])
def test_a_rating_that_is_no_finite_number_is_malformed(tmp_path: Path, rating: str) -> None:
    table = f"user_id,item_id,rating,timestamp\nann,a,{rating},5\nann,b,4,5\n"
    assert len(import_table(tmp_path, table, liked_above=3).rejected) == 1
    read = importers.movielens(hundred_k(tmp_path, f"7\t1\t{rating}\t881250949\n7\t2\t4\t5\n"), LENIENT)
    assert (len(read.rejected), len(read.interactions)) == (1, 1)


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1, 2]",
        '{"user_id": "ann", "timestamp": 5}',
        '{"user_id": "\\ud800", "item_id": "a", "liked": true, "timestamp": 5}',
        '{"user_id": true, "item_id": "a", "liked": true, "timestamp": 5}',
        '{"user_id": {}, "item_id": [], "liked": true, "timestamp": 5}',
        '{"user_id": "u", "item_id": "a", "liked": 2, "timestamp": 5}',
        '{"user_id": "u", "item_id": "a", "liked": true, "timestamp": [5]}',
        '{"user_id": "u", "item_id": "a", "liked": true, "timestamp": NaN}',
        '{"user_id": "u", "item_id": "a", "rating": %s, "timestamp": 5}' % ("9" * 500),
        "[" * 100_000,
    ],
)
def test_a_malformed_line_of_json_is_one_rejection(tmp_path: Path, line: str) -> None:
    good = '{"user_id": "ann", "item_id": "a", "liked": false, "timestamp": 5}'
    read = import_table(tmp_path, f"{line}\n\n{good}\n", "rows.jsonl", liked_above=3)
    assert read.interactions == [Interaction("ann", "a", False, 5)]
    assert [rejection.line for rejection in read.rejected] == [1]


def test_bytes_that_are_not_of_the_encoding_cost_one_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"user_id,item_id,liked,timestamp\n\xff\xfe,a,1,5\nbob,a,1,5\n")
    read = importers.table(None, path, None, "movie", LENIENT)
    assert (len(read.interactions), [r.line for r in read.rejected]) == (1, [2])


@pytest.mark.parametrize("title", ["", " ", "x" * 501])
def test_a_title_must_be_there_and_not_be_a_book_of_its_own(tmp_path: Path, title: str) -> None:
    items = write(tmp_path, "items.csv", f"item_id,title\na,Heat\nb,{title}\n")
    read = importers.table(items, None, None, "movie", LENIENT)
    assert ([item.item_id for item in read.items], len(read.rejected)) == (["a"], 1)


def test_ratings_of_a_malformed_film_are_left_out_and_counted(tmp_path: Path) -> None:
    hundred_k(tmp_path, "7\t1\t4\t5\n7\t3\t4\t5\n")
    read = importers.movielens(tmp_path, LENIENT)
    assert (len(read.interactions), read.rejected_rows) == (1, 1)


# What is wrong with a file


def test_too_many_malformed_rows_refuse_the_import_and_name_the_first_places(tmp_path: Path) -> None:
    rows = "user_id,item_id,liked,timestamp\n" + f"{CANARY},a,perhaps,5\n" * 4 + "bob,a,1,5\n" * 396
    for limit in ("1%", "4"):
        assert import_table(tmp_path, rows, terms=Terms(Limit.parse(limit))).rejected_rows == 4
    for limit in ("0.9%", "3", "0"):
        with pytest.raises(ImportRefused) as refused:
            import_table(tmp_path, rows, terms=Terms(Limit.parse(limit)))
    assert "4 of 400 rows" in str(refused.value)
    assert "rows.csv line 2, column liked" in str(refused.value)
    assert CANARY not in str(refused.value)


def test_a_quote_that_does_not_end_is_not_a_silent_loss_of_all_that_follows(tmp_path: Path) -> None:
    rows = 'user_id,item_id,liked,timestamp\n"ann,a,1,5\n' + "bob,a,1,5\n" * 300
    with pytest.raises(ImportRefused):
        import_table(tmp_path, rows, terms=Terms())


def test_a_quote_longer_than_any_field_is_refused_too(tmp_path: Path) -> None:
    rows = 'user_id,item_id,liked,timestamp\n"ann,a,1,5\n' + "bob,a,1,5\n" * 30_000
    with pytest.raises(ImportRefused):
        import_table(tmp_path, rows, terms=Terms())


@pytest.mark.parametrize("read", [importers.movielens, importers.bookcrossing, importers.goodbooks])
def test_a_folder_without_the_files_is_told_what_was_looked_for(
    tmp_path: Path, read: Callable[[Path], importers.Dataset]
) -> None:
    write(tmp_path, "u.data", "")
    with pytest.raises(ImportRefused, match=r"looked for .* and .*\.xz, .* or \.zst"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", b""),
        ("rows.csv", b"user,item\n1,2\n"),
        ("rows.csv.xz", b"not xz"),
        ("rows.csv.gz", b"not gz"),
        ("rows.csv.xz", lzma.compress(b"user_id,item_id,liked,timestamp\n" * 99)[:-20]),
        ("rows.csv.zst", b"not zst"),
        ("rows.csv.zst", pa.Codec("zstd").compress(b"user_id,item_id,liked,timestamp\n" * 99, asbytes=True)[:-20]),
        ("rows.csv.gz", gzip.compress(b"user_id,item_id,liked,timestamp\n" * 99, mtime=0)[:-20]),
        ("rows.parquet", b"not parquet"),
        ("rows.txt", b"user_id"),
        ("rows", b"user_id"),
    ],
    ids=lambda given: given if isinstance(given, str) else f"{len(given)} bytes",
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImportRefused, match=r"rows"):
        importers.table(None, tmp_path / name, None, "movie")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused):
        importers.table(tmp_path / "items.csv", None, None, "movie")


def test_ratings_need_to_be_told_what_counts_as_liked(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="above which rating"):
        import_table(tmp_path, "user_id,item_id,rating,timestamp\nann,a,4,5\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(content=st.binary(max_size=300), name=st.sampled_from(["rows.csv", "rows.jsonl", "rows.parquet", "rows.csv.gz"]))
def test_no_file_whatever_makes_the_importer_crash(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(b"user_id,item_id,liked,timestamp\n" + content if name == "rows.csv" else content)
    with contextlib.suppress(ImportRefused):
        importers.table(None, tmp_path / name, None, "movie")


# Real data


def test_the_demo_is_always_the_same_and_of_simulated_people() -> None:
    one, two = importers.demo(), importers.demo()
    assert one == two
    assert (len(one.items), one.item_type, one.rejected) == (2_000, "movie", [])
    assert one.items[0].item_id == "m0001"
    lives: dict[str, list[Interaction]] = {}
    for row in one.interactions:
        lives.setdefault(row.user_id, []).append(row)
    assert sorted(lives) == [f"demo-{n:03}" for n in range(1, 401)]
    for mine in lives.values():
        assert 20 <= len(mine) <= 80
        times = [row.timestamp for row in mine]
        assert times == sorted(set(times))
        assert len({row.item_id for row in mine}) == len(mine)
    known = {item.item_id for item in one.items}
    assert {row.item_id for row in one.interactions} <= known
    assert len({item.title for item in one.items}) == 2_000
    assert all(item.year and item.genres for item in one.items)


def test_movielens_100k_is_read_whole(shared_data: Path) -> None:
    read = importers.movielens(shared_data / "ml-100k")
    users = {row.user_id for row in read.interactions}
    assert (len(read.interactions), len(users), len(read.items)) == (100_000, 943, 1_682)
    assert (read.rejected, read.rejected_rows) == ([], 0)


@pytest.mark.thorough
def test_bookcrossing_subset_is_read_whole(shared_data: Path) -> None:
    read = importers.bookcrossing(shared_data / "bookcrossing")
    assert (len(read.interactions), len(read.items), read.rejected) == (204_164, 18_185, [])


@pytest.mark.slow
def test_goodbooks_is_read_whole(shared_data: Path) -> None:
    read = importers.goodbooks(shared_data / "goodbooks-10k")
    assert (len(read.interactions), len(read.items), read.rejected) == (981_756, 10_000, [])
    assert {row.timestamp for row in read.interactions} == {0}

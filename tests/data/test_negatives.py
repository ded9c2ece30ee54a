"""Negatives are functions of one user's rows and of the stated catalog."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.data.negatives import NegativePool
from service.data.samples import sample_order_key, user_samples
from service.records import Interaction, Item, Sample

CATALOG = [Item(f"i{n:02}", f"Title {n}") for n in range(40)]
ITEMS = {item.item_id: item for item in CATALOG}
POOL = NegativePool.of(CATALOG, seed=0)


def life(count: int, user: str = "ann", liked: bool = True) -> list[Interaction]:
    return [Interaction(user, f"i{n:02}", liked, 100 + n) for n in range(count)]


def windows(rows: list[Interaction]) -> tuple[Sample, ...]:
    return user_samples(rows, ITEMS, 3, 99)


def drawn(rows: list[Interaction], count: int, pool: NegativePool = POOL) -> tuple[Sample, ...]:
    return pool.with_negatives(windows(rows), [row.item_id for row in rows], count)


@given(st.integers(0, 40), st.integers(0, 6), st.booleans())
def test_each_like_has_so_many_unmet_items_and_nothing_else_changes(met: int, count: int, liked: bool) -> None:
    rows = life(met, liked=liked)
    samples = drawn(rows, count)
    assert tuple(sample for sample in samples if sample.negative_of is None) == windows(rows)
    negatives = [sample for sample in samples if sample.negative_of is not None]
    assert len(negatives) == max(0, met - 1) * min(count, 40 - met) * liked
    assert not any(sample.liked for sample in negatives)
    assert {sample.target.item_id for sample in negatives}.isdisjoint(row.item_id for row in rows)
    histories = {sample.target.item_id: sample.history for sample in windows(rows)}
    assert all(sample.history == histories[sample.negative_of or ""] for sample in negatives)


def test_every_negative_has_a_key_of_its_own() -> None:
    samples = [sample for user in ("ann", "bob") for sample in drawn(life(30, user), 8)]
    assert len({sample_order_key(sample, 0) for sample in samples}) == len(samples)


def test_the_order_of_a_catalog_does_not_matter() -> None:
    assert drawn(life(9), 3, NegativePool.of(reversed(CATALOG), seed=0)) == drawn(life(9), 3)


def test_an_item_that_only_somebodys_row_names_is_nobodys_negative() -> None:
    created = [Item(f"of-somebody-{n}", f"Named {n}", created=True) for n in range(40)]
    assert drawn(life(9), 30, NegativePool.of([*CATALOG, *created], seed=0)) == drawn(life(9), 30)


def test_a_new_item_takes_the_place_of_few() -> None:
    brought = NegativePool.of([*CATALOG, Item("new", "New")], seed=0)
    before = {(s.negative_of, s.target.item_id) for s in drawn(life(9), 4) if s.negative_of}
    after = {(s.negative_of, s.target.item_id) for s in drawn(life(9), 4, brought) if s.negative_of}
    assert {item for _, item in after - before} <= {"new"}
    assert len(before - after) == len(after - before)


def test_items_are_drawn_about_equally_often() -> None:
    people = [drawn([Interaction(f"u{n}", item, True, 1) for item in ("i00", "i01")], 4) for n in range(1_000)]
    times = Counter(sample.target.item_id for samples in people for sample in samples if sample.negative_of)
    assert len(times) == 38
    assert 50 < min(times.values()) <= max(times.values()) < 170  # 105 on average, standard deviation 10


def test_negatives_are_the_same_on_every_machine() -> None:
    assert [s.target.item_id for s in drawn(life(2), 4) if s.negative_of] == ["i24", "i28", "i16", "i22"]

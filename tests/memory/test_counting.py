"""Counts are sums over people of what is each person's own, in integers."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from service.memory.artifact import memory_files
from service.memory.counting import (
    NEAR,
    NEWEST,
    NEXT,
    Pairs,
    ShardCounts,
    contribution_digest,
    count_people,
    counted,
    fitting,
)
from service.memory.live import LiveCounts
from service.records import Interaction

from .conftest import ITEMS, drawn, memory_of

People = Mapping[str, tuple[Interaction, ...]]
Table = dict[tuple[str, str], tuple[int, int]]  # pair -> people, weight


def together_by_loops(people: Iterable[Sequence[Interaction]]) -> Table:
    found: Table = {}
    for rows in people:
        in_order = sorted(rows, key=lambda row: (row.timestamp, row.item_id))
        likes = [row.item_id for row in in_order if row.liked]
        ordered = len({row.timestamp for row in rows}) > 1
        for (m, a), (n, b) in itertools.combinations(enumerate(likes), 2):
            weight = max(1, round(16 / math.sqrt(n - m))) if ordered else max(1, round(64 / math.sqrt(len(likes))))
            number, sum_ = found.get((min(a, b), max(a, b)), (0, 0))
            found[min(a, b), max(a, b)] = number + 1, sum_ + weight
    return found


def followed_by_loops(people: Iterable[Sequence[Interaction]]) -> Table:
    found: Table = {}
    for rows in people:
        in_order = sorted(rows, key=lambda row: (row.timestamp, row.item_id))
        if len({row.timestamp for row in rows}) < 2:
            continue
        for (m, a), (n, b) in itertools.combinations(enumerate(in_order), 2):
            if b.liked and n - m <= NEXT:
                number, sum_ = found.get((a.item_id, b.item_id), (0, 0))
                found[a.item_id, b.item_id] = number + 1, sum_ + round(32 / math.sqrt(n - m))
    return found


def table(counts: ShardCounts, pairs: Pairs) -> Table:
    columns = zip(pairs.first, pairs.second, pairs.people, pairs.weight, strict=True)
    return {(counts.items[a], counts.items[b]): (int(people), int(weight)) for a, b, people, weight in columns}


def test_counts_are_what_plain_loops_count(people: People) -> None:
    counts = count_people(people.values())
    likes = Counter(row.item_id for rows in people.values() for row in rows if row.liked)
    dislikes = Counter(row.item_id for rows in people.values() for row in rows if not row.liked)
    assert dict(zip(counts.items, counts.likes.tolist(), strict=True)) == {item: likes[item] for item in counts.items}
    assert counts.dislikes.tolist() == [dislikes[item] for item in counts.items]
    assert table(counts, counts.together) == together_by_loops(people.values())
    assert table(counts, counts.followed) == followed_by_loops(people.values())


def test_the_order_of_people_and_rows_does_not_matter(people: People) -> None:
    def shuffled(seed: int) -> list[list[Interaction]]:
        chance = random.Random(seed)
        rows = [chance.sample(own, len(own)) for own in people.values()]
        return chance.sample(rows, len(rows))

    assert memory_files(count_people(shuffled(1))) == memory_files(count_people(shuffled(2)))


@pytest.mark.parametrize("seed", range(5))
def test_the_sum_of_memories_is_the_count_of_everybody(people: People, seed: int) -> None:
    chance = random.Random(seed)
    shards: dict[str, list[tuple[Interaction, ...]]] = {}
    for rows in people.values():
        shards.setdefault(f"shard-{chance.randrange(4)}", []).append(rows)
    parts = memory_of({name: count_people(own) for name, own in shards.items()}).without()
    whole = memory_of({"all": count_people(people.values())}).without()
    assert_same(parts, whole)


def test_the_counts_without_a_person_are_those_of_a_clean_build(people: People) -> None:
    for user in people:
        masked = memory_of({name: count_people([rows]) for name, rows in people.items()}).without({user})
        clean = memory_of({"clean": count_people(rows for name, rows in people.items() if name != user)}).without()
        assert_same(masked, clean)


def test_the_counts_without_an_interaction_are_those_of_who_never_had_it(people: People) -> None:
    everybody = list(people.values())
    gone = everybody[-1][3]
    left = [tuple(row for row in rows if row != gone) for rows in everybody]
    assert table_of(left) != table_of(everybody)
    assert table_of(left) == together_by_loops(left)


def table_of(people: Iterable[Sequence[Interaction]]) -> Table:
    counts = count_people(people)
    return table(counts, counts.together)


def test_a_person_adds_a_bounded_amount_however_much_they_did() -> None:
    rows = [Interaction("busy", f"item-{n:05}", True, n) for n in range(2_000)]
    counts = count_people([rows])
    assert len(counts.items) == NEWEST
    assert counts.items[0] == f"item-{2_000 - NEWEST:05}"
    assert len(counts.together.first) == sum(min(NEAR, NEWEST - 1 - n) for n in range(NEWEST))
    assert counts.together.people.max() == counts.followed.people.max() == 1
    assert counts.together.weight.max() <= 16
    assert counts.followed.weight.max() <= 32


def test_who_did_nothing_adds_nothing() -> None:
    counts = count_people([(), ()])
    assert counts.items == ()
    assert count_people([]).items == ()
    assert not len(counts.together.first) + len(counts.followed.first)


def test_without_an_order_nothing_comes_next_and_every_pair_weighs_the_same() -> None:
    rows = drawn("timeless", 16, 1, ordered=False)
    counts = count_people([rows])
    assert not len(counts.followed.first)
    assert len(set(counts.together.weight.tolist())) == 1


def test_a_persons_digest_names_what_they_add_and_not_who_they_are() -> None:
    rows = drawn("somebody", 9, 1)
    assert contribution_digest(rows) == contribution_digest([replace(row, user_id="another") for row in rows[::-1]])
    assert contribution_digest(rows) == contribution_digest([replace(r, timestamp=r.timestamp * 60) for r in rows])
    for other in (rows[:-1], (replace(rows[0], liked=not rows[0].liked), *rows[1:]), drawn("somebody", 9, 2)):
        assert contribution_digest(other) != contribution_digest(rows)


def test_equal_times_are_in_order_of_item_ids() -> None:
    rows = [Interaction("a", "b", True, 1), Interaction("a", "a", True, 1), Interaction("a", "c", True, 0)]
    assert [row.item_id for row in counted(rows)] == ["c", "a", "b"]


def test_a_count_that_does_not_fit_is_refused() -> None:
    assert fitting(np.array([2**31 - 1])).tolist() == [2**31 - 1]
    with pytest.raises(OverflowError, match="smaller"):
        fitting(np.array([2**31]))


def assert_same(one: LiveCounts, other: LiveCounts) -> None:
    """Two live counts, over all of ITEMS, byte for byte."""
    for name in ("likes", "dislikes"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    for kind, item in itertools.product(("together", "followed"), range(len(ITEMS))):
        mine, theirs = (getattr(live, kind)(item) for live in (one, other))
        assert (mine.items.tobytes(), mine.weights.tobytes()) == (theirs.items.tobytes(), theirs.weights.tobytes())
        assert mine.people.tobytes() == theirs.people.tobytes()

"""The counts' simulation: the product's own code on people who are made up."""

from __future__ import annotations

from pathlib import Path

from research.benchmarks.memory import Crowd, MemoryBench
from service.building.progress import Silent

CROWD = Crowd(people=120, interactions=10, items=150, shard=100, least_people=2, requests=10)


def test_people_are_counted_summed_asked_for_and_deleted_by_the_product_itself(tmp_path: Path) -> None:
    counts, server = MemoryBench(tmp_path / "store", CROWD, Silent()).run()
    assert [row["step"] for row in counts.rows] == ["counting and storing", "adding up"]
    assert counts.notes[0].startswith("1,200 interactions in 12 shards")
    assert [row["times"] for row in server.rows] == [10, 5, 5]
    assert all(0 < row["p50"] <= row["p99"] for row in server.rows)


def test_people_are_the_same_every_time_and_have_distinct_items() -> None:
    assert list(CROWD.histories()) == list(CROWD.histories())
    for rows in CROWD.histories():
        assert len({row.item_id for row in rows}) == len(rows) <= CROWD.interactions
        assert [row.timestamp for row in rows] == sorted({row.timestamp for row in rows})

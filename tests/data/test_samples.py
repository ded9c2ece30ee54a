"""Samples are functions of one user's rows."""

from __future__ import annotations

import hashlib
import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from service.data.samples import canonical, is_validation_user, sample_order_key, user_samples
from service.records import Interaction, Item, RatedItem

ITEMS = {f"i{n:02}": Item(f"i{n:02}", f"Title {n}") for n in range(30)}

lives = st.lists(
    st.builds(Interaction, st.just("ann"), st.sampled_from(sorted(ITEMS)), st.booleans(), st.integers(0, 5)),
    unique_by=lambda row: row.item_id,
)


def life(count: int, user: str = "ann") -> list[Interaction]:
    return [Interaction(user, f"i{n:02}", n % 3 == 0, 100 + n) for n in range(count)]


def test_every_position_but_the_first_is_a_target_after_what_came_before() -> None:
    samples = user_samples(life(4), ITEMS, history_length=2, limit=9)
    assert [sample.target.item_id for sample in samples] == ["i01", "i02", "i03"]
    assert samples[0].history == (RatedItem(ITEMS["i00"], True),)
    assert samples[2].history == (RatedItem(ITEMS["i01"], False), RatedItem(ITEMS["i02"], False))
    assert [sample.liked for sample in samples] == [False, False, True]


def test_the_last_windows_are_kept() -> None:
    assert user_samples(life(9), ITEMS, 3, limit=4) == user_samples(life(9), ITEMS, 3, limit=100)[-4:]
    assert user_samples(life(9), ITEMS, 3, limit=0) == ()


def test_one_interaction_makes_no_sample() -> None:
    assert user_samples(life(1), ITEMS, 3, 4) == user_samples([], ITEMS, 3, 4) == ()


@given(lives, st.randoms(use_true_random=False), st.integers(1, 12), st.integers(1, 20))
def test_the_order_of_rows_does_not_matter(rows: list[Interaction], random: Random, length: int, limit: int) -> None:
    shuffled = sorted(rows, key=lambda _: random.random())
    assert user_samples(rows, ITEMS, length, limit) == user_samples(shuffled, ITEMS, length, limit)


@given(lives, st.integers(1, 12), st.integers(1, 20))
def test_windows_follow_time_and_never_hold_their_own_target(rows: list[Interaction], length: int, limit: int) -> None:
    ordered = [row.item_id for row in sorted(rows, key=lambda row: (row.timestamp, row.item_id))]
    samples = user_samples(rows, ITEMS, length, limit)
    assert len(samples) == min(limit, max(0, len(rows) - 1))
    for sample in samples:
        position = ordered.index(sample.target.item_id)
        assert [o.item.item_id for o in sample.history] == ordered[max(0, position - length) : position]


def test_the_share_of_validation_users_is_as_asked_and_grows_by_adding() -> None:
    users = [str(n) for n in range(4_000)]
    ten = {user for user in users if is_validation_user(user, 10, seed=0)}
    twenty = {user for user in users if is_validation_user(user, 20, seed=0)}
    assert 320 < len(ten) < 480
    assert ten < twenty
    assert not any(is_validation_user(user, 0, 0) for user in users)
    assert all(is_validation_user(user, 100, 0) for user in users)
    assert ten != {user for user in users if is_validation_user(user, 10, seed=1)}


def test_a_share_may_be_less_than_a_percent_and_whole_percents_choose_by_the_remainder_of_the_hash() -> None:
    users = [f"user-{number}" for number in range(20_000)]
    shares = {
        percent: {user for user in users if is_validation_user(user, percent, seed=0)} for percent in (0.1, 0.5, 1, 1.0)
    }
    assert shares[0.1] < shares[0.5] < shares[1] == shares[1.0]
    assert 5 <= len(shares[0.1]) <= 40
    assert 60 <= len(shares[0.5]) <= 140
    by_remainder = {user for user in users[:2000] if _remainder(user) < 7}
    assert by_remainder == {user for user in users[:2000] if is_validation_user(user, 7, seed=0)}


def _remainder(user: str) -> int:
    message = json.dumps(["validation", user]).encode()
    return int.from_bytes(hashlib.blake2b(message, key=b"0", digest_size=16).digest()) % 100


def test_the_split_is_the_same_on_every_machine() -> None:
    chosen = [user for user in map(str, range(40)) if is_validation_user(user, 10, seed=0)]
    assert chosen == ["8", "33"]


def test_canonical_content_is_what_training_reads_and_no_user_id() -> None:
    sample, twin = user_samples(life(3, "ann"), ITEMS, 2, 1)[0], user_samples(life(3, "bob"), ITEMS, 2, 1)[0]
    content = canonical(sample, "movie")
    assert content == canonical(twin, "movie")
    assert sorted(content) == ["context", "liked", "question"]
    assert '"Title 2"?' in content["question"]
    assert "ann" not in json.dumps(content)


def test_order_keys_are_each_samples_own() -> None:
    samples = [sample for user in ("ann", "bob", "annb") for sample in user_samples(life(9, user), ITEMS, 3, 99)]
    keys = [sample_order_key(sample, 0) for sample in samples]
    assert len(set(keys)) == len(samples)
    assert keys == [sample_order_key(sample, 0) for sample in samples]
    assert set(keys).isdisjoint(sample_order_key(sample, 1) for sample in samples)

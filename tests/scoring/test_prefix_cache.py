from __future__ import annotations

import pytest
import torch

from service.llm.packed import Prefix
from service.scoring.prefix_cache import PrefixCache

ONE = 2 * 4 * 3 * 8 + 4 * 4  # bytes of `_prefix`


def _prefix(value: float = 0.0) -> Prefix:
    return Prefix((torch.full((2, 3, 4), value), torch.zeros(2, 3, 4)), torch.zeros(4))


@pytest.fixture
def cache() -> PrefixCache:
    return PrefixCache(3 * ONE)


def test_a_context_is_found_again_by_its_tokens(cache: PrefixCache) -> None:
    cache.put([1, 2, 3], _prefix(5.0), fence=0)
    found = cache.get([1, 2, 3], 0)
    assert found is not None
    assert found.states[0].max() == 5.0
    assert cache.get([1, 2], 0) is None
    assert cache.get([1, 23], 0) is None


def test_what_was_used_longest_ago_makes_room(cache: PrefixCache) -> None:
    assert _prefix().nbytes == ONE
    for token in (1, 2, 3):
        cache.put([token], _prefix(), 0)
    cache.get([1], 0)
    cache.put([4], _prefix(), 0)
    assert [cache.get([token], 0) is not None for token in (1, 2, 3, 4)] == [True, False, True, True]
    assert cache.nbytes == 3 * ONE


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = PrefixCache(ONE - 1)
    cache.put([1], _prefix(), 0)
    assert cache.get([1], 0) is None
    assert cache.nbytes == 0


def test_a_deletion_empties_it(cache: PrefixCache) -> None:
    cache.put([1], _prefix(), 7)
    cache.follow(7)
    assert cache.get([1], 7) is not None
    cache.follow(8)
    assert cache.nbytes == 0
    assert cache.get([1], 8) is None


def test_what_was_read_before_a_deletion_is_neither_kept_nor_given(cache: PrefixCache) -> None:
    cache.follow(8)
    cache.put([1], _prefix(), 7)
    assert cache.nbytes == 0
    cache.put([1], _prefix(), 9)
    assert cache.get([1], 9) is not None


def test_what_is_kept_has_memory_of_its_own(cache: PrefixCache) -> None:
    whole = torch.zeros(2, 300, 4)
    cache.put([1], Prefix((whole[:, :3], whole[:, :3]), torch.zeros(4)), 0)
    found = cache.get([1], 0)
    assert found is not None
    assert found.states[0].untyped_storage().nbytes() == 2 * 3 * 4 * 4


def test_one_context_twice_counts_once(cache: PrefixCache) -> None:
    for _ in range(2):
        cache.put([1], _prefix(), 0)
    assert cache.nbytes == ONE

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from service.entrypoints.garbage import keep_for_good


@pytest.fixture
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
def test_what_a_server_starts_with_is_never_walked_through_again() -> None:
    loaded = [object() for _ in range(3)]
    keep_for_good()
    assert gc.get_freeze_count() > 1_000
    assert not any(known is loaded for known in gc.get_objects())
    fresh: list[object] = []
    assert any(known is fresh for known in gc.get_objects())

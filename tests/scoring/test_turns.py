"""Whose turn it is: whoever has just been scored stands behind who came meanwhile, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scoring.requests import EncodedRequest
from service.scoring.turns import Turns, Waiting


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def _asks(turns: Turns, loop: asyncio.AbstractEventLoop, caller: str, pieces: int = 1) -> None:
    """A request of so many pieces, each of one token."""
    turns.add(Waiting(caller, deque([EncodedRequest((), ((1,),))] * pieces), loop.create_future()))


def _next(turns: Turns, most_tokens: int = 1) -> list[str]:
    return [waiting.caller for waiting, _ in turns.take(most_tokens)]


def test_who_comes_while_another_is_scored_is_next_however_much_that_one_asks(loop: asyncio.AbstractEventLoop) -> None:
    turns = Turns()
    for _ in range(5):
        _asks(turns, loop, "greedy")
    assert _next(turns) == ["greedy"]
    _asks(turns, loop, "modest")
    assert _next(turns) == ["modest"]
    assert _next(turns) == ["greedy"]
    _asks(turns, loop, "modest")
    assert _next(turns) == ["modest"]


def test_who_comes_stands_behind_those_who_wait(loop: asyncio.AbstractEventLoop) -> None:
    turns = Turns()
    _asks(turns, loop, "greedy", pieces=9)
    assert _next(turns) == ["greedy"]
    for caller in ("ann", "bob", "cleo"):
        _asks(turns, loop, caller)
    assert [*_next(turns), *_next(turns)] == ["ann", "bob"]
    _asks(turns, loop, "dora")
    assert _next(turns, 4) == ["cleo", "greedy", "dora", "greedy"]


@given(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=40))
def test_nobody_who_waits_sees_another_served_twice(comes: list[list[int]]) -> None:
    loop, turns, seen = asyncio.new_event_loop(), Turns(), dict[int, list[str]]()
    try:
        for callers in comes:
            for caller in callers:
                _asks(turns, loop, str(caller))
                seen.setdefault(caller, [])
            for served in _next(turns):
                del seen[int(served)]
                for others in seen.values():
                    others.append(served)
                if turns.tokens_of(served):
                    seen[int(served)] = []
            assert all(len(set(others)) == len(others) for others in seen.values())
    finally:
        loop.close()

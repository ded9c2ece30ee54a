from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import LetheError, NotReady, Overloaded, TimedOut
from service.scoring.batcher import Batcher
from service.scoring.pieces import NO_REVISION, cut, joined
from service.scoring.requests import EncodedRequest, Scored
from service.scoring.turns import Company

SOON = 5.0  # seconds; nothing here should come near it


class FakeScorer:
    """Scores a candidate by its name. It can be held, so that a test decides what is waiting meanwhile."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.may_go = threading.Event()
        self.may_go.set()
        self.seconds = 0.0

    def score(self, requests: Sequence[EncodedRequest]) -> list[Scored]:
        ids = [_name(question) for request in requests for question in request.questions]
        self.batches.append(ids)
        self.threads.add(threading.current_thread().name)
        assert self.may_go.wait(SOON)
        time.sleep(self.seconds)
        if "stop" in ids:
            raise StopIteration
        if "bad" in ids:
            raise NotReady("bad request in the batch")
        return [_scored(request) for request in requests]


class FakeObserver:
    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.depth = 0

    def observe_batch(self, tokens: int, queue_depth: int) -> None:
        self.batches.append((tokens, queue_depth))

    def observe_queue(self, queue_depth: int) -> None:
        self.depth = queue_depth


def _request(*names: str) -> EncodedRequest:
    """One token a candidate, which spells its name."""
    return EncodedRequest((), tuple((int.from_bytes(name.encode(), "big"),) for name in names))


def _name(question: tuple[int, ...]) -> str:
    return question[0].to_bytes(20, "big").lstrip(b"\0").decode()


def _scored(request: EncodedRequest) -> Scored:
    names = [_name(question) for question in request.questions]
    return Scored(
        tuple(float(int.from_bytes(name.encode(), "big") % 9973) for name in names),
        dict.fromkeys(names, 1.0),
        (),
        "g",
        0,
        degraded=False,
    )


class Bench:
    """A started batcher, held in its first forward with the request `first` in it."""

    def __init__(self, max_tokens: int = 4, max_queued_tokens: int = 8) -> None:
        self.scorer, self.observer = FakeScorer(), FakeObserver()
        self.batcher = Batcher(self.scorer, self.observer, max_tokens, max_queued_tokens)

    def send(self, *ids: str, timeout: float = SOON, caller: str = "") -> asyncio.Task[Scored]:
        return asyncio.create_task(self.batcher.submit(_request(*ids), timeout, caller))

    async def hold(self) -> asyncio.Task[Scored]:
        await self.batcher.start()
        self.scorer.may_go.clear()
        first = self.send("first")
        while ["first"] not in self.scorer.batches:
            await asyncio.sleep(0.001)
        return first


def _run(story: Callable[[Bench], Awaitable[None]], bench: Bench | None = None) -> Bench:
    bench = bench or Bench()

    async def framed() -> None:
        try:
            await story(bench)
        finally:
            bench.scorer.may_go.set()
            await bench.batcher.stop()

    asyncio.run(framed())
    return bench


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_an_idle_batcher_scores_a_request_at_once_and_alone() -> None:
    async def story(bench: Bench) -> None:
        await bench.batcher.start()
        assert await bench.send("a", "bb") == _scored(_request("a", "bb"))

    bench = _run(story)
    assert bench.scorer.batches == [["a", "bb"]]
    assert bench.observer.batches == [(2, 0)]


def test_requests_that_arrive_during_a_forward_join_the_next_batch_up_to_max_tokens() -> None:
    async def story(bench: Bench) -> None:
        tasks = [await bench.hold(), bench.send("a", "b"), bench.send("c"), bench.send("d", "e"), bench.send("f")]
        await _settle()
        assert bench.observer.depth == 6
        bench.scorer.may_go.set()
        await asyncio.gather(*tasks)

    bench = _run(story)
    assert bench.scorer.batches == [["first"], ["a", "b", "c"], ["d", "e", "f"]]
    assert bench.observer.batches == [(1, 0), (3, 3), (3, 0)]
    assert bench.observer.depth == 0


def test_a_request_larger_than_a_batch_is_cut_and_others_get_their_turn_between_its_pieces() -> None:
    async def story(bench: Bench) -> None:
        tasks = [await bench.hold(), bench.send("a"), bench.send(*"bcdefg"), bench.send("h")]
        await _settle()
        assert bench.observer.depth == 8
        bench.scorer.may_go.set()
        answers = await asyncio.gather(*tasks)
        assert answers[2].scores == _scored(_request(*"bcdefg")).scores
        assert bench.observer.depth == 0

    assert _run(story).scorer.batches == [["first"], ["a"], list("bcde"), ["h", "f", "g"]]


def test_callers_take_turns_however_much_one_of_them_asks() -> None:
    async def story(bench: Bench) -> None:
        greedy = [await bench.hold(), *(bench.send(*name * 3, caller="greedy") for name in "abcdef")]
        await _settle()
        modest = bench.send("m", caller="modest")
        await _settle()
        bench.scorer.may_go.set()
        await asyncio.gather(*greedy, modest)

    batches = _run(story, Bench(max_queued_tokens=100)).scorer.batches
    assert batches[:2] == [["first"], ["a", "a", "a", "m"]]


def test_while_several_callers_are_about_batches_are_short_and_else_they_are_not() -> None:
    names = [str(number) for number in range(900)]

    async def story(bench: Bench) -> None:
        await bench.batcher.start()
        bench.scorer.seconds = 0.09  # whatever the batch, so that 10 ms are 100 tokens at best
        await bench.send(*names, caller="greedy")
        await bench.send("m", caller="modest")
        await asyncio.gather(*(bench.send(*names[:60], caller="greedy") for _ in range(5)))

    batches = _run(story, Bench(max_tokens=1000, max_queued_tokens=10_000)).scorer.batches
    assert [len(batch) for batch in batches] == [900, 1, 120, 120, 60]


def test_while_several_callers_are_about_whoever_asks_on_and_on_is_cut_into_small_pieces() -> None:
    names = [str(number) for number in range(900)]

    async def story(bench: Bench) -> None:
        await bench.batcher.start()
        bench.scorer.seconds = 0.09
        await bench.send(*names, caller="greedy")
        await bench.send("m", caller="modest")
        await asyncio.gather(*(bench.send(*names, caller="greedy") for _ in range(2)))

    batches = _run(story, Bench(max_tokens=1000, max_queued_tokens=10_000)).scorer.batches
    assert [len(batch) for batch in batches[:3]] == [900, 1, 900]
    assert sum(map(len, batches[3:])) == 900
    assert max(map(len, batches[3:])) <= 512


@pytest.mark.parametrize(
    ("asked", "several"),
    [
        ("", False),
        ("aaa", False),
        ("ab", True),
        ("abbb", True),
        ("baaaaaaaaaaaa", False),  # too long ago
        ("baaaaaaa", True),
    ],
)
def test_company_is_whoever_else_has_asked_lately(asked: str, several: bool) -> None:
    company = Company(10.0)
    for second, caller in enumerate(asked):
        company.note(caller, float(second))
    assert company.is_there(float(len(asked))) is several


def test_a_queue_that_one_caller_has_filled_is_not_full_for_another() -> None:
    async def story(bench: Bench) -> None:
        tasks = [await bench.hold(), *(bench.send(name, caller="greedy") for name in "abcdefgh")]
        await _settle()
        with pytest.raises(Overloaded):
            await bench.batcher.submit(_request("i"), SOON, "greedy")
        tasks.append(bench.send("m", caller="modest"))
        await _settle()
        bench.scorer.may_go.set()
        await asyncio.gather(*tasks)

    assert any("m" in batch for batch in _run(story).scorer.batches)


def test_who_has_to_wait_long_behind_themselves_is_refused_and_nobody_else() -> None:
    async def story(bench: Bench) -> None:
        await bench.batcher.start()
        bench.scorer.seconds = 0.02  # a token takes that long
        await bench.send("a")
        bench.scorer.seconds = 0.0
        tasks = [await bench.hold(), *(bench.send(name, caller="greedy") for name in "abcdefghijklmnop")]
        await _settle()
        with pytest.raises(Overloaded):
            bench.batcher.admit(0.4, "greedy")  # sixteen tokens wait, and take 0.32 seconds or more
        bench.batcher.admit(0.4, "modest")  # a turn of four comes first
        bench.scorer.may_go.set()
        await asyncio.gather(*tasks)

    _run(story, Bench(max_queued_tokens=100))


def test_the_pieces_that_wait_are_dropped_when_their_waiter_leaves() -> None:
    async def story(bench: Bench) -> None:
        first = await bench.hold()
        gone = bench.send(*"abcdefgh")
        await _settle()
        bench.scorer.may_go.set()
        while len(bench.scorer.batches) < 2:
            await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(first, gone, return_exceptions=True)
        await bench.send("z")
        assert bench.observer.depth == 0

    assert len(_run(story).scorer.batches) in (3, 4)


def test_an_answer_whose_pieces_saw_different_masks_belongs_to_none() -> None:
    one, other = replace(_scored(_request("a")), revision=4), replace(_scored(_request("b")), revision=5)
    assert joined([one, replace(other, revision=4)]).revision == 4
    assert joined([one, other]).revision == NO_REVISION


@given(sizes=st.lists(st.integers(0, 9), max_size=30), context=st.integers(0, 12), most=st.integers(1, 12))
def test_pieces_hold_every_question_once_and_in_order(sizes: list[int], context: int, most: int) -> None:
    questions = tuple((number,) * size for number, size in enumerate(sizes))
    request = EncodedRequest((0,) * context, questions, 7)
    pieces = cut(request, most)
    assert tuple(question for piece in pieces for question in piece.questions) == questions
    assert all((piece.context, piece.fence) == (request.context, 7) for piece in pieces)
    room = max(most - context, most // 2)
    assert all(
        len(piece.questions) == 1 or sum(map(len, piece.questions)) <= room for piece in pieces if piece != request
    )


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_every_waiter_gets_the_answer_to_its_own_request(sizes: list[int]) -> None:
    async def story(bench: Bench) -> None:
        await bench.batcher.start()
        requests = [[f"{n}-{k}" for k in range(size)] for n, size in enumerate(sizes)]
        answers = await asyncio.gather(*(bench.send(*ids) for ids in requests))
        assert [answer.scores for answer in answers] == [_scored(_request(*ids)).scores for ids in requests]

    bench = _run(story, Bench(max_tokens=5, max_queued_tokens=1000))
    assert len(bench.scorer.threads) == 1


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def story(bench: Bench) -> None:
        tasks = [await bench.hold(), bench.send(*"abcdef")]
        await _settle()
        with pytest.raises(Overloaded) as refused:
            await bench.batcher.submit(_request(*"xyz"), SOON)
        assert refused.value.retry_after >= 1
        tasks.append(bench.send("g", "h"))
        await _settle()
        bench.scorer.may_go.set()
        await asyncio.gather(*tasks)

    assert all("x" not in batch for batch in _run(story).scorer.batches)


def test_a_request_larger_than_the_whole_queue_is_taken_when_nothing_waits() -> None:
    async def story(bench: Bench) -> None:
        await bench.batcher.start()
        assert len((await bench.send(*"abcdefghij")).scores) == 10

    _run(story)


def test_who_could_not_be_answered_in_time_is_refused_before_anything_is_done_for_them() -> None:
    async def story(bench: Bench) -> None:
        await bench.batcher.start()
        bench.scorer.seconds = 0.02  # a token takes that long
        await bench.send("a")
        bench.scorer.seconds = 0.0
        tasks = [await bench.hold(), *(bench.send(name) for name in "abcdef")]
        await _settle()
        bench.batcher.admit(SOON)
        with pytest.raises(Overloaded) as refused:
            bench.batcher.admit(0.2)  # six tokens wait, and take 0.12 seconds or more
        assert refused.value.retry_after >= 1
        with pytest.raises(Overloaded):
            await bench.batcher.submit(_request("x"), 0.2)
        bench.scorer.may_go.set()
        await asyncio.gather(*tasks)
        bench.batcher.admit(1e-9)  # nobody waits, so nobody is refused

    assert all("x" not in batch for batch in _run(story).scorer.batches)


def test_requests_without_candidates_cost_a_place_too() -> None:
    async def story(bench: Bench) -> None:
        tasks = [await bench.hold(), *(bench.send() for _ in range(8))]
        await _settle()
        with pytest.raises(Overloaded):
            await bench.batcher.submit(_request(), SOON)
        bench.scorer.may_go.set()
        await asyncio.gather(*tasks)

    _run(story)


def test_a_waiter_whose_time_is_up_is_told_so_and_its_request_is_never_scored() -> None:
    async def story(bench: Bench) -> None:
        first = await bench.hold()
        with pytest.raises(TimedOut):
            await bench.batcher.submit(_request("late"), 0.01)
        assert bench.observer.depth == 0
        bench.scorer.may_go.set()
        await first

    assert _run(story).scorer.batches == [["first"]]


def test_a_request_whose_waiter_left_is_dropped_before_it_is_scored() -> None:
    async def story(bench: Bench) -> None:
        tasks = [await bench.hold(), bench.send("a")]
        gone = bench.send("gone")
        await _settle()
        gone.cancel()
        bench.scorer.may_go.set()
        await asyncio.gather(*tasks)
        assert gone.cancelled()

    assert _run(story).scorer.batches == [["first"], ["a"]]


def test_a_waiter_that_leaves_during_its_forward_harms_nobody() -> None:
    async def story(bench: Bench) -> None:
        first = await bench.hold()
        first.cancel()
        await _settle()
        second = bench.send("a")
        bench.scorer.may_go.set()
        assert await second == _scored(_request("a"))

    _run(story)


@pytest.mark.parametrize(("poison", "kind"), [("bad", NotReady), ("stop", RuntimeError)])
def test_one_bad_request_fails_alone(poison: str, kind: type[Exception]) -> None:
    async def story(bench: Bench) -> None:
        await bench.hold()
        tasks = [bench.send("a"), bench.send(poison), bench.send("b")]
        await _settle()
        bench.scorer.may_go.set()
        good, bad, also_good = await asyncio.gather(*tasks, return_exceptions=True)
        assert (good, also_good) == (_scored(_request("a")), _scored(_request("b")))
        assert isinstance(bad, kind)

    assert _run(story).scorer.batches == [["first"], ["a", poison, "b"], ["a"], [poison], ["b"]]


def test_a_scorer_that_answers_too_little_gives_nobody_a_wrong_answer() -> None:
    class Short(FakeScorer):
        def score(self, requests: Sequence[EncodedRequest]) -> list[Scored]:
            return super().score(requests)[1:]

    async def story(bench: Bench) -> None:
        await bench.batcher.start()
        answers = await asyncio.gather(bench.send("a"), bench.send("b"), return_exceptions=True)
        assert all(isinstance(answer, ValueError) for answer in answers)

    bench = Bench()
    bench.scorer = Short()
    bench.batcher = Batcher(bench.scorer, bench.observer, 4, 8)
    _run(story, bench)


def test_stopping_finishes_what_is_queued_and_refuses_what_is_new() -> None:
    async def story(bench: Bench) -> None:
        tasks = [await bench.hold(), *(bench.send(name) for name in "abcdef")]
        await _settle()
        stopping = [asyncio.create_task(bench.batcher.stop()) for _ in range(2)]
        await _settle()
        with pytest.raises(Overloaded):
            await bench.batcher.submit(_request("new"), SOON)
        bench.scorer.may_go.set()
        await asyncio.gather(*stopping)
        assert [task.done() and len(task.result().scores) for task in tasks] == [1] * 7

    assert all("new" not in batch for batch in _run(story).scorer.batches)


def test_nobody_waits_in_vain_when_stopping_is_cut_short() -> None:
    async def story(bench: Bench) -> None:
        tasks = [await bench.hold(), bench.send("a")]
        await _settle()
        stopping = asyncio.create_task(bench.batcher.stop())
        await _settle()
        stopping.cancel()
        threading.Timer(0.05, bench.scorer.may_go.set).start()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, Overloaded) for answer in answers)

    _run(story)


def test_it_refuses_before_it_is_started_and_can_be_started_again() -> None:
    async def story(bench: Bench) -> None:
        with pytest.raises(LetheError):
            await bench.batcher.submit(_request("early"), SOON)
        for _ in range(2):
            await bench.batcher.start()
            await bench.batcher.start()
            await bench.send("a")
            await bench.batcher.stop()

    assert _run(story).scorer.batches == [["a"], ["a"]]

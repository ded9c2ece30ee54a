"""A full device refuses the request that filled it, and answers the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from service.entrypoints.http import problems
from service.errors import OutOfMemory
from service.llm.frozen import FrozenModel
from service.llm.paging import PagedStack
from service.llm.spec import ModelSpec
from service.records import Item, RatedItem
from service.scoring.batcher import Batcher
from service.scoring.device_memory import within_memory
from service.scoring.prefix_cache import PrefixCache
from service.scoring.requests import ScoreRequest
from service.scoring.scorer import Scorer
from service.scoring.snapshot import Snapshots


class SmallDevice(FrozenModel):
    """Has memory for so many tokens in one pass."""

    room = 120

    def yes_no_logits_packed(self, texts: Sequence[Sequence[int]], runs: Sequence[int], prefixes: Any) -> torch.Tensor:
        if sum(map(len, texts)) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().yes_no_logits_packed(texts, runs, prefixes)


class Silent:
    def observe_forward(self, seconds: float) -> None: ...

    def observe_neighbors(self, seconds: float) -> None: ...

    def observe_batch(self, tokens: int, queue_depth: int) -> None: ...

    def observe_queue(self, queue_depth: int) -> None: ...


def _request(candidates: int) -> ScoreRequest:
    history = (RatedItem(Item("1", "Heat"), True),)
    return ScoreRequest(history, tuple(Item(str(n), f"Film {n}") for n in range(candidates)), 0)


@pytest.fixture
def scorer(world: Any) -> Scorer:
    world.publish()
    world.frozen = SmallDevice(world.frozen.spec, world.frozen.model, world.frozen.tokenizer)
    world.snapshots = Snapshots(world.store, world.frozen)
    world.kept = PrefixCache(10**7)
    return Scorer(world, world.snapshots, world.frozen, Silent(), world.kept, 10**6)


def test_a_request_that_fills_the_memory_is_refused_and_the_next_one_is_answered(world: Any, scorer: Scorer) -> None:
    small, large = scorer.encoded([_request(1), _request(40)])
    [before] = scorer.score([small])
    assert world.kept.nbytes > 0
    with pytest.raises(OutOfMemory) as refused:
        scorer.score([large])
    assert refused.value.__context__ is None  # its frames would keep alive what filled the memory
    assert world.kept.nbytes == 0  # given up for those who come
    assert scorer.score([small])[0].scores == pytest.approx(before.scores)


def test_of_a_batch_that_fills_the_memory_those_are_answered_who_fit_alone(scorer: Scorer) -> None:
    encoded = scorer.encoded([_request(1), _request(40), _request(1), _request(1)])

    async def all_at_once() -> list[Any]:
        batcher = Batcher(scorer, Silent(), 10**6, 10**6)
        await batcher.start()
        found = await asyncio.gather(*(batcher.submit(one, 30.0) for one in encoded), return_exceptions=True)
        await batcher.stop()
        return found

    first, second, *others = asyncio.run(all_at_once())
    assert isinstance(second, OutOfMemory)
    assert [len(one.scores) for one in (first, *others)] == [1, 1, 1]


def test_a_full_device_is_answered_503_to_be_tried_again() -> None:
    with pytest.raises(OutOfMemory) as refused:
        within_memory(_full)
    answer = problems.problem_from(refused.value)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert b"out-of-memory" in answer.body
    assert b"GiB" not in answer.body


def _full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_what_is_not_about_memory_passes() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(_shapes)
    assert within_memory(lambda: 7) == 7


def _shapes() -> None:
    raise RuntimeError("shapes")


def test_adapters_that_have_no_room_are_paged_and_answer_the_same(world: Any) -> None:
    world.publish(adapters=6, top_m=3)
    frozen = FrozenModel.load(world.frozen.spec)
    resident = Scorer(world, Snapshots(world.store, frozen), frozen, Silent())
    other = FrozenModel.load(ModelSpec(frozen.spec.name))
    paging = Snapshots(world.store, other, room=4_000)
    paged = Scorer(world, paging, other, Silent())
    requests = resident.encoded([_request(3), _request(2)])
    for ours, theirs in zip(paged.score(requests), resident.score(requests), strict=True):
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
        assert ours.weights == theirs.weights
    assert paging.current is not None
    assert isinstance(paging.current.stack, PagedStack)
    assert len(paging.current.stack.slots.numbers) < 6


def test_a_mask_takes_a_paged_adapter_out_at_once(world: Any) -> None:
    digests = world.publish(adapters=4, top_m=4)
    frozen = world.frozen
    scorer = Scorer(world, Snapshots(world.store, frozen, room=1), frozen, Silent())
    [request] = scorer.encoded([_request(2)])
    assert scorer.score([request])[0].weights[digests[0]] > 0
    world.change(fence=1, adapters=frozenset(digests[:1]))
    [after] = scorer.score([request])
    assert after.weights[digests[0]] == 0
    bare = Scorer(world, Snapshots(world.store, frozen), frozen, Silent())
    assert after.scores == pytest.approx(bare.score([request])[0].scores, abs=1e-5)

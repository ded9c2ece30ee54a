from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.errors import Damaged, NotReady
from service.llm.frozen import FrozenModel
from service.llm.packed import Prefix
from service.llm.spec import ModelSpec
from service.records import Item, Mask, ModelIdentity, RatedItem
from service.scoring.encoding import RequestEncoder
from service.scoring.prefix_cache import PrefixCache
from service.scoring.requests import EncodedRequest, Scored, ScoreRequest
from service.scoring.scorer import Scorer
from service.scoring.snapshot import Snapshots
from tests.scoring.conftest import World

activation = pytest.mark.parametrize("activation", ["question", "prompt"])
level = pytest.mark.parametrize("level", ["ND", "D"])


class FakeStopwatch:
    def __init__(self) -> None:
        self.forward: list[float] = []
        self.neighbors: list[float] = []

    def observe_forward(self, seconds: float) -> None:
        self.forward.append(seconds)

    def observe_neighbors(self, seconds: float) -> None:
        self.neighbors.append(seconds)


@pytest.fixture
def scorer(world: World) -> Scorer:
    return Scorer(world, world.snapshots, world.frozen, FakeStopwatch())


def _request(history: int, candidates: int) -> ScoreRequest:
    return ScoreRequest(
        tuple(RatedItem(Item("", f"Film {n}"), n % 2 == 0) for n in range(history)),
        tuple(Item("", f"Other film {n}") for n in range(candidates)),
    )


REQUESTS = [_request(0, 2), _request(5, 1), _request(2, 0), _request(3, 4)]


def _encoded(world: World, requests: Sequence[ScoreRequest]) -> list[EncodedRequest]:
    tokenizer = RequestEncoder(world.frozen.tokenizer)
    return [tokenizer.encode(request, world.item_type) for request in requests]


def _ask(scorer: Scorer, requests: Sequence[ScoreRequest]) -> list[Scored]:
    return scorer.score(scorer.encoded(requests))


def _assert_same(ours: Sequence[Scored], theirs: Sequence[Scored]) -> None:
    assert [one.generation for one in ours] == [one.generation for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-4)
        assert one.weights == pytest.approx(other.weights, rel=1e-4)
        assert one.neighbors == other.neighbors


class SlowPath:
    """Everything again in the slowest, most obvious way: one candidate at a time, plain Python, merged weights."""

    def __init__(self, world: World, merged_model: Callable[..., FrozenModel], folder: Path) -> None:
        self.world = world
        self.plain = FrozenModel.load(ModelSpec(str(folder)))
        self._merged_model = merged_model

    def near(self, request: ScoreRequest) -> list[int]:
        world = self.world
        context = self.plain.tokenizer.context(request.history, "movie")
        query = self.plain.embed([context])[0].numpy()
        rows = [n for n, key in enumerate(world.rows) if key not in world.current.rows]
        return sorted(rows, key=lambda n: -float(world.embeddings[n] @ query))[: world.config.top_n]

    def neighbors(self, request: ScoreRequest) -> tuple[str, ...]:
        return tuple(self.world.rows[n] for n in self.near(request))

    def weights(self, request: ScoreRequest) -> list[float]:
        world, mask = self.world, self.world.current
        near = self.near(request)
        errors = [sum(float(world.errors[n, k]) for n in near) / len(near) for k in range(len(world.digests))]
        powers = [
            0.0 if digest in mask.adapters else math.exp(-world.config.tau * error)
            for digest, error in zip(world.digests, errors, strict=True)
        ]
        return [power / sum(powers) for power in powers]

    def scores(self, request: ScoreRequest, weights: list[float] | None = None) -> list[float]:
        world = self.world
        adapters = [world.adapter(digest) for digest in world.digests]
        merged = self._merged_model(self.plain, adapters, 2.0, weights or self.weights(request), world.config.level)
        return [self._score(merged, request, candidate) for candidate in request.candidates]

    def _score(self, merged: FrozenModel, request: ScoreRequest, candidate: Item) -> float:
        tokenizer = self.plain.tokenizer
        context = tokenizer.context(request.history, "movie")
        question = tokenizer.question(candidate, "movie")
        if self.world.config.activation == "prompt":
            difference = merged.yes_no_logits_whole([context + question])
        else:
            difference = merged.yes_no_logits([question], self.plain.read_padded_prefixes([context]))
        return 1.0 / (1.0 + math.exp(-float(difference[0])))


@pytest.fixture
def slow(world: World, merged_model: Callable[..., FrozenModel], tiny_models: Callable[..., Path]) -> SlowPath:
    return SlowPath(world, merged_model, tiny_models("llama"))


# Scores


@activation
@level
def test_scores_weights_and_neighbours_are_those_of_the_slow_path(
    world: World, scorer: Scorer, slow: SlowPath, activation: str, level: str
) -> None:
    world.publish(activation=activation, level=level)
    world.change(adapters=frozenset(world.digests[:1]), rows=frozenset(world.rows[:5]))
    for scored, request in zip(_ask(scorer, REQUESTS), REQUESTS, strict=True):
        assert scored.scores == pytest.approx(slow.scores(request), rel=1e-4)
        assert list(scored.weights.values()) == pytest.approx(slow.weights(request), rel=1e-4)
        assert list(scored.weights) == world.digests
        assert scored.neighbors == slow.neighbors(request)


@activation
@level
def test_a_batch_of_requests_gives_what_each_gives_alone(
    world: World, scorer: Scorer, activation: str, level: str
) -> None:
    world.publish(activation=activation, level=level)
    together = _ask(scorer, REQUESTS)
    _assert_same(together, [_ask(scorer, [request])[0] for request in REQUESTS])
    assert [len(scored.scores) for scored in together] == [2, 1, 0, 4]
    assert len({score for scored in together for score in scored.scores}) == 7


def test_requests_are_encoded_as_the_published_generation_words_them(world: World, scorer: Scorer) -> None:
    world.publish()
    assert scorer.encoded(REQUESTS) == _encoded(world, REQUESTS)


def test_a_request_without_candidates_has_no_scores(world: World, scorer: Scorer) -> None:
    world.publish()
    assert _ask(scorer, [_request(1, 0)])[0].scores == ()


def test_weights_are_positive_and_sum_to_one(world: World, scorer: Scorer) -> None:
    world.publish()
    for scored in _ask(scorer, REQUESTS):
        assert min(scored.weights.values()) > 0.0
        assert math.fsum(scored.weights.values()) == pytest.approx(1.0)


def test_a_generation_without_validation_rows_weighs_all_adapters_the_same(world: World, scorer: Scorer) -> None:
    world.publish(rows=0)
    scored = _ask(scorer, REQUESTS)[1]
    assert list(scored.weights.values()) == pytest.approx([1 / 3] * 3)
    assert scored.neighbors == ()


def test_a_generation_without_adapters_scores_as_the_frozen_model(world: World, scorer: Scorer) -> None:
    world.publish(adapters=0)
    scored = _ask(scorer, REQUESTS)[3]
    assert scored.scores == pytest.approx(_frozen_scores(world.frozen, REQUESTS[3]), rel=1e-4)
    assert (scored.weights, scored.degraded) == ({}, True)


def test_a_batch_is_measured_once(world: World) -> None:
    world.publish()
    watch = FakeStopwatch()
    _ask(Scorer(world, world.snapshots, world.frozen, watch), REQUESTS)
    assert (len(watch.forward), len(watch.neighbors)) == (1, 1)
    assert min(watch.forward + watch.neighbors) >= 0.0


def _frozen_scores(frozen: FrozenModel, request: ScoreRequest) -> list[float]:
    tokenizer = frozen.tokenizer
    context = tokenizer.context(request.history, "movie")
    whole = [context + tokenizer.question(item, "movie") for item in request.candidates]
    return torch.sigmoid(frozen.yes_no_logits_whole(whole)).tolist()


# The mask


@activation
def test_a_masked_shard_has_weight_exactly_zero_in_the_very_next_batch(
    world: World, scorer: Scorer, activation: str
) -> None:
    first, *others = world.publish(activation=activation)
    before = _ask(scorer, REQUESTS)
    world.change(adapters=frozenset({first}), fence=1)
    after = _ask(scorer, REQUESTS)
    for old, new in zip(before, after, strict=True):
        assert new.weights[first] == 0.0
        kept = math.fsum(old.weights[digest] for digest in others)
        assert [new.weights[d] for d in others] == pytest.approx([old.weights[d] / kept for d in others], rel=1e-4)
        assert (old.fence, new.fence) == (0, 1)
        assert (old.degraded, new.degraded) == (False, False)
    assert before[3].scores != after[3].scores


def test_a_masked_validation_row_does_not_route_and_is_not_named_in_the_very_next_batch(
    world: World, scorer: Scorer
) -> None:
    world.publish(top_n=1, tau=50.0)
    request = REQUESTS[1]
    query = world.frozen.embed([world.frozen.tokenizer.context(request.history, "movie")])[0].numpy()
    nearest, second = np.argsort(-(world.embeddings @ query))[:2]
    before = _ask(scorer, [request])[0]
    world.change(rows=frozenset({world.rows[nearest], "a row of another generation"}))
    after = _ask(scorer, [request])[0]
    assert (before.neighbors, after.neighbors) == ((world.rows[nearest],), (world.rows[second],))
    assert _best(before) == world.digests[world.errors[nearest].argmin()]
    assert _best(after) == world.digests[world.errors[second].argmin()]


def _best(scored: Scored) -> str:
    return max(scored.weights, key=scored.weights.__getitem__)


@activation
def test_with_everything_masked_the_frozen_model_answers_alone_and_says_so(
    world: World, scorer: Scorer, activation: str
) -> None:
    digests = world.publish(activation=activation)
    world.change(adapters=frozenset(digests))
    for scored, request in zip(_ask(scorer, REQUESTS), REQUESTS, strict=True):
        assert scored.degraded
        assert set(scored.weights.values()) == {0.0}
        if request.candidates:
            assert scored.scores == pytest.approx(_frozen_scores(world.frozen, request), rel=1e-4)


def test_a_mask_of_an_adapter_that_is_not_served_changes_nothing(world: World, scorer: Scorer) -> None:
    world.publish()
    before = _ask(scorer, REQUESTS)
    world.change(adapters=frozenset({"0" * 64}))
    after = _ask(scorer, REQUESTS)
    assert [replace(scored, revision=before[0].revision) for scored in after] == before


# Generations


def test_a_generation_published_meanwhile_is_swapped_in_before_scoring(world: World, scorer: Scorer) -> None:
    old = world.publish(seed=1)
    before = _ask(scorer, REQUESTS)
    new = world.publish(seed=2, adapters=2)
    after = _ask(scorer, REQUESTS)
    assert [list(scored.weights) for scored in (before[0], after[0])] == [old, new]
    assert after[0].generation == world.current.generation != before[0].generation


def test_a_generation_with_other_targets_is_not_disturbed_by_the_one_before(
    world: World, scorer: Scorer, slow: SlowPath
) -> None:
    world.publish(seed=1)
    _ask(scorer, REQUESTS)
    world.publish(seed=2, lora_targets=("q_proj", "o_proj"))
    assert _ask(scorer, REQUESTS)[3].scores == pytest.approx(slow.scores(REQUESTS[3]), rel=1e-4)


def test_a_generation_is_read_once(world: World, scorer: Scorer) -> None:
    world.publish()
    _ask(scorer, REQUESTS)
    snapshot = world.snapshots.current
    _ask(scorer, REQUESTS)
    assert world.snapshots.current is snapshot


def test_nothing_is_scored_before_a_generation_is_published(scorer: Scorer) -> None:
    with pytest.raises(NotReady, match="no generation is published"):
        _ask(scorer, REQUESTS)


def test_a_generation_of_another_frozen_model_is_not_scored_with(world: World, scorer: Scorer) -> None:
    world.publish(frozen=ModelIdentity("0" * 64, "float32"))
    with pytest.raises(NotReady, match="LETHE_MODEL"):
        _ask(scorer, REQUESTS)


def test_a_damaged_adapter_is_not_scored_with(world: World, scorer: Scorer) -> None:
    digest = world.publish()[1]
    torn = world.store.root / "adapters" / digest / "adapter_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1] + b"\xff")
    with pytest.raises(Damaged):
        _ask(scorer, REQUESTS)
    assert world.snapshots.current is None


@pytest.mark.parametrize("name", ["errors.npy", "manifest.json", "rows.json"])
def test_a_damaged_generation_is_not_scored_with(world: World, scorer: Scorer, name: str) -> None:
    world.publish()
    (world.store.root / "generations" / world.generation / name).write_bytes(b"{}")
    with pytest.raises(Damaged):
        _ask(scorer, REQUESTS)


def test_a_generation_that_was_erased_while_it_was_read_gives_way_to_the_newer_one(
    world: World, scorer: Scorer
) -> None:
    world.publish(seed=1)
    stale = world.current
    new = world.publish(seed=2)
    world.store.erase_except(new, [], [world.generation])
    late = Scorer(_Stale(stale, world), world.snapshots, world.frozen, FakeStopwatch())
    assert late.score(_encoded(world, REQUESTS))[0].generation == world.current.generation


class _Stale:
    """Tells an old mask first, as a batch has it that began just before a publication."""

    def __init__(self, stale: Mask, world: World) -> None:
        self._stale: Mask | None = stale
        self._world = world

    def mask(self) -> Mask:
        told, self._stale = self._stale, None
        return told or self._world.mask()


# Remembered contexts, and passes of bounded size


class CountingModel(FrozenModel):
    """Notes how many contexts it reads."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.read = 0

    def read_prefixes(self, contexts: Sequence[Sequence[int]], embed: bool = True) -> list[Prefix]:
        self.read += len(contexts)
        return super().read_prefixes(contexts, embed)


@pytest.fixture
def counting(world: World, tiny_models: Callable[..., Path]) -> CountingModel:
    frozen = CountingModel.load(ModelSpec(str(tiny_models("llama"))))
    assert isinstance(frozen, CountingModel)
    world.frozen = frozen
    world.snapshots = Snapshots(world.store, world.frozen)
    return frozen


def _remembering(world: World) -> Scorer:
    return Scorer(world, world.snapshots, world.frozen, FakeStopwatch(), PrefixCache(2**20))


def _at(fence: int | None, requests: Sequence[ScoreRequest] = REQUESTS) -> list[ScoreRequest]:
    return [replace(request, fence=fence) for request in requests]


def test_the_next_page_of_a_history_reads_no_context_and_scores_the_same(world: World, counting: CountingModel) -> None:
    world.publish()
    scorer = _remembering(world)
    first = _ask(scorer, _at(0))
    read = counting.read
    _assert_same(_ask(scorer, _at(0)), first)
    assert counting.read == read == len(REQUESTS)


def test_a_deletion_makes_every_context_be_read_again(world: World, counting: CountingModel) -> None:
    world.publish()
    scorer = _remembering(world)
    _ask(scorer, _at(0))
    world.change(fence=1)
    _ask(scorer, _at(1))
    assert counting.read == 2 * len(REQUESTS)


@pytest.mark.parametrize("fence", [None, 0])
def test_a_history_that_was_read_before_a_deletion_is_not_remembered(
    world: World, counting: CountingModel, fence: int | None
) -> None:
    world.publish()
    world.change(fence=1)
    scorer = _remembering(world)
    for _ in range(2):
        _ask(scorer, _at(fence))
    assert counting.read == 2 * len(REQUESTS)


@activation
@pytest.mark.parametrize("tokens", [1, 40, 100])
def test_short_passes_score_what_one_pass_scores(world: World, scorer: Scorer, activation: str, tokens: int) -> None:
    world.publish(activation=activation)
    short = Scorer(world, world.snapshots, world.frozen, FakeStopwatch(), forward_tokens=tokens)
    _assert_same(_ask(short, REQUESTS), _ask(scorer, REQUESTS))


def test_at_most_m_adapters_answer_and_the_scores_are_theirs(world: World, scorer: Scorer, slow: SlowPath) -> None:
    world.publish(adapters=6, top_m=2, tau=50.0)
    for request, scored in zip(REQUESTS, _ask(scorer, REQUESTS), strict=True):
        largest = sorted(slow.weights(request), reverse=True)[:2]
        assert sorted(scored.weights.values(), reverse=True)[:2] == pytest.approx(
            [weight / sum(largest) for weight in largest], rel=1e-4
        )
        assert sum(weight > 0.0 for weight in scored.weights.values()) == 2
        assert scored.scores == pytest.approx(slow.scores(request, list(scored.weights.values())), rel=1e-4)

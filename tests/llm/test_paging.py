"""Adapters that are brought to the device when they are wanted answer as those that are always there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.llm.paging import PagedStack, adapter_bytes
from service.llm.spec import ModelSpec
from service.records import Level

TARGETS = ("q_proj", "v_proj")
K, RANK = 6, 3
TEXTS = [[5, 6, 7, 8], [9, 10], [5, 11, 12]]


@pytest.fixture
def frozen(tiny_models: Callable[..., Path]) -> FrozenModel:
    return FrozenModel.load(ModelSpec(str(tiny_models("llama"))))


class Both:
    """One set of adapters, resident and paged into so many slots."""

    def __init__(self, frozen: FrozenModel, random_adapter: Callable[..., Any], slots: int, k: int = K) -> None:
        adapters = {str(n): random_adapter(frozen.model, TARGETS, RANK, n) for n in range(k)}
        self.one = adapter_bytes({"0": adapters["0"]}, frozen)
        self.mixture = Mixture(frozen, TARGETS)
        self.resident = AdapterStack.of(adapters, 2.0, frozen)
        self.paged = PagedStack.paged(adapters, 2.0, frozen, slots * self.one)
        assert adapter_bytes(adapters, frozen) == k * self.one

    def answers(self, stack: AdapterStack, weights: torch.Tensor, level: Level = "ND") -> torch.Tensor:
        return self.mixture.yes_no_logits_packed(TEXTS, [1, 2], [], stack, weights, level)

    def agree(self, weights: torch.Tensor, level: Level = "ND") -> None:
        ours, theirs = (self.answers(stack, weights, level) for stack in (self.paged, self.resident))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def weights_on(*rows: dict[int, float]) -> torch.Tensor:
    weights = torch.zeros(len(rows), K)
    for row, given in zip(weights, rows, strict=True):
        for adapter, weight in given.items():
            row[adapter] = weight
    return weights


@pytest.mark.parametrize("level", ["ND", "D"])
@pytest.mark.parametrize("slots", [1, 3, K])
def test_paged_adapters_answer_as_resident_ones(
    frozen: FrozenModel, random_adapter: Callable[..., Any], slots: int, level: Level
) -> None:
    both = Both(frozen, random_adapter, slots)
    assert len(both.paged.slots.numbers) == slots
    for weights in (
        weights_on({0: 1.0}, {0: 0.5, 3: 0.5}),
        weights_on({5: 0.9, 1: 0.1}, {2: 1.0}),
        weights_on({0: 0.2, 1: 0.2, 2: 0.2, 3: 0.4}, {4: 0.5, 5: 0.5}),  # more than there are slots
        weights_on({}, {3: 1.0}),
        weights_on({0: 1.0}, {0: 0.5, 3: 0.5}),
    ):
        both.agree(weights, level)


def test_the_resident_answers_are_not_those_of_the_bare_model(
    frozen: FrozenModel, random_adapter: Callable[..., Any]
) -> None:
    both = Both(frozen, random_adapter, 2)
    bare = both.answers(AdapterStack((), 2.0, {}), torch.zeros(2, 0))
    assert (both.answers(both.paged, weights_on({0: 1.0}, {3: 1.0})) - bare).abs().min() > 1e-3


def test_an_adapter_that_is_there_is_not_brought_again_and_the_oldest_makes_room(
    frozen: FrozenModel, random_adapter: Callable[..., Any]
) -> None:
    both = Both(frozen, random_adapter, 2)
    slots = both.paged.slots
    both.agree(weights_on({0: 1.0}, {1: 1.0}))
    both.agree(weights_on({1: 1.0}, {0: 1.0}))
    assert slots.brought == 2
    both.agree(weights_on({1: 1.0}, {2: 1.0}))
    assert set(slots.held) == {1, 2}
    assert slots.brought == 3


def test_what_one_batch_needs_never_makes_room_for_itself(
    frozen: FrozenModel, random_adapter: Callable[..., Any]
) -> None:
    both = Both(frozen, random_adapter, 3)
    for order in ((0, 1, 2), (3, 0, 4), (0, 5, 3)):
        both.agree(weights_on(dict.fromkeys(order, 1 / 3), {order[0]: 1.0}))
        assert set(both.paged.slots.held) >= set(order)


def test_room_for_less_than_one_adapter_is_room_for_one(
    frozen: FrozenModel, random_adapter: Callable[..., Any]
) -> None:
    assert len(Both(frozen, random_adapter, 0).paged.slots.numbers) == 1


@pytest.mark.gpu
def test_adapters_come_from_pinned_memory_without_anybody_waiting(
    tiny_models: Callable[..., Path], random_adapter: Callable[..., Any]
) -> None:
    frozen = FrozenModel.load(ModelSpec(str(tiny_models("llama")), device="cuda:0"))
    on_cpu = FrozenModel.load(ModelSpec(str(tiny_models("llama"))))
    adapters = {str(n): random_adapter(on_cpu.model, TARGETS, RANK, n) for n in range(K)}
    paged = PagedStack.paged(adapters, 2.0, frozen, 2 * adapter_bytes({"0": adapters["0"]}, frozen))
    assert paged.host.is_pinned()
    mixture, weights = Mixture(frozen, TARGETS), weights_on({0: 1.0}, {1: 0.5, 2: 0.5})
    mixture.yes_no_logits_packed(TEXTS, [1, 2], [], paged, weights, "ND")
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours = mixture.yes_no_logits_packed(TEXTS, [1, 2], [], paged, weights.roll(1, dims=1), "ND")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    right = Mixture(on_cpu, TARGETS).yes_no_logits_packed(
        TEXTS, [1, 2], [], AdapterStack.of(adapters, 2.0, on_cpu), weights.roll(1, dims=1), "ND"
    )
    torch.testing.assert_close(ours.cpu(), right, rtol=1e-3, atol=1e-3)

"""A pass that was recorded once answers every request of its shape as a pass of its own does.

Here a recorded pass is run again instead of replayed: it reads and writes the same memory, as a CUDA graph does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.llm.frozen import FrozenModel
from service.llm.graphs import Graphs, Run, Shape, record_on_gpu, shape_of
from service.llm.mixture import AdapterStack, Mixture
from service.llm.paging import PagedStack
from service.llm.spec import ModelSpec
from service.records import Level

TARGETS = ("q_proj", "v_proj")
K = 9
# Requests of one shape, and of others: a context's tokens, and those of its questions.
REQUESTS = [
    (list(range(5, 40)), [[7, 8, 9], [5, 6], [9]]),
    (list(range(50, 110)), [[8, 9], [5], [6, 7, 8, 9], [10, 11]]),
    (list(range(5, 12)), [[7] * 17]),
    (list(range(5, 105)), [[9, 8, 7]] * 5),
]


def run_again(run: Run) -> Run:
    run()
    return run


class Twice:
    """One model and its adapters, with recorded passes and without."""

    def __init__(self, frozen: FrozenModel, random_adapter: Callable[..., Any], record: Callable[[Run], Run]) -> None:
        self.frozen = frozen
        other = FrozenModel(frozen.spec, copy.deepcopy(frozen.model), frozen.tokenizer)
        self.graphs = Graphs(frozen, record)
        self.recorded = Mixture(frozen, TARGETS, graphs=self.graphs)
        self.plain = Mixture(other, TARGETS)
        on_cpu = copy.deepcopy(frozen.model).to("cpu")
        self.adapters = {str(k): random_adapter(on_cpu, TARGETS, 3, k) for k in range(K)}
        self.stack = AdapterStack.of(self.adapters, 2.0, frozen)

    def answers(self, mixture: Mixture, number: int, stack: AdapterStack, weights: Tensor, level: Level) -> Tensor:
        context, questions = REQUESTS[number]
        [prefix] = self.frozen.read_prefixes([context])
        return mixture.yes_no_logits_packed(questions, [len(questions)], [prefix], stack, weights, level)

    def agree(self, number: int, *, few: bool, level: Level = "ND", stack: AdapterStack | None = None) -> Tensor:
        weights = torch.rand(1, K, generator=torch.Generator().manual_seed(number))
        if few:
            weights[:, 3:] = 0.0
        ours = self.answers(self.recorded, number, stack or self.stack, weights, level)
        theirs = self.answers(self.plain, number, self.stack, weights, level)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        return ours


@pytest.fixture
def llama(tiny_models: Callable[..., Path], random_adapter: Callable[..., Any]) -> Twice:
    return Twice(FrozenModel.load(ModelSpec(str(tiny_models("llama")))), random_adapter, run_again)


@pytest.mark.parametrize(
    ("architecture", "few", "level"),
    [
        ("llama", True, "ND"),
        ("llama", True, "D"),
        ("llama", False, "ND"),
        ("qwen3", False, "D"),
        ("mistral", True, "ND"),
    ],
)
def test_recorded_passes_answer_as_passes_of_their_own(
    tiny_models: Callable[..., Path], random_adapter: Callable[..., Any], architecture: str, few: bool, level: Level
) -> None:
    twice = Twice(FrozenModel.load(ModelSpec(str(tiny_models(architecture)))), random_adapter, run_again)
    for number in (0, 1, 2, 3, 1, 0):
        twice.agree(number, few=few, level=level)
    assert twice.graphs.recorded == 3  # the first two requests are of one shape


def test_a_request_leaves_nothing_behind(llama: Twice) -> None:
    first = llama.agree(0, few=True)
    llama.agree(1, few=True)  # of the same shape, longer in both
    assert torch.equal(llama.agree(0, few=True), first)
    for recorded in llama.graphs._passes.values():
        assert recorded is not None
        assert not recorded.inputs.ids.any()
        assert not any(state.any() for state in recorded.inputs.packing.prefixes.states)


def test_an_answer_is_not_overwritten_by_the_next(llama: Twice) -> None:
    first = llama.agree(0, few=True)
    kept = first.clone()
    llama.agree(1, few=True)
    assert torch.equal(first, kept)


def test_another_generations_adapters_are_recorded_anew(llama: Twice) -> None:
    before = llama.agree(0, few=True)
    llama.stack = AdapterStack.of(dict(reversed(llama.adapters.items())), 2.0, llama.frozen)
    assert not torch.equal(llama.agree(0, few=True), before)
    assert llama.graphs.recorded == 2


def test_paged_adapters_are_replayed_from_their_slots(llama: Twice) -> None:
    paged = PagedStack.paged(llama.adapters, 2.0, llama.frozen, 10_000_000)
    for number in (0, 1, 0):
        llama.agree(number, few=True, stack=paged)
    assert llama.graphs.recorded == 1


def test_a_pass_that_cannot_be_recorded_is_launched_and_not_tried_again(
    tiny_models: Callable[..., Path], random_adapter: Callable[..., Any]
) -> None:
    tried = []

    def refuse(run: Run) -> Run:
        tried.append(run)
        raise RuntimeError("operation not permitted when stream is capturing")

    twice = Twice(FrozenModel.load(ModelSpec(str(tiny_models("llama")))), random_adapter, refuse)
    for number in (0, 0, 1):
        twice.agree(number, few=True)
    assert len(tried) == 1
    assert twice.graphs.recorded == 0


def test_only_so_many_shapes_are_kept(llama: Twice) -> None:
    llama.graphs._most = 2
    for number in (0, 2, 3):
        llama.agree(number, few=True)
    assert len(llama.graphs._passes) == 2


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80), st.integers(1, 5000))
def test_a_shape_holds_what_it_is_for_and_is_one_of_few(lengths: list[int], before: int) -> None:
    shape = shape_of(lengths, before)
    if shape is None:
        assert len(lengths) * max(lengths) * 4 > 4096 or before > 4096 - 64
        return
    assert len(lengths) <= shape.texts < 2 * len(lengths) + 1
    assert max(lengths) <= shape.tokens < max(lengths) + 16
    assert before <= shape.before < before + 64
    assert shape_of([shape.tokens] * shape.texts, shape.before) == shape


def test_the_shape_of_one_short_question_is_the_smallest() -> None:
    assert shape_of([1], 1) == Shape(1, 16, 64)


@pytest.mark.gpu
def test_a_cuda_graph_answers_as_a_pass_of_its_own(
    tiny_models: Callable[..., Path], random_adapter: Callable[..., Any]
) -> None:
    frozen = FrozenModel.load(ModelSpec(str(tiny_models("llama")), device="cuda:0"))
    twice = Twice(frozen, random_adapter, record_on_gpu)
    for number in (0, 1, 2, 3, 1, 0):
        twice.agree(number, few=True)
    assert twice.graphs.recorded == 3

"""Rounding to int8: how far it moves a weight, what it leaves alone, and that adapters are rounded one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from research.evaluation.quantized import rounded, rounded_model, rounded_stack
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack
from service.llm.spec import ModelSpec

TARGETS = ("q_proj", "v_proj")


def _levels(weight: torch.Tensor) -> torch.Tensor:
    return weight.abs().amax(dim=-1, keepdim=True) / 127


@pytest.fixture
def weight() -> torch.Tensor:
    scales = torch.tensor([1e-6, 1e-2, 1.0, 50.0]).reshape(4, 1)
    return torch.randn(4, 300, generator=torch.Generator().manual_seed(0)) * scales


def test_no_weight_moves_by_more_than_half_a_level_of_its_own_channel(weight: torch.Tensor) -> None:
    moved = (rounded(weight) - weight).abs()
    assert (moved <= _levels(weight) / 2 * (1 + 1e-4)).all()
    assert (moved > 0).any(dim=1).all()


def test_a_channel_has_at_most_255_levels_and_keeps_its_largest_weight(weight: torch.Tensor) -> None:
    numbers = rounded(weight) / _levels(weight)
    assert torch.allclose(numbers, numbers.round(), atol=1e-3)
    assert numbers.abs().max() <= 127 * (1 + 1e-6)
    assert torch.allclose(rounded(weight).abs().amax(dim=1), weight.abs().amax(dim=1))


def test_rounding_again_changes_nothing(weight: torch.Tensor) -> None:
    once = rounded(weight)
    assert torch.allclose(rounded(once), once, rtol=1e-6, atol=0)


def test_a_channel_of_zeros_stays_zero() -> None:
    assert torch.equal(rounded(torch.zeros(2, 8)), torch.zeros(2, 8))


def test_a_weights_type_stays(weight: torch.Tensor) -> None:
    assert rounded(weight.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_linear_layers_of_a_model_are_rounded_by_output_channel_and_nothing_else(
    tiny_models: Callable[..., Path], architecture: str
) -> None:
    spec = ModelSpec(str(tiny_models(architecture)))
    exact = dict(FrozenModel.load(spec).model.named_parameters())
    changed = dict(rounded_model(spec).model.named_parameters())
    linear = {name for name in exact if name.endswith(("proj.weight", "c_attn.weight", "c_proj.weight", "c_fc.weight"))}
    assert len(linear) >= 8
    for name, before in exact.items():
        assert torch.equal(changed[name], before) == (name not in linear), name
    for name in linear:
        # GPT-2 stores (d_in, d_out).
        expected = rounded(exact[name].T).T if architecture == "gpt2" else rounded(exact[name])
        assert torch.equal(changed[name], expected), name


def test_each_adapter_of_a_stack_is_rounded_as_if_it_were_alone(
    tiny_models: Callable[..., Path], random_adapter: Callable[..., dict[str, torch.Tensor]]
) -> None:
    frozen = FrozenModel.load(ModelSpec(str(tiny_models("llama"))))
    adapters = {f"{seed}" * 64: random_adapter(frozen.model, TARGETS, 3, seed) for seed in range(3)}
    # So different in size that one scale for all of them would show.
    adapters = {
        digest: {name: tensor * 10**n for name, tensor in tensors.items()}
        for n, (digest, tensors) in enumerate(adapters.items())
    }
    alone = {
        digest: {name: rounded(tensor) for name, tensor in tensors.items()} for digest, tensors in adapters.items()
    }
    stack = rounded_stack(AdapterStack.of(adapters, 2.0, frozen))
    expected = AdapterStack.of(alone, 2.0, frozen)
    assert (stack.digests, stack.scaling, stack.modules.keys()) == (
        expected.digests,
        expected.scaling,
        expected.modules.keys(),
    )
    for name, (a, b) in stack.modules.items():
        assert torch.equal(a, expected.modules[name][0])
        assert torch.equal(b, expected.modules[name][1])


def test_a_stack_without_adapters_is_rounded_to_itself(tiny_models: Callable[..., Path]) -> None:
    frozen = FrozenModel.load(ModelSpec(str(tiny_models("llama"))))
    assert rounded_stack(AdapterStack.of({}, 2.0, frozen)).modules == {}

"""Adapters of every kind that PEFT writes are blended row by row as the sum over K says, one adapter after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.llm.paging import PagedStack, adapter_bytes
from service.llm.spec import ModelSpec
from service.records import AdapterKind, BuildConfig, Level

K, RANK = 8, 3
TEXTS = [[5, 6, 7, 8], [9, 10], [5, 11, 12]]
DENSE = torch.tensor([[0.1, 0.2, 0.05, 0.15, 0.1, 0.2, 0.1, 0.1], [0.0, 0.0, 0.3, 0.1, 0.2, 0.1, 0.1, 0.2]])
SPARSE = torch.tensor([[0.0, 0.7, 0.0, 0.0, 0.0, 0.3, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
HEAD = "base_model.model."

kind = pytest.mark.parametrize("kind", get_args(AdapterKind))
blend = pytest.mark.parametrize("weights", [DENSE, SPARSE], ids=["dense", "sparse"])


class Kind:
    """Random adapters of one kind for one model, and what each of them makes of a module's weight and bias."""

    def __init__(self, kind: AdapterKind, frozen: FrozenModel, targets: Sequence[str]) -> None:
        self.kind = kind
        self.targets = targets
        self.scaling = BuildConfig(adapter=kind, lora_rank=RANK, lora_alpha=6).adapter_scaling
        random = torch.Generator().manual_seed(5)
        modules = {
            name: _weight(module).shape
            for name, module in frozen.model.named_modules()
            if name.rpartition(".")[2] in targets
        }
        self.shared = self._shared(modules.values(), random) if kind == "vera" else {}
        self.adapters = {f"adapter-{k}": self._adapter(modules, random) for k in range(K)}

    def under(self, name: str, module: Any, adapter: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Weight (d_out, d_in) and bias of a module under one adapter alone, as the paper of its kind has it."""
        weight, bias, stem = _weight(module), module.bias, f"{HEAD}{name}"
        if self.kind == "ia3":
            gain = adapter[f"{stem}.ia3_l"]
            return gain * weight, None if bias is None else gain[:, 0] * bias
        if self.kind == "vera":
            b, d = adapter[f"{stem}.vera_lambda_b"].diag(), adapter[f"{stem}.vera_lambda_d"].diag()
            a_shared, b_shared = adapter["base_model.vera_A"], adapter["base_model.vera_B"]
            return weight + b @ b_shared[: len(weight)] @ d @ a_shared[:, : weight.shape[1]], bias
        changed = weight + self.scaling * adapter[f"{stem}.lora_B.weight"] @ adapter[f"{stem}.lora_A.weight"]
        if self.kind == "dora":
            norms = changed.norm(dim=1, keepdim=True)
            changed = adapter[f"{stem}.lora_magnitude_vector"][:, None] * changed / norms
        return changed, bias

    def merged(self, frozen: FrozenModel, weights: Sequence[float]) -> FrozenModel:
        """A model that holds the mixture of one row of weights: what is there, and each adapter's difference to it."""
        model = copy.deepcopy(frozen.model)
        for name, module in model.named_modules():
            if name.rpartition(".")[2] not in self.targets:
                continue
            untouched: Any = frozen.model.get_submodule(name)
            for weight, adapter in zip(weights, self.adapters.values(), strict=True):
                own_weight, own_bias = self.under(name, untouched, adapter)
                difference = weight * (own_weight - _weight(untouched))
                module.weight += difference.T if type(module).__name__ == "Conv1D" else difference
                if own_bias is not None:
                    module.bias += weight * (own_bias - untouched.bias)
        return FrozenModel(frozen.spec, model, frozen.tokenizer)

    def _shared(self, shapes: Any, random: torch.Generator) -> dict[str, Tensor]:
        d_out, d_in = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
        return {
            "base_model.vera_A": torch.randn(RANK, d_in, generator=random) / 3,
            "base_model.vera_B": torch.randn(d_out, RANK, generator=random) / 3,
        }

    def _adapter(self, modules: Mapping[str, torch.Size], random: torch.Generator) -> dict[str, Tensor]:
        tensors = dict(self.shared)
        for name, (d_out, d_in) in modules.items():
            for end, shape in self._shapes(d_out, d_in).items():
                tensors[f"{HEAD}{name}.{end}"] = torch.randn(shape, generator=random) / 5 + (end in _ABOUT_ONE)
        return tensors

    def _shapes(self, d_out: int, d_in: int) -> dict[str, tuple[int, ...]]:
        if self.kind == "ia3":
            return {"ia3_l": (d_out, 1)}
        if self.kind == "vera":
            return {"vera_lambda_b": (d_out,), "vera_lambda_d": (RANK,)}
        magnitude = {"lora_magnitude_vector": (d_out,)} if self.kind == "dora" else {}
        return {"lora_A.weight": (RANK, d_in), "lora_B.weight": (d_out, RANK), **magnitude}


_ABOUT_ONE = ("ia3_l", "lora_magnitude_vector", "vera_lambda_d")


def _weight(module: Any) -> Tensor:
    weight: Tensor = module.weight.detach()
    return weight.T if type(module).__name__ == "Conv1D" else weight


def _targets(architecture: str) -> tuple[str, ...]:
    return ("c_attn",) if architecture == "gpt2" else ("q_proj", "v_proj")


@kind
@blend
@pytest.mark.parametrize(
    "architecture",
    # Both with a bias, and one stores its weights the other way round; the others at length.
    ["qwen2", "gpt2", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("llama", "qwen3", "mistral"))],
)
def test_a_mixture_of_any_kind_equals_the_sum_over_its_adapters(
    tiny_models: Callable[..., Path], architecture: str, kind: AdapterKind, weights: Tensor
) -> None:
    frozen, plain = (FrozenModel.load(ModelSpec(str(tiny_models(architecture)))) for _ in range(2))
    with torch.no_grad():
        for module in (*frozen.model.modules(), *plain.model.modules()):
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                bias.copy_(torch.linspace(-0.5, 0.5, bias.numel()).view_as(bias))
        made = Kind(kind, plain, _targets(architecture))
        expected = [made.merged(plain, row).yes_no_logits_whole(TEXTS) for row in weights.tolist()]
        mixture = Mixture(frozen, made.targets)
        stack = AdapterStack.of(made.adapters, made.scaling, frozen)
        paged = PagedStack.paged(made.adapters, made.scaling, frozen, 3 * adapter_bytes(made.adapters, frozen) // K)
    for held in (stack, paged):
        for row, theirs in zip(weights, expected, strict=True):
            whole = mixture.yes_no_logits_whole(TEXTS, held, row.expand(len(TEXTS), -1), "ND")
            torch.testing.assert_close(whole, theirs, rtol=1e-4, atol=1e-4)
        packed = mixture.yes_no_logits_packed(TEXTS, [2, 1], [], held, weights, "ND")
        torch.testing.assert_close(packed, torch.cat([expected[0][:2], expected[1][2:]]), rtol=1e-4, atol=1e-4)
    assert (expected[0] - plain.yes_no_logits_whole(TEXTS)).abs().max() > 0.01


@kind
@pytest.mark.parametrize("level", ["ND", "D"])
def test_one_adapter_with_all_the_weight_is_itself_at_either_level(
    tiny_models: Callable[..., Path], kind: AdapterKind, level: Level
) -> None:
    frozen, plain = (FrozenModel.load(ModelSpec(str(tiny_models("llama")))) for _ in range(2))
    with torch.no_grad():
        made = Kind(kind, plain, _targets("llama"))
        alone = made.merged(plain, [0.0, 0.0, 1.0] + [0.0] * (K - 3))
    stack = AdapterStack.of(made.adapters, made.scaling, frozen)
    weights = torch.eye(K)[2].expand(len(TEXTS), -1)
    ours = Mixture(frozen, made.targets).yes_no_logits_whole(TEXTS, stack, weights, level)
    torch.testing.assert_close(ours, alone.yes_no_logits_whole(TEXTS), rtol=1e-4, atol=1e-4)


@kind
def test_without_any_weight_the_frozen_model_answers_alone(tiny_models: Callable[..., Path], kind: AdapterKind) -> None:
    frozen, plain = (FrozenModel.load(ModelSpec(str(tiny_models("llama")))) for _ in range(2))
    made = Kind(kind, plain, _targets("llama"))
    stack = AdapterStack.of(made.adapters, made.scaling, frozen)
    ours = Mixture(frozen, made.targets).yes_no_logits_whole(TEXTS, stack, torch.zeros(len(TEXTS), K), "ND")
    torch.testing.assert_close(ours, plain.yes_no_logits_whole(TEXTS), rtol=1e-5, atol=1e-5)

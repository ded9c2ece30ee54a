"""The per-row mixture of K LoRAs inside one forward pass, without merging any weights.

With all A stacked to `a_cat` (K·r, d_in) and all B to `b_cat` (d_out, K·r):

    u = a_cat x            one GEMM
    z_k = w_k u_k          non-decomposition level ND, eq. 6 of Hu et al. 2024
    z_k = w_k Σ_j w_j u_j  decomposition level D, eq. 5
    y += (alpha/r) b_cat z one GEMM

The weights w (B, K) and the stack travel in a scope that belongs to one call, so two calls can never share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from service.errors import ModelUnsuitable
from service.llm.frozen import Contexts, FrozenModel

_PREFIX = "base_model.model."  # how PEFT names the modules of the model it wraps
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class AdapterStack:
    """K adapters of one generation, stacked for every target module."""

    digests: tuple[str, ...]
    scaling: float  # lora_alpha / r
    modules: dict[str, tuple[Tensor, Tensor]]  # module name -> a_cat (K·r, d_in), b_cat (d_out, K·r)

    @classmethod
    def load(cls, folders: Mapping[str, Path], scaling: float, frozen: FrozenModel) -> AdapterStack:
        """Read PEFT folders (digest -> folder), in the order given."""
        return cls.of({digest: load_adapter(folder) for digest, folder in folders.items()}, scaling, frozen)

    @classmethod
    def of(cls, adapters: Mapping[str, Mapping[str, Tensor]], scaling: float, frozen: FrozenModel) -> AdapterStack:
        """Stack adapters given as PEFT state dicts (digest -> tensor name -> tensor)."""
        target = {"dtype": frozen.model.dtype, "device": frozen.device}
        first = next(iter(adapters.values()), {})
        modules = {}
        for module in sorted(name.removesuffix(_A) for name in first if name.endswith(_A)):
            a_cat = torch.cat([tensors[module + _A] for tensors in adapters.values()], dim=0)
            b_cat = torch.cat([tensors[module + _B] for tensors in adapters.values()], dim=1)
            modules[module.removeprefix(_PREFIX)] = (a_cat.to(**target), b_cat.to(**target))
        return cls(tuple(adapters), scaling, modules)


@dataclass(frozen=True, slots=True)
class _Blend:
    stack: AdapterStack
    weights: Tensor  # (B, K)
    level: str

    def delta(self, module: str, x: Tensor) -> Tensor:
        a_cat, b_cat = self.stack.modules[module]
        w = self.weights[:, None, :, None]  # (B, 1, K, 1)
        u = functional.linear(x, a_cat).unflatten(-1, (w.shape[2], -1))  # (B, T, K, r)
        z = w * u if self.level == "ND" else w * (w * u).sum(dim=2, keepdim=True)  # (B, T, K, r)
        return functional.linear(z.flatten(-2) * self.stack.scaling, b_cat)  # (B, T, d_out)


class Mixture:
    """Lets the frozen model answer with any mixture of a stack's adapters, row by row."""

    def __init__(self, frozen: FrozenModel, targets: Sequence[str]) -> None:
        self.frozen = frozen
        self._blend: ContextVar[_Blend | None] = ContextVar("blend", default=None)
        for name, module in target_modules(frozen, targets):
            self._attach(name, module)

    def answer(
        self, questions: Sequence[Sequence[int]], contexts: Contexts, stack: AdapterStack, weights: Tensor, level: str
    ) -> Tensor:
        """Activation `question`: logit differences (B,); the context was read by the frozen model alone."""
        with self._blending(stack, weights, level), torch.no_grad():
            return self.frozen.answer(questions, contexts)

    def answer_whole(
        self, prompts: Sequence[Sequence[int]], stack: AdapterStack, weights: Tensor, level: str
    ) -> Tensor:
        """Activation `prompt`: logit differences (B,); every token meets the adapters."""
        with self._blending(stack, weights, level), torch.no_grad():
            return self.frozen.answer_whole(prompts)

    @contextmanager
    def _blending(self, stack: AdapterStack, weights: Tensor, level: str) -> Iterator[None]:
        dtype, device = self.frozen.model.dtype, self.frozen.device
        token = self._blend.set(_Blend(stack, weights.to(dtype=dtype, device=device), level))
        try:
            yield
        finally:
            self._blend.reset(token)

    def _attach(self, name: str, module: nn.Module) -> None:
        def add_delta(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            blend = self._blend.get()
            return None if blend is None or not blend.stack.digests else output + blend.delta(name, inputs[0])

        module.register_forward_hook(add_delta)


def target_modules(frozen: FrozenModel, targets: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """The linear layers whose last name part is one of `targets`; the output layer is none of them.

    Raises:
        ModelUnsuitable: a target that names no such layer; the message lists the names there are.
    """
    head = frozen.model.get_output_embeddings()  # only two of its rows are read, so nothing can be attached to it
    layers: list[tuple[str, nn.Module]] = [
        (name, module)
        for name, module in frozen.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    named = [(name, module) for name, module in layers if name.rpartition(".")[2] in targets]
    missing = set(targets) - {name.rpartition(".")[2] for name, _ in named}
    if missing:
        there = sorted({name.rpartition(".")[2] for name, _ in layers})
        raise ModelUnsuitable(f"lora_targets {sorted(missing)} name no linear layer of this model; it has {there}")
    return named


def load_adapter(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter in PEFT's own format."""
    return load_file(folder / "adapter_model.safetensors")

"""The per-row mixture of K LoRAs inside one forward pass, without merging any weights.

With A (K, r, d_in) and B (K, r, d_out) of a module:

    u_k = A_k x            one GEMM for all adapters
    z_k = w_k u_k          non-decomposition level ND, eq. 6 of Hu et al. 2024
    z_k = w_k Σ_j w_j u_j  decomposition level D, eq. 5
    y += (alpha/r) Σ_k B_kᵀ z_k   one GEMM

Where a row has weight on few of many adapters, only those are gathered and multiplied: the others cost nothing.

The weights and the stack travel in a scope that belongs to one call, so two calls can never share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from service.errors import ModelUnsuitable
from service.llm.frozen import FrozenModel
from service.llm.packed import Prefix, Runs

WEIGHTS = "adapter_model.safetensors"  # the file's name in PEFT's own format
_PREFIX = "base_model.model."  # how PEFT names the modules of the model it wraps
_A, _B = ".lora_A.weight", ".lora_B.weight"
_SPARSE_FROM = 2  # times as many adapters as a row has weight on: below that, gathering costs more than it saves


@dataclass(frozen=True, slots=True)
class AdapterStack:
    """K adapters of one generation, stacked for every target module."""

    digests: tuple[str, ...]
    scaling: float  # lora_alpha / r
    modules: dict[str, tuple[Tensor, Tensor]]  # module name -> A (K, r, d_in), B (K, r, d_out)

    @classmethod
    def of(cls, adapters: Mapping[str, Mapping[str, Tensor]], scaling: float, frozen: FrozenModel) -> AdapterStack:
        """Stack adapters given as PEFT state dicts (digest -> tensor name -> tensor)."""
        target = {"dtype": frozen.model.dtype, "device": frozen.device}
        first = next(iter(adapters.values()), {})
        modules = {}
        for module in sorted(name.removesuffix(_A) for name in first if name.endswith(_A)):
            a = torch.stack([tensors[module + _A] for tensors in adapters.values()])
            b = torch.stack([tensors[module + _B].T for tensors in adapters.values()])
            modules[module.removeprefix(_PREFIX)] = (a.to(**target), b.contiguous().to(**target))
        return cls(tuple(adapters), scaling, modules)

    @property
    def rank(self) -> int:
        return next((a.shape[1] for a, _ in self.modules.values()), 0)


class _Dense:
    """Every adapter is multiplied. `weights` (B, T, K), T or B may be 1: they stand for all."""

    def __init__(self, stack: AdapterStack, weights: Tensor, level: str) -> None:
        self._stack = stack
        self._weights = weights[..., None]  # (B, T, K, 1)
        self._spread = (weights * stack.scaling).repeat_interleave(stack.rank, dim=-1)  # (B, T, K·r)
        self._level = level

    def add_delta(self, module: str, x: Tensor, y: Tensor) -> Tensor:
        """y (B, T, d_out) + what the adapters make of x (B, T, d_in)."""
        if module not in self._stack.modules:  # the adapters may be on upper layers only
            return y
        a, b = self._stack.modules[module]
        u = functional.linear(x, a.flatten(0, 1))  # (B, T, K·r)
        if self._level == "D":
            summed = (u.unflatten(-1, a.shape[:2]) * self._weights).sum(dim=-2)  # (B, T, r)
            u = summed.repeat(1, 1, a.shape[0])
        # In place: nobody else holds what the layer has just computed.
        return y.flatten(0, -2).addmm_(u.mul_(self._spread).flatten(0, -2), b.flatten(0, 1)).view_as(y)


class _Sparse:
    """Each run of tokens multiplies its own m adapters of largest weight; the others have none.

    `runs` divides the tokens of one packed row; without it every row is a run. `weights` is (R, K).
    """

    def __init__(self, stack: AdapterStack, weights: Tensor, level: str, runs: Runs | None, most: int) -> None:
        self._stack = stack
        kept, self._chosen = weights.topk(most, dim=1)  # (R, m)
        self._weights = kept[:, None, :, None]  # (R, 1, m, 1)
        self._level = level
        self._runs = runs

    def add_delta(self, module: str, x: Tensor, y: Tensor) -> Tensor:
        """y (B, T, d_out) + what the adapters make of x (B, T, d_in)."""
        if module not in self._stack.modules:
            return y
        a, b = (part[self._chosen] for part in self._stack.modules[module])  # (R, m, r, d)
        grid = x if self._runs is None else self._runs.spread(x[0], 0)  # (R, n, d_in)
        u = (grid @ a.flatten(1, 2).transpose(1, 2)).unflatten(-1, a.shape[1:3])  # (R, n, m, r)
        z = self._weights * u
        if self._level == "D":
            z = self._weights * z.sum(dim=2, keepdim=True)
        delta = (z.flatten(2) * self._stack.scaling) @ b.flatten(1, 2)  # (R, n, d_out)
        return y.add_(delta if self._runs is None else self._runs.join(delta, 0)[None])


class Mixture:
    """Lets the frozen model answer with any mixture of a stack's adapters, row by row."""

    def __init__(self, frozen: FrozenModel, targets: Sequence[str]) -> None:
        self.frozen = frozen
        self._blend: ContextVar[_Dense | _Sparse | None] = ContextVar("blend", default=None)
        for name, module in target_modules(frozen, targets):
            self._attach(name, module)

    def yes_no_logits_whole(
        self, prompts: Sequence[Sequence[int]], stack: AdapterStack, weights: Tensor, level: str
    ) -> Tensor:
        """Activation `prompt`: logit differences (B,) after whole prompts; every token meets the adapters."""
        with self._blending(stack, weights, level), torch.no_grad():
            return self.frozen.yes_no_logits_whole(prompts)

    def yes_no_logits_packed(
        self,
        texts: Sequence[Sequence[int]],
        runs: Sequence[int],
        prefixes: Sequence[Prefix],
        stack: AdapterStack,
        weights: Tensor,
        level: str,
    ) -> Tensor:
        """The same for consecutive texts in R runs, each with one prefix (or none) and one row of `weights` (R, K).

        Activation `question`: a prefix is what the frozen model alone made of the context.
        """
        found = []
        for part in self.frozen.passes(texts, runs):
            own = texts[part.texts]
            spread, tokens = self.frozen.architecture.spread(weights[part.runs], own, part.counts)
            with self._blending(stack, spread, level, tokens), torch.no_grad():
                found.append(self.frozen.yes_no_logits_packed(own, part.counts, prefixes[part.runs]))
        return found[0] if len(found) == 1 else torch.cat(found)

    @contextmanager
    def _blending(self, stack: AdapterStack, weights: Tensor, level: str, runs: Runs | None = None) -> Iterator[None]:
        token = self._blend.set(self._blend_of(stack, weights, level, runs) if stack.digests else None)
        try:
            yield
        finally:
            self._blend.reset(token)

    def _blend_of(self, stack: AdapterStack, weights: Tensor, level: str, runs: Runs | None) -> _Dense | _Sparse:
        count = max(1, int((weights != 0).sum(dim=1).max()))
        of_runs = weights.to(dtype=self.frozen.model.dtype, device=self.frozen.device)
        if count * _SPARSE_FROM <= weights.shape[1]:
            return _Sparse(stack, of_runs, level, runs, count)
        return _Dense(stack, of_runs[:, None] if runs is None else runs.repeat(of_runs)[None], level)

    def _attach(self, name: str, module: nn.Module) -> None:
        def add_delta(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            blend = self._blend.get()
            return None if blend is None else blend.add_delta(name, inputs[0], output)

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
    """The tensors of an adapter's folder in PEFT's own format."""
    return load_file(folder / WEIGHTS)


def adapter_tensors(files: Mapping[str, bytes]) -> dict[str, Tensor]:
    """The tensors of an adapter's files (name -> content) in PEFT's own format."""
    return load(files[WEIGHTS])

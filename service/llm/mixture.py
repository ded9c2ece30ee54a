"""The per-row mixture of K LoRAs inside one forward pass, without merging any weights.

With A (K, r, d_in) and B (K, r, d_out) of a module:

    u_k = A_k x            one GEMM for all adapters
    z_k = w_k u_k          non-decomposition level ND, eq. 6 of Hu et al. 2024
    z_k = w_k Σ_j w_j u_j  decomposition level D, eq. 5
    y += (alpha/r) Σ_k B_kᵀ z_k   one GEMM

Of an input embedding x is one-hot, so that A_k x is a column of A_k: d_in is the number of tokens.

Other kinds of adapters come to the same two factors, some with a gate on y besides: `adapter_formats` says how.

Where a row has weight on few of many adapters, only those are gathered and multiplied: the others cost nothing.

The weights and the stack travel in a scope that belongs to one call, so two calls can never share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from service.errors import ModelUnsuitable
from service.llm.adapter_formats import parts_of
from service.llm.decoder_only import DecoderOnly
from service.llm.frozen import FrozenModel
from service.llm.graphs import Graphs, Inputs
from service.llm.packed import Prefix, Runs
from service.llm.staging import sent
from service.records import Level

WEIGHTS = "adapter_model.safetensors"  # the file's name in PEFT's own format
_GROUPS_FROM = (9, 0)  # compute capability
_GROUPED_ALIGNMENT = 8  # columns: 16 bytes
_SPARSE_FROM = 2  # times as many adapters as a row has weight on: below that, gathering costs more than it saves


@dataclass(frozen=True, slots=True)
class AdapterStack:
    """K adapters of one generation, stacked for every target module."""

    digests: tuple[str, ...]
    scaling: float  # s: lora_alpha / r for LoRA
    modules: dict[str, tuple[Tensor, Tensor]]  # module name -> A (K, r, d_in), B (K, r, d_out)
    gates: dict[str, Tensor] = field(
        default_factory=dict
    )  # module name -> f and h (K, 2, d_out), where there is a gate

    @classmethod
    def of(
        cls,
        adapters: Mapping[str, Mapping[str, Tensor]],
        scaling: float,
        frozen: FrozenModel,
        device: str | None = None,
    ) -> AdapterStack:
        """Stack adapters given as PEFT state dicts (digest -> tensor name -> tensor), on the model's device or another."""
        target: dict[str, Any] = {"dtype": frozen.model.dtype, "device": device or frozen.device}
        all_parts = [parts_of(adapter, scaling, frozen) for adapter in adapters.values()]
        modules, gates = {}, {}
        for name in all_parts[0] if all_parts else ():
            parts = [parts[name] for parts in all_parts]
            b = torch.stack([part.b for part in parts]).contiguous()
            modules[name] = (torch.stack([part.a for part in parts]).to(**target), b.to(**target))
            gated = [part.gate for part in parts if part.gate is not None]
            if gated:
                gates[name] = torch.stack(gated).to(**target)
        return AdapterStack(tuple(adapters), scaling, modules, gates)

    def placed(self, weights: Tensor) -> tuple[AdapterStack, Tensor]:
        """The stack to multiply for rows of `weights` (R, K), and their weights over its adapters: here all of them."""
        return self, weights

    @property
    def rank(self) -> int:
        return next((a.shape[1] for a, _ in self.modules.values()), 0)


class _Dense:
    """Every adapter is multiplied. `weights` (B, T, K), T or B may be 1: they stand for all."""

    def __init__(self, stack: AdapterStack, weights: Tensor, level: Level) -> None:
        self._stack = stack
        self._weights = weights[..., None]  # (B, T, K, 1)
        self._spread = (weights * stack.scaling).repeat_interleave(stack.rank, dim=-1)  # (B, T, K·r)
        self._level = level

    def add_delta(self, module: str, x: Tensor, y: Tensor) -> Tensor:
        """y (B, T, d_out) + what the adapters make of x (B, T, d_in)."""
        if module not in self._stack.modules:  # the adapters may be on upper layers only
            return y
        y = self._gated(module, y)
        a, b = self._stack.modules[module]
        if not self._stack.rank:
            return y
        rows = a.flatten(0, 1)  # (K·r, d_in)
        u = functional.linear(x, rows) if x.is_floating_point() else functional.embedding(x, rows.T)  # (B, T, K·r)
        if self._level == "D":
            summed = (u.unflatten(-1, a.shape[:2]) * self._weights).sum(dim=-2)  # (B, T, r)
            u = summed.repeat(1, 1, a.shape[0])
        # In place: nobody else holds what the layer has just computed.
        return y.flatten(0, -2).addmm_(u.mul_(self._spread).flatten(0, -2), b.flatten(0, 1)).view_as(y)

    def _gated(self, module: str, y: Tensor) -> Tensor:
        gates = self._stack.gates.get(module)
        return y if gates is None else _gate(y, self._weights[..., 0] @ gates.flatten(1))


class _Sparse:
    """Each run of tokens multiplies its own m adapters of largest weight; the others have none.

    `runs` divides the tokens of one packed row; without it every row is a run. `weights` is (R, K).
    """

    def __init__(self, stack: AdapterStack, weights: Tensor, level: Level, runs: Runs | None, most: int) -> None:
        self._stack = stack
        kept, self._chosen = weights.topk(most, dim=1)  # (R, m)
        self._weights = kept[:, None, :, None]  # (R, 1, m, 1)
        self._level = level
        self._runs = runs

    def add_delta(self, module: str, x: Tensor, y: Tensor) -> Tensor:
        """y (B, T, d_out) + what the adapters make of x (B, T, d_in)."""
        if module not in self._stack.modules:
            return y
        y = self._gated(module, y)
        whole, b = self._stack.modules[module]
        if not self._stack.rank:
            return y
        b = b[self._chosen]  # (R, m, r, d_out)
        grid = x if self._runs is None else self._runs.spread(x[0], 0)  # (R, n, d_in); of an embedding (R, n)
        if x.is_floating_point():
            a = whole[self._chosen]  # (R, m, r, d_in)
            u = (grid @ a.flatten(1, 2).transpose(1, 2)).unflatten(-1, a.shape[1:3])  # (R, n, m, r)
        else:
            u = whole[self._chosen[:, None], :, grid[..., None]]  # (R, n, m, r)
        z = self._weights * u
        if self._level == "D":
            z = self._weights * z.sum(dim=2, keepdim=True)
        delta = (z.flatten(2) * self._stack.scaling) @ b.flatten(1, 2)  # (R, n, d_out)
        return y.add_(delta if self._runs is None else self._runs.join(delta, 0)[None])

    def _gated(self, module: str, y: Tensor) -> Tensor:
        gates = self._stack.gates.get(module)
        if gates is None:
            return y
        mixed = _mixed_gates(gates, self._chosen, self._weights[:, 0, :, 0])
        return _gate(y, mixed[:, None] if self._runs is None else self._runs.repeat(mixed)[None])


class _Grouped:
    """`_Sparse` for packed rows by two grouped GEMMs: no run is padded to the longest, whatever their lengths."""

    def __init__(self, stack: AdapterStack, weights: Tensor, level: Level, runs: Runs, most: int) -> None:
        self._stack = stack
        self._kept, self._chosen = weights.topk(most, dim=1)  # (R, m)
        self._runs = runs
        self._weights = runs.repeat(self._kept)[..., None]  # (N, m, 1)
        self._of_tokens = runs.repeat(self._chosen)  # (N, m)
        [self._ends] = sent(weights.device, torch.tensor(runs.lengths).cumsum(0).to(torch.int32))
        self._level = level

    def add_delta(self, module: str, x: Tensor, y: Tensor) -> Tensor:
        """y (1, N, d_out) + what the adapters make of x (1, N, d_in)."""
        if module not in self._stack.modules:
            return y
        y = self._gated(module, y)
        whole, b = self._stack.modules[module]
        b = b[self._chosen]  # (R, m, r, d_out)
        if x.is_floating_point():
            a = whole[self._chosen]  # (R, m, r, d_in)
            columns = functional.grouped_mm(x[0], a.flatten(1, 2).transpose(1, 2), offs=self._ends)  # (N, m·r)
            u = columns.unflatten(-1, a.shape[1:3])
        else:
            u = whole[self._of_tokens, :, x[0][:, None]]
        z = self._weights * u  # (N, m, r)
        if self._level == "D":
            z = self._weights * z.sum(dim=1, keepdim=True)
        scaled = (z * self._stack.scaling).flatten(1)
        return y.add_(functional.grouped_mm(scaled, b.flatten(1, 2), offs=self._ends)[None])

    def _gated(self, module: str, y: Tensor) -> Tensor:
        gates = self._stack.gates.get(module)
        if gates is None:
            return y
        return _gate(y, self._runs.repeat(_mixed_gates(gates, self._chosen, self._kept))[None])


def _mixed_gates(gates: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """(R, 2·d_out): of each run the gates (K, 2, d_out) of its `chosen` adapters (R, m) by their `weights` (R, m)."""
    return (weights[..., None] * gates.flatten(1)[chosen]).sum(dim=1)


def _gate(y: Tensor, mixed: Tensor) -> Tensor:
    """y ⊙ (1 + f) + h, in place, with f and h side by side in `mixed`."""
    factor, shift = mixed.chunk(2, dim=-1)
    return y.addcmul_(y, factor).add_(shift)


def has_grouped_gemms(device: torch.device, dtype: torch.dtype, capability: tuple[int, int] | None = None) -> bool:
    """Whether grouped GEMMs are one kernel there: elsewhere torch loops over the groups, and waits to learn where they end.

    `capability` is the GPU's; by default it is asked of it.
    """
    if device.type != "cuda" or dtype != torch.bfloat16 or not hasattr(functional, "grouped_mm"):
        return False
    return (torch.cuda.get_device_capability(device) if capability is None else capability) >= _GROUPS_FROM


def _grouped_takes(width: int) -> bool:
    return width > 0 and width % _GROUPED_ALIGNMENT == 0


class Mixture:
    """Lets the frozen model answer with any mixture of a stack's adapters, row by row."""

    def __init__(
        self, frozen: FrozenModel, targets: Sequence[str], grouped: bool | None = None, graphs: Graphs | None = None
    ) -> None:
        """`grouped`: few of many adapters by grouped GEMMs; by default where a GPU has them.

        `graphs` replays what one request asks; by default every pass is launched kernel by kernel.
        """
        self.frozen = frozen
        self._graphs = graphs
        self._grouped = has_grouped_gemms(frozen.device, frozen.model.dtype) if grouped is None else grouped
        self._blend: ContextVar[_Dense | _Sparse | _Grouped | None] = ContextVar("blend", default=None)
        for name, module in target_modules(frozen, targets):
            self._attach(name, module)

    def yes_no_logits_whole(
        self, prompts: Sequence[Sequence[int]], stack: AdapterStack, weights: Tensor, level: Level
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
        level: Level,
    ) -> Tensor:
        """Yes/no logits of consecutive texts in R runs, each with one prefix (or none) and one row of `weights` (R, K).

        Activation `question`: a prefix is what the frozen model alone made of the context.
        """
        if self._graphs is not None and len(runs) == len(prefixes) == 1 and stack.digests and self.frozen.packs:
            answers = self._replayed(self._graphs, texts, prefixes[0], *stack.placed(weights), level)
            if answers is not None:
                return answers
        found = []
        for part in self.frozen.passes(texts, runs):
            own = texts[part.texts]
            spread, tokens = self.frozen.architecture.spread(weights[part.runs], own, part.counts)
            with self._blending(stack, spread, level, tokens), torch.no_grad():
                found.append(self.frozen.yes_no_logits_packed(own, part.counts, prefixes[part.runs]))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _replayed(
        self,
        graphs: Graphs,
        texts: Sequence[Sequence[int]],
        prefix: Prefix,
        stack: AdapterStack,
        weights: Tensor,
        level: Level,
    ) -> Tensor | None:
        architecture = self.frozen.architecture
        if not isinstance(architecture, DecoderOnly):
            return None
        # More adapters than have weight may be gathered, so that few numbers of them are recorded.
        count = 1 << (max(1, int((weights != 0).sum())) - 1).bit_length()
        sparse = count * _SPARSE_FROM <= weights.shape[1]

        @torch.no_grad()
        def forward(given: Inputs) -> Tensor:
            blend: _Dense | _Sparse
            if sparse:
                blend = _Sparse(stack, given.weights, level, given.packing.runs, count)
            else:
                blend = _Dense(stack, given.weights[:, None], level)
            with self._blend_with(blend):
                return architecture.answer_tensors(given.ids, given.positions, given.last, given.packing)

        return graphs.answer(texts, prefix, weights, stack, (level, count if sparse else None), forward)

    @contextmanager
    def _blend_with(self, blend: _Dense | _Sparse | _Grouped | None) -> Iterator[None]:
        token = self._blend.set(blend)
        try:
            yield
        finally:
            self._blend.reset(token)

    @contextmanager
    def _blending(self, stack: AdapterStack, weights: Tensor, level: Level, runs: Runs | None = None) -> Iterator[None]:
        with self._blend_with(self._blend_of(*stack.placed(weights), level, runs) if stack.digests else None):
            yield

    def _blend_of(
        self, stack: AdapterStack, weights: Tensor, level: Level, runs: Runs | None
    ) -> _Dense | _Sparse | _Grouped:
        count = max(1, int((weights != 0).sum(dim=1).max()))
        [of_runs] = sent(self.frozen.device, weights.to(self.frozen.model.dtype))
        if count * _SPARSE_FROM <= weights.shape[1]:
            if self._grouped and runs is not None and _grouped_takes(count * stack.rank):
                return _Grouped(stack, of_runs, level, runs, count)
            return _Sparse(stack, of_runs, level, runs, count)
        return _Dense(stack, of_runs[:, None] if runs is None else runs.repeat(of_runs)[None], level)

    def _attach(self, name: str, module: nn.Module) -> None:
        def add_delta(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            blend = self._blend.get()
            return None if blend is None else blend.add_delta(name, inputs[0], output)

        module.register_forward_hook(add_delta)


def target_modules(frozen: FrozenModel, targets: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """The linear layers, and the input embedding, whose last name part is one of `targets`; the output layer is none of them,
    even where it shares its weights with the embedding.

    Raises:
        ModelUnsuitable: a target that names no such layer; the message lists the names there are.
    """
    head = frozen.model.get_output_embeddings()  # only two of its rows are read, so nothing can be attached to it
    embedding = _token_embedding(frozen)
    layers: list[tuple[str, nn.Module]] = [
        (name, module)
        for name, module in frozen.model.named_modules()
        if (isinstance(module, nn.Linear | Conv1D) and module is not head) or module is embedding
    ]
    named = [(name, module) for name, module in layers if name.rpartition(".")[2] in targets]
    missing = set(targets) - {name.rpartition(".")[2] for name, _ in named}
    if missing:
        there = sorted({name.rpartition(".")[2] for name, _ in layers})
        raise ModelUnsuitable(
            f"lora_targets {sorted(missing)} name no layer of this model that takes adapters; it has {there}"
        )
    return named


def _token_embedding(frozen: FrozenModel) -> Any:
    """What turns token ids into vectors; None where texts that adapters must not change are read by it, too."""
    return None if frozen.model.config.is_encoder_decoder else frozen.model.get_input_embeddings()


def load_adapter(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter's folder in PEFT's own format."""
    return load_file(folder / WEIGHTS)


def adapter_tensors(files: Mapping[str, bytes]) -> dict[str, Tensor]:
    """The tensors of an adapter's files (name -> content) in PEFT's own format."""
    return load(files[WEIGHTS])

"""Weights rounded to int8, to ask whether rounding brings back what was forgotten (Zhang et al. 2024 saw that it can).

Weight-only, symmetric, one scale for each output channel: w becomes round(w / s) · s, where s is the channel's largest |w|
over 127. It is computed in float32 and kept as such: only what rounding does to the answers matters here, not speed. Rounded
are the linear layers of the frozen model (not its output layer, of which two rows are read) and A and B of every adapter.
Validation rows stay as they were built.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adapters_store import Store
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack
from service.llm.spec import ModelSpec
from service.scoring.snapshot import Snapshot, Snapshots

_LARGEST = 127


def levels_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Levels (…, d_in), whole numbers from −127 to 127, and scales (…, 1), both float32: `weight` is nearly their product."""
    exact = weight.float()
    scale = exact.abs().amax(dim=-1, keepdim=True) / _LARGEST
    return torch.round(exact / torch.where(scale > 0, scale, 1.0)).clamp(-_LARGEST, _LARGEST), scale


def rounded(weight: Tensor) -> Tensor:
    """`weight` (…, d_in) rounded to 255 levels along its last dimension; no value moves by more than half a level."""
    levels, scale = levels_of(weight)
    return (levels * scale).to(weight.dtype)


def rounded_model(spec: ModelSpec) -> FrozenModel:
    """The frozen model with rounded linear layers. It keeps its digest, so that it serves the same generations."""
    frozen = FrozenModel.load(spec)
    head = frozen.model.get_output_embeddings()
    with torch.no_grad():
        for module in frozen.model.modules():
            if isinstance(module, Conv1D):
                module.weight.copy_(rounded(module.weight.T).T)  # stored as (d_in, d_out)
            elif isinstance(module, nn.Linear) and module is not head:
                module.weight.copy_(rounded(module.weight))
    return frozen


def rounded_stack(stack: AdapterStack) -> AdapterStack:
    """Every adapter rounded by itself, as if it were not stacked with the others."""
    modules = {
        name: (rounded(a), rounded(b.transpose(1, 2)).transpose(1, 2).contiguous())
        for name, (a, b) in stack.modules.items()
    }
    return replace(stack, modules=modules)


class RoundedSnapshots(Snapshots):
    """Generations whose adapters are rounded when they are loaded."""

    def __init__(self, store: Store, frozen: FrozenModel) -> None:
        super().__init__(store, frozen)
        self._rounded: Snapshot | None = None

    def of(self, generation: str | None) -> Snapshot:
        """The snapshot of a generation, with its adapters rounded."""
        exact = super().of(generation)
        if self._rounded is None or self._rounded.generation != exact.generation:
            self._rounded = replace(exact, stack=rounded_stack(exact.stack))
        return self._rounded

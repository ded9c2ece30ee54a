"""What PEFT's kinds of adapters come to in a module: two factors, and for some a gate on what the layer itself gave.

    y <- y + y ⊙ Σ_k w_k f_k + Σ_k w_k h_k + s Σ_k w_k B_k A_k x

* LoRA and rsLoRA (Kalajdzievski 2023): A and B as they are stored; s tells the two apart.
* DoRA (Liu et al. 2024): f = g - 1 with g = m / ‖W + s B A‖, a number for each output; B's rows are multiplied by g, and h
  takes the gate off the bias, which it is not about.
* VeRA (Kopiczko et al. 2024): A = diag(d) A₀ and B = diag(b) B₀, of an A₀ and a B₀ that all adapters of a generation share.
* (IA)³ (Liu et al. 2022): f = l - 1, and no factors.

So adapters of every kind are blended by the same sums, and a weight of 0 takes any of them away. A state dict says by its
tensors' names of which kind it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from service.llm.frozen import FrozenModel

Tensors = Mapping[str, Tensor]

_PREFIX = "base_model.model."  # how PEFT names the modules of the model it wraps
_VERA_A, _VERA_B = "base_model.vera_A", "base_model.vera_B"


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """An adapter in one module: A (r, d_in), B (r, d_out), and f beside h (2, d_out) where there is a gate."""

    a: Tensor
    b: Tensor
    gate: Tensor | None = None


def parts_of(adapter: Tensors, scaling: float, frozen: FrozenModel) -> dict[str, AdapterPart]:
    """Module name -> what an adapter, given as PEFT's state dict, does there; `scaling` is s."""
    parts = {}
    for name in sorted(adapter):
        for end, read in _READERS.items():
            if name.endswith(end):
                stem = name.removesuffix(end)
                parts[stem.removeprefix(_PREFIX)] = read(adapter, stem, scaling, frozen)
    return parts


def _lora(adapter: Tensors, stem: str, scaling: float, frozen: FrozenModel) -> AdapterPart:
    a, b = adapter[f"{stem}.lora_A.weight"], adapter[f"{stem}.lora_B.weight"]
    magnitude = adapter.get(f"{stem}.lora_magnitude_vector")
    if magnitude is None:
        return AdapterPart(a, b.T)
    module = frozen.model.get_submodule(stem.removeprefix(_PREFIX))
    weight = _weight(module)
    a, b, magnitude = (tensor.to(weight.device, torch.float32) for tensor in (a, b, magnitude))
    gain = magnitude / torch.linalg.norm(weight.float() + scaling * b @ a, dim=1)
    return AdapterPart(a, b.T * gain, _gate(gain, module, of_bias=False))


def _embedding_lora(adapter: Tensors, stem: str, scaling: float, frozen: FrozenModel) -> AdapterPart:
    return AdapterPart(adapter[f"{stem}.lora_embedding_A"], adapter[f"{stem}.lora_embedding_B"].T)


def _vera(adapter: Tensors, stem: str, scaling: float, frozen: FrozenModel) -> AdapterPart:
    d, b = adapter[f"{stem}.vera_lambda_d"], adapter[f"{stem}.vera_lambda_b"]
    weight = _weight(frozen.model.get_submodule(stem.removeprefix(_PREFIX)))
    shared_a, shared_b = adapter[_VERA_A][:, : weight.shape[1]], adapter[_VERA_B][: len(b)]
    return AdapterPart(d[:, None] * shared_a, (b[:, None] * shared_b).T)


def _ia3(adapter: Tensors, stem: str, scaling: float, frozen: FrozenModel) -> AdapterPart:
    module = frozen.model.get_submodule(stem.removeprefix(_PREFIX))
    gain = adapter[f"{stem}.ia3_l"].flatten().float()
    width = _weight(module).shape[1]
    return AdapterPart(gain.new_zeros(0, width), gain.new_zeros(0, len(gain)), _gate(gain, module, of_bias=True))


def _gate(gain: Tensor, module: nn.Module, *, of_bias: bool) -> Tensor:
    more = gain - 1
    bias = getattr(module, "bias", None)
    kept = torch.zeros_like(more) if of_bias or bias is None else -more * bias.detach().to(more)
    return torch.stack([more, kept])


def _weight(module: nn.Module) -> Tensor:
    """(d_out, d_in) of a linear layer."""
    weight = module.get_parameter("weight").detach()
    return weight.T if isinstance(module, Conv1D) else weight


_READERS: Mapping[str, Callable[[Tensors, str, float, FrozenModel], AdapterPart]] = {
    ".lora_A.weight": _lora,
    ".lora_embedding_A": _embedding_lora,
    ".vera_lambda_d": _vera,
    ".ia3_l": _ia3,
}

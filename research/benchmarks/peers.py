"""How others answer with several LoRAs, written as a competent user of PEFT would. Every score is logit(Yes) − logit(No).

All rows of a batch have the same number of tokens here, so that no peer pays for padding.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from research.benchmarks.models import one_of, twin
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, target_modules

_BLEND = "blend"


class PeftPeer:
    """The frozen model with the K adapters of a stack attached by PEFT; the weights' memory is shared with `frozen`."""

    def __init__(self, frozen: FrozenModel, stack: AdapterStack, targets: Sequence[str]) -> None:
        self._frozen = frozen
        self._targets = tuple(targets)
        self.names = list(stack.digests)
        self._model = attached(twin(frozen), stack, targets)

    def one(self, ids: Tensor, name: str) -> Tensor:
        """One adapter for the whole batch, unmerged: (B,)."""
        self._model.set_adapter(name)
        return self._differences(ids)

    def passes(self, ids: Tensor) -> Tensor:
        """SISA: the batch once under each adapter, (B, K); to be averaged as probabilities."""
        return torch.stack([self.one(ids, name) for name in self.names], dim=1)

    def passes_by_name(self, ids: Tensor) -> Tensor:
        """K passes by mixed batches: in each of K passes every row names another adapter, (B, K)."""
        count, rows = len(self.names), range(len(ids))
        found = torch.empty(len(ids), count, device=ids.device)
        for turn in range(count):
            chosen = [(row + turn) % count for row in rows]
            found[list(rows), chosen] = self._differences(ids, adapter_names=[self.names[k] for k in chosen])
        return found

    def blended(self, ids: Tensor, weights: Tensor, way: str) -> Tensor:
        """A weighted adapter made for each row, used once and dropped: (B,). `way` is PEFT's `combination_type`.

        `cat` and `svd` (at a rank at which nothing is lost) are eq. 6; `linear` is eq. 5, if it is given squared weights:
        PEFT puts a weight's root on A and on B.
        """
        return torch.cat([self._blend(ids[n : n + 1], weights[n].tolist(), way) for n in range(len(ids))])

    def _blend(self, ids: Tensor, weights: list[float], way: str) -> Tensor:
        given = [w * w for w in weights] if way == "linear" else weights
        rank = {"svd_rank": self._lossless_rank()} if way == "svd" else {}
        self._model.add_weighted_adapter(self.names, given, _BLEND, combination_type=way, **rank)
        self._model.set_adapter(_BLEND)
        try:
            return self._differences(ids)
        finally:
            self._model.set_adapter(self.names[0])
            self._model.delete_adapter(_BLEND)

    def _lossless_rank(self) -> int:
        configs: Any = self._model.peft_config
        layers: list[Any] = [module for _, module in target_modules(self._frozen, self._targets)]
        narrowest = min(int(min(layer.weight.shape)) for layer in layers)
        return min(sum(int(configs[name].r) for name in self.names), narrowest)

    def _differences(self, ids: Tensor, **options: Any) -> Tensor:
        return differences(self._model, self._frozen, ids, **options)


def merged(frozen: FrozenModel, stack: AdapterStack, k: int, targets: Sequence[str]) -> FrozenModel:
    """A model of its own into whose weights adapter `k` was added for good."""
    whole = attached(twin(frozen, sharing=False), one_of(stack, k), targets).merge_and_unload()
    return FrozenModel(frozen.spec, whole, frozen.tokenizer)


def attached(frozen: FrozenModel, stack: AdapterStack, targets: Sequence[str]) -> PeftModel:
    """PEFT's model of all adapters of `stack`, named by their digests; its layers are put into `frozen` itself."""
    rank = stack.rank
    lora = LoraConfig(
        r=rank,
        lora_alpha=round(stack.scaling * rank),
        target_modules=list(targets),
        fan_in_fan_out=any(isinstance(module, Conv1D) for _, module in target_modules(frozen, targets)),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT asks transformers for a flag by its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        model: Any = get_peft_model(frozen.model, lora, adapter_name=stack.digests[0], autocast_adapter_dtype=False)
        for name in stack.digests[1:]:
            model.add_adapter(name, copy.copy(lora), autocast_adapter_dtype=False)
    for k, name in enumerate(stack.digests):
        set_peft_model_state_dict(model, _peft_names(one_of(stack, k)), adapter_name=name)
    whole: PeftModel = model.eval().requires_grad_(False)
    return whole


def differences(model: Any, frozen: FrozenModel, ids: Tensor, **options: Any) -> Tensor:
    """logit(Yes) − logit(No) after the last token of each row, (B,) float32, with the output layer at that token only."""
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=1, **options).logits[:, -1].float()
    found: Tensor = logits[:, frozen.tokenizer.yes] - logits[:, frozen.tokenizer.no]
    return found


def _peft_names(stack: AdapterStack) -> dict[str, Tensor]:
    """The one adapter of `stack` under PEFT's names."""
    tensors = {}
    for name, (a, b) in stack.modules.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a[0]
        tensors[f"base_model.model.{name}.lora_B.weight"] = b[0].T.contiguous()
    return tensors

"""What an unlearning method asks of a language model, and the causal models that answer it.

The port is small: logits of the two answers, the parameters that may be trained, copies of them, and their rounding. Methods
know nothing else, so another architecture needs one more class.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from typing import Any, Protocol

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from research.evaluation.quantized import rounded
from service.errors import ModelUnsuitable
from service.llm import packed
from service.llm.decoder_only import DecoderOnly
from service.llm.frozen import FrozenModel
from service.llm.mixture import target_modules
from service.llm.packed import Packing, PrefixGrid, Runs
from service.llm.spec import ModelSpec
from service.records import BuildConfig, Sample

State = Mapping[str, Tensor]  # every parameter by its name
Prompt = list[int]

_ADAPTER = "lora_"  # in the names of PEFT's parameters


class Part(StrEnum):
    """Which parameters a method trains."""

    FULL = "full"
    LORA = "lora"


class Learner(Protocol):
    """A language model with adapters, of which every parameter may be trained. B prompts, vocabulary of V tokens."""

    def encode(self, samples: Sequence[Sample], item_type: str) -> list[Prompt]:
        """Prompts as token ids."""
        ...

    def answers(self, prompts: Sequence[Prompt]) -> Tensor:
        """Logits of No and of Yes after each prompt, (B, 2) float32, with a way back to the parameters."""
        ...

    def vocabulary(self, prompts: Sequence[Prompt]) -> Tensor:
        """Logits of every token after each prompt, (B, V) float32."""
        ...

    def parameters(self, part: Part) -> list[nn.Parameter]:
        """The parameters of one part; from now on these alone have gradients."""
        ...

    def state(self) -> State:
        """A copy of every parameter."""
        ...

    def restore(self, state: State) -> None:
        """Make every parameter what it was in that copy."""
        ...

    def rounded(self, state: State) -> State:
        """That state with the weights of its linear layers rounded to int8; of adapters A and B each by itself."""
        ...


class CausalLearner:
    """A causal model that is read in packed rows, with PEFT's LoRA beside it. New adapters change nothing: B is 0."""

    def __init__(self, spec: ModelSpec, config: BuildConfig) -> None:
        """Raises ModelUnsuitable as `FrozenModel.load`, for no causal model, and for `lora_targets` that it does not have."""
        self._frozen = FrozenModel.load(spec)
        if not isinstance(self._frozen.architecture, DecoderOnly):
            raise ModelUnsuitable(
                f"model {spec.name!r} is no causal language model; unlearning is compared on these alone"
            )
        self._model: Any = self._frozen.model
        self._packs = self._frozen.packs
        self._head: Any = self._model.get_output_embeddings()
        linear = target_modules(self._frozen, config.lora_targets)
        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            target_modules=list(config.lora_targets),
            fan_in_fan_out=any(isinstance(module, Conv1D) for _, module in linear),
            task_type="CAUSAL_LM",
        )
        torch.manual_seed(config.seed)
        with warnings.catch_warnings():
            # PEFT asks transformers for a flag by its old name; nothing of ours can change that.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            get_peft_model(self._model, lora)  # puts its layers into the model itself
        self._tokenizer = self._frozen.tokenizer

    def encode(self, samples: Sequence[Sample], item_type: str) -> list[Prompt]:
        """Context and question of each sample as one text."""
        contexts = self._tokenizer.contexts([sample.history for sample in samples], item_type)
        questions = self._tokenizer.questions([sample.target for sample in samples], item_type)
        return [context + question for context, question in zip(contexts, questions, strict=True)]

    def answers(self, prompts: Sequence[Prompt]) -> Tensor:
        """Logits of No and of Yes, (B, 2) float32."""
        rows = self._head.weight[[self._tokenizer.no, self._tokenizer.yes]]
        logits: Tensor = self._last(prompts).float() @ rows.float().T
        return logits

    def vocabulary(self, prompts: Sequence[Prompt]) -> Tensor:
        """Logits of all tokens, (B, V) float32."""
        logits: Tensor = self._last(prompts).float() @ self._head.weight.float().T
        return logits

    def parameters(self, part: Part) -> list[nn.Parameter]:
        """All of the model's own, or the adapters' alone."""
        found = []
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_((_ADAPTER in name) == (part is Part.LORA))
            if parameter.requires_grad:
                found.append(parameter)
        return found

    def state(self) -> State:
        """Copies; weights that are tied are there once."""
        return {name: parameter.detach().clone() for name, parameter in self._model.named_parameters()}

    def restore(self, state: State) -> None:
        """In place, so that optimizers keep their parameters."""
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(state[name])

    def rounded(self, state: State) -> State:
        """All linear layers but the output layer, of which two rows are read."""
        changed = dict(state)
        for name, module in self._model.named_modules():
            weight = f"{name}.weight"
            if isinstance(module, Conv1D):
                changed[weight] = rounded(state[weight].T).T  # stored as (d_in, d_out)
            elif isinstance(module, nn.Linear) and module is not self._head:
                changed[weight] = rounded(state[weight])
        return changed

    def _last(self, prompts: Sequence[Prompt]) -> Tensor:
        """The last layer where each prompt ends, (B, H)."""
        lengths = [len(prompt) for prompt in prompts]
        if not self._packs:
            return self._last_padded(prompts, lengths)
        device = self._frozen.device
        runs = Runs(lengths, device)
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(device)
        with packed.packing(Packing(runs, runs, PrefixGrid.of([]))):
            read = self._model.base_model(input_ids=ids[None], position_ids=positions[None], use_cache=False)
        hidden: Tensor = read.last_hidden_state[0]
        return hidden[[end - 1 for end in accumulate(lengths)]]

    def _last_padded(self, prompts: Sequence[Prompt], lengths: Sequence[int]) -> Tensor:
        # Right padding: with a causal mask no real token ever sees a pad.
        ids = nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
        mask = (torch.arange(ids.shape[1])[None] < torch.tensor(lengths)[:, None]).long()
        device = self._frozen.device
        read = self._model.base_model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
        hidden: Tensor = read.last_hidden_state
        return hidden[torch.arange(len(lengths)), torch.tensor(lengths) - 1]

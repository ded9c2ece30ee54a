"""One shard's samples -> one adapter, with PEFT. Beside the benchmark's peers the only file that knows PEFT.

All adapters start from the same A and from B = 0, so that averaging them (eq. 5) stays meaningful. Batches are made once
from the samples' canonical order; every epoch visits them in an order drawn from the digest of its own recipe. With
activation `question` the contexts carry no gradient, so the frozen model reads each of them once and all epochs reuse its keys
and values, as far as they fit into memory. With `adapt_from_layer` the way back ends at the first layer that has adapters.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from service.build.reading import read_keys_values
from service.build.workforce import Report
from service.errors import ModelUnsuitable
from service.llm.encoder import ModelSpec
from service.llm.frozen import Contexts, FrozenModel
from service.llm.mixture import target_modules
from service.records import BuildConfig

_WARMUP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Lesson:
    """A sample as token ids."""

    context: list[int]
    question: list[int]
    liked: bool


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """All that decides an adapter's bytes; `lessons` in canonical order."""

    recipe: str  # digest; the order of batches is drawn from it
    model: ModelSpec
    invocation: list[int]
    lessons: tuple[Lesson, ...]
    config: BuildConfig
    context_memory: int = 2**30  # bytes of keys and values kept between epochs; no bit depends on it


def train_adapter(task: TrainingTask, report: Report) -> dict[str, bytes]:
    """The files of the adapter in PEFT's format: name -> content. Reports one step an epoch."""
    config = task.config
    frozen = FrozenModel.load(task.model)
    torch.manual_seed(config.seed)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=list(config.lora_targets),
        layers_to_transform=_adapted_layers(frozen, config.adapt_from_layer),
        fan_in_fan_out=any(isinstance(module, Conv1D) for _, module in target_modules(frozen, config.lora_targets)),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT asks transformers for a flag by its old name; nothing of ours can change that.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        model: Any = get_peft_model(frozen.model, lora)
    _fit(frozen, model, task, report)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    return {
        "adapter_model.safetensors": safetensors.torch.save(dict(sorted(tensors.items())), {"format": "pt"}),
        "adapter_config.json": _peft_config(lora, task),
    }


def _adapted_layers(frozen: FrozenModel, first: int) -> list[int] | None:
    """As PEFT wants them; None means all.

    Raises:
        ModelUnsuitable: the model ends below the first one.
    """
    if first >= frozen.layers:
        raise ModelUnsuitable(
            f"adapt_from_layer {first} leaves no layer for adapters: this model's layers are 0 to {frozen.layers - 1}"
        )
    return list(range(first, frozen.layers)) if first else None


def _fit(frozen: FrozenModel, model: Any, task: TrainingTask, report: Report) -> None:
    config = task.config
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batches = [task.lessons[i : i + config.batch_size] for i in range(0, len(task.lessons), config.batch_size)]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    steps = config.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    order = torch.Generator().manual_seed(int(task.recipe[:15], 16))
    reader = _ContextReader(frozen, model, task.context_memory)
    for _ in range(config.epochs):
        for number in torch.randperm(len(batches), generator=order).tolist():
            batch = batches[number]
            if config.activation == "question":
                difference = frozen.answer([lesson.question for lesson in batch], reader.read(number, batch))
            else:
                difference = frozen.answer_whole([lesson.context + lesson.question for lesson in batch])
            _step(difference, batch, optimizer)
            schedule.step()
        report(1)


def _step(difference: Tensor, batch: Sequence[Lesson], optimizer: torch.optim.Optimizer) -> None:
    # With y in {Yes, No} the likelihood of eq. 1 over the two answers is a logistic of the logit difference.
    liked = torch.tensor([float(lesson.liked) for lesson in batch], device=difference.device)
    loss = functional.binary_cross_entropy_with_logits(difference, liked)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _rate(step: int, steps: int) -> float:
    warmup = max(1, int(steps * _WARMUP_SHARE))
    return (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup)


class _ContextReader:
    """Reads the contexts of a batch without the adapter; keeps what fits into `room` bytes.

    A batch that is read again gives the same bits, so the room decides the time only.
    """

    def __init__(self, frozen: FrozenModel, model: Any, room: int) -> None:
        self._frozen = frozen
        self._model = model
        self._kept: dict[int, Contexts] = {}
        self._room = room

    def read(self, number: int, batch: Sequence[Lesson]) -> Contexts:
        if number in self._kept:
            return self._kept[number]
        with self._model.disable_adapter():
            contexts = read_keys_values(self._frozen, [lesson.context for lesson in batch])
        if contexts.nbytes <= self._room:
            self._room -= contexts.nbytes
            self._kept[number] = contexts
        return contexts


def _peft_config(lora: LoraConfig, task: TrainingTask) -> bytes:
    content = lora.to_dict()
    # Where the model lies is no property of the adapter; which one it is, the generation's manifest says by digest.
    content["base_model_name_or_path"] = None
    content["inference_mode"] = True
    if task.config.activation == "question":
        content["alora_invocation_tokens"] = task.invocation
    return (json.dumps(_plain(content), indent=2, sort_keys=True) + "\n").encode()


def _plain(value: Any) -> Any:
    # PEFT holds sets and enumerations; a set's order changes from process to process.
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(entry) for entry in value)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return getattr(value, "value", value)

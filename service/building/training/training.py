"""One shard's samples -> one adapter, with PEFT. Beside the benchmark's peers the only file that knows PEFT.

All adapters start from the same A and from B = 0 (on an embedding from A = 0 and the same B, as PEFT has it), so that
averaging them (eq. 5) stays meaningful. Batches are made once from the samples' canonical order; every epoch visits them in
an order drawn from the digest of its own recipe. With activation `question` the contexts carry no gradient, so the frozen
model reads each of them once, or an earlier build did, and all epochs reuse its keys and values. With `adapt_from_layer` the
way back ends at the first layer that has adapters.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from peft import IA3Config, LoraConfig, PeftConfig, VeraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from service.building.workers.prefill import once_each, read_together
from service.building.workers.prefill_cache import Kept, Loan, Reader
from service.building.workers.process_pool import Report
from service.errors import ModelUnsuitable
from service.llm.frozen import FrozenModel
from service.llm.mixture import target_modules
from service.llm.packed import Prefix, PrefixGrid
from service.llm.spec import ModelSpec
from service.records import Activation, BuildConfig

_WARMUP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """A sample as token ids."""

    context: list[int]
    question: list[int]
    liked: bool
    negative: bool = False  # the target was not met


def contexts_of(encoded_samples: Sequence[EncodedSample]) -> tuple[list[list[int]], list[int]]:
    """What is read for one person's samples, and which of it is each sample's context: a like and its negatives share one."""
    contexts = [encoded.context for encoded in encoded_samples]
    # Without negatives every context is read, even twice: what older versions read so is named by it.
    shared = any(encoded.negative for encoded in encoded_samples)
    return once_each(contexts) if shared else (contexts, list(range(len(contexts))))


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """All that decides an adapter's bytes, and what earlier builds read for it; `encoded_samples` in canonical order."""

    recipe: str  # digest; the order of batches is drawn from it
    model: ModelSpec
    invocation: list[int]
    encoded_samples: tuple[EncodedSample, ...]
    people: tuple[tuple[int, ...], ...]  # of each person the numbers of their samples
    config: BuildConfig
    loan: Loan = field(default_factory=Loan)
    prefix_memory: int = 2**30  # bytes; a shard whose contexts would take more is read batch by batch


@dataclass(frozen=True, slots=True)
class Trained:
    """An adapter's files in PEFT's format (name -> content), and what was read and left for later builds."""

    files: dict[str, bytes]
    left: dict[str, Kept]


def train_adapter(task: TrainingTask, report: Report) -> Trained:
    """Reports one step an epoch."""
    config = task.config
    frozen = FrozenModel.load(task.model)
    torch.manual_seed(config.seed)
    peft_config = _peft_config(frozen, config)
    with warnings.catch_warnings():
        # PEFT asks transformers for a flag by its old name; nothing of ours can change that.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        # An output layer that shares the embedding's weights is meant to stay as it is.
        warnings.filterwarnings("ignore", message=".*ensure_weight_tying.*", category=UserWarning)
        model: Any = get_peft_model(frozen.model, peft_config)
    prefixes = _Prefixes(frozen, model, task)
    _fit(frozen, model, task, prefixes, report)
    learned = get_peft_model_state_dict(
        model, save_embedding_layers=False
    )  # the frozen embedding is no part of an adapter
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learned.items()}
    files = {
        "adapter_model.safetensors": safetensors.torch.save(dict(sorted(tensors.items())), {"format": "pt"}),
        "adapter_config.json": _config_file(peft_config, task),
    }
    return Trained(files, prefixes.left)


def _peft_config(frozen: FrozenModel, config: BuildConfig) -> PeftConfig:
    """What makes PEFT put adapters of this kind where the configuration wants them.

    Raises:
        ModelUnsuitable: the configuration names no layer of the model that can have such adapters.
    """
    targets, layers = target_modules(frozen, config.lora_targets), _adapted_layers(frozen, config)
    if config.adapter not in ("lora", "rslora") and any(
        isinstance(module, torch.nn.Embedding) for _, module in targets
    ):
        raise ModelUnsuitable(
            f"lora_targets name the embedding, on which adapters of kind {config.adapter} cannot be; lora and rslora can"
        )
    fan_in_fan_out = any(isinstance(module, Conv1D) for _, module in targets)
    common: dict[str, Any] = {"fan_in_fan_out": fan_in_fan_out, "task_type": frozen.architecture.task_type}
    if config.adapter in ("lora", "rslora", "dora"):
        return LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            target_modules=list(config.lora_targets),
            exclude_modules=_excluded(frozen, config.activation),
            layers_to_transform=layers,
            lora_dropout=0.0,
            bias="none",
            use_rslora=config.adapter == "rslora",
            use_dora=config.adapter == "dora",
            **common,
        )
    named = _full_names(frozen, config, [name for name, _ in targets], layers)
    if config.adapter == "vera":
        return VeraConfig(r=config.lora_rank, target_modules=named, projection_prng_key=config.seed, **common)
    return IA3Config(target_modules=named, feedforward_modules=[], **common)


def _full_names(
    frozen: FrozenModel, config: BuildConfig, targets: Sequence[str], layers: Collection[int] | None
) -> list[str]:
    """Those of the targets that get adapters, for kinds that PEFT can neither keep to layers nor keep out of modules."""
    apart = frozen.architecture.without_adapters(config.activation)
    return [
        name
        for name in targets
        if (apart is None or not name.startswith(f"{apart}.")) and (layers is None or _layer_of(name) in layers)
    ]


def _layer_of(name: str) -> int:
    """The number of the layer that a module lies in: the first one in its name."""
    return int(next(part for part in name.split(".") if part.isdigit()))


def _adapted_layers(frozen: FrozenModel, config: BuildConfig) -> list[int] | None:
    """The layers that adapters are on, for PEFT's configuration; None means all.

    Raises:
        ModelUnsuitable: the model ends below the first one, or adapters are to be on the embedding, which lies below it.
    """
    first = config.adapt_from_layer
    embeds = any(isinstance(module, torch.nn.Embedding) for _, module in target_modules(frozen, config.lora_targets))
    if first and embeds:
        raise ModelUnsuitable(f"adapt_from_layer {first} leaves out the embedding, which lora_targets names")
    if first >= frozen.layers:
        raise ModelUnsuitable(
            f"adapt_from_layer {first} leaves no layer for adapters: this model's layers are 0 to {frozen.layers - 1}"
        )
    return list(range(first, frozen.layers)) if first else None


def _excluded(frozen: FrozenModel, activation: Activation) -> str | None:
    """A pattern of the modules that get no adapter, whatever their names end in."""
    apart = frozen.architecture.without_adapters(activation)
    return None if apart is None else rf"{re.escape(apart)}\..*"


def _fit(frozen: FrozenModel, model: Any, task: TrainingTask, prefixes: _Prefixes, report: Report) -> None:
    config = task.config
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batches = list(torch.arange(len(task.encoded_samples)).split(config.batch_size))
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    steps = config.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    order = torch.Generator().manual_seed(int(task.recipe[:15], 16))
    for _ in range(config.epochs):
        for number in torch.randperm(len(batches), generator=order).tolist():
            batch = batches[number].tolist()
            encoded_samples = [task.encoded_samples[assignment] for assignment in batch]
            texts = [prefixes.unread(encoded) + encoded.question for encoded in encoded_samples]
            difference = frozen.yes_no_logits_packed(texts, [1] * len(texts), prefixes.read(batch))
            _step(difference, encoded_samples, optimizer)
            schedule.step()
        report(1)


def _step(difference: Tensor, batch: Sequence[EncodedSample], optimizer: torch.optim.Optimizer) -> None:
    # With y in {Yes, No} the likelihood of eq. 1 over the two answers is a logistic of the logit difference.
    liked = torch.tensor([float(encoded.liked) for encoded in batch], device=difference.device)
    loss = functional.binary_cross_entropy_with_logits(difference, liked)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _rate(step: int, steps: int) -> float:
    warmup = max(1, int(steps * _WARMUP_SHARE))
    return (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup)


class _Prefixes:
    """What the frozen model, without the adapter, made of the samples' contexts; with activation `prompt` nothing.

    Person by person; or, where all of it would be too much, batch by batch. Which of the two, and so every bit, is a function
    of the task; how many batches stay side by side for the next epoch is not, and decides the time alone.
    """

    def __init__(self, frozen: FrozenModel, model: Any, task: TrainingTask) -> None:
        self._frozen = frozen
        self._model = model
        self._encoded_samples = task.encoded_samples
        self._first = task.config.activation == "question"  # contexts are read before the questions
        self._prefixes: dict[int, Prefix] = {}  # by the number of the sample
        self._batches: dict[int, PrefixGrid] = {}  # by the number of the first sample
        self._room = _spare_bytes(frozen.device, task.prefix_memory)
        self._reader = Reader(frozen, task.loan, embed=False)
        if self._first:
            self._read_people(task)

    @property
    def left(self) -> dict[str, Kept]:
        """What was left for later builds."""
        return self._reader.left

    def unread(self, encoded: EncodedSample) -> list[int]:
        """The tokens of its context that are still to be read with the question."""
        return [] if self._first else encoded.context

    def read(self, batch: Sequence[int]) -> PrefixGrid:
        """What was read of the contexts of a batch, whose samples are always asked for together."""
        if not self._first:
            return PrefixGrid.of([])
        return self._batches.get(batch[0]) or self._side_by_side(batch)

    def _side_by_side(self, batch: Sequence[int]) -> PrefixGrid:
        if self._prefixes:
            grid = PrefixGrid.of([self._prefixes[number] for number in batch])
        else:
            with self._model.disable_adapter():
                grid = PrefixGrid.of(read_together(self._frozen, self._contexts(batch), embed=False).prefixes())
        if grid.nbytes <= self._room:
            self._room -= grid.nbytes
            self._batches[batch[0]] = grid
        return grid

    def _read_people(self, task: TrainingTask) -> None:
        own = [contexts_of([task.encoded_samples[number] for number in numbers]) for numbers in task.people]
        tokens = sum(len(context) for contexts, _ in own for context in contexts)
        with self._model.disable_adapter():
            for numbers, (contexts, which) in zip(task.people, own, strict=True):
                prefill = self._reader.read(contexts)
                if prefill.nbytes * tokens > task.prefix_memory * sum(prefill.lengths):
                    return
                self._room -= prefill.nbytes
                prefixes = prefill.prefixes()
                self._prefixes.update((number, prefixes[read]) for number, read in zip(numbers, which, strict=True))

    def _contexts(self, numbers: Sequence[int]) -> list[list[int]]:
        return [self._encoded_samples[number].context for number in numbers]


def _spare_bytes(device: torch.device, at_least: int) -> int:
    """What may be kept beside model, activations and gradients."""
    if device.type != "cuda":
        return at_least
    free, _ = torch.cuda.mem_get_info(device)
    return max(at_least, free // 2)


def _config_file(peft_config: PeftConfig, task: TrainingTask) -> bytes:
    content = peft_config.to_dict()
    # Where the model lies is no property of the adapter; which one it is, the generation's manifest says by digest.
    content["base_model_name_or_path"] = None
    content["inference_mode"] = True
    # PEFT knows "only from these tokens on" of LoRA alone; of other kinds the generation's manifest says it.
    if task.config.activation == "question" and task.invocation and task.config.adapter in ("lora", "rslora"):
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

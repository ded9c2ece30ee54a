"""What every adapter gets wrong on every validation sample, and where that sample stands: errors[v, k], embeddings[v].

Each user's rows are computed in batches of their own, one adapter at a time: a float's last bits depend on its batch mates,
and what is stored of one user must not depend on another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.building.training.training import EncodedSample, contexts_of
from service.building.workers.prefill_cache import Kept, Loan, Reader
from service.building.workers.process_pool import Report
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.llm.packed import Prefix
from service.llm.spec import ModelSpec
from service.records import Activation

Floats = NDArray[np.float32]
_BATCH = 32  # rows; what many more make on the way does not fit into a processor's caches


@dataclass(frozen=True, slots=True)
class ValidationTask:
    """Some users' samples, and the adapters (digest -> PEFT tensors as numpy) whose errors on them are wanted."""

    model: ModelSpec
    targets: tuple[str, ...]
    scaling: float
    activation: Activation
    users: tuple[tuple[EncodedSample, ...], ...]
    adapters: dict[str, dict[str, Floats]]
    loan: Loan = field(default_factory=Loan)


@dataclass(frozen=True, slots=True)
class UserValidation:
    """The V rows of one user: embeddings (V, H) and, by adapter digest, errors (V,) = 1 − P(y|x)."""

    embeddings: Floats
    errors: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Validated:
    """One result a user, in the task's order, and what was read and left for later builds."""

    users: list[UserValidation]
    left: dict[str, Kept]


def validate_users(task: ValidationTask, report: Report) -> Validated:
    """Reports one step a user."""
    frozen = FrozenModel.load(task.model)
    mixture = Mixture(frozen, task.targets)
    stacks = {
        digest: AdapterStack.of({digest: _tensors(adapter)}, task.scaling, frozen)
        for digest, adapter in task.adapters.items()
    }
    reader = Reader(frozen, task.loan, embed=True)
    results = []
    for encoded_samples in task.users:
        contexts, which = contexts_of(encoded_samples)
        read = reader.read(contexts).prefixes()
        prefixes = [read[number] for number in which]
        results.append(_validate(mixture, stacks, encoded_samples, prefixes, task.activation))
        report(1)
    return Validated(results, reader.left)


def _validate(
    mixture: Mixture,
    stacks: dict[str, AdapterStack],
    encoded_samples: tuple[EncodedSample, ...],
    prefixes: list[Prefix],
    activation: Activation,
) -> UserValidation:
    batches = [slice(i, i + _BATCH) for i in range(0, len(encoded_samples), _BATCH)]
    errors = {
        digest: np.concatenate(
            [_errors(mixture, stack, encoded_samples[batch], prefixes[batch], activation) for batch in batches]
        )
        for digest, stack in stacks.items()
    }
    return UserValidation(torch.stack([prefix.embedding for prefix in prefixes]).cpu().numpy(), errors)


def _errors(
    mixture: Mixture,
    stack: AdapterStack,
    encoded_samples: Sequence[EncodedSample],
    prefixes: list[Prefix],
    activation: Activation,
) -> Floats:
    alone, runs = torch.ones(len(encoded_samples), 1), [1] * len(encoded_samples)
    if activation == "question":
        texts = [encoded.question for encoded in encoded_samples]
    else:
        texts, prefixes = [encoded.context + encoded.question for encoded in encoded_samples], []
    difference = mixture.yes_no_logits_packed(texts, runs, prefixes, stack, alone, "ND")
    return error(difference, [encoded.liked for encoded in encoded_samples])


def error(difference: Tensor, liked: list[bool]) -> Floats:
    """1 − P(y|x), (V,) float32, from the logit differences (V,)."""
    sign = torch.tensor([1.0 if yes else -1.0 for yes in liked], device=difference.device)
    wrong: Floats = torch.sigmoid(-sign * difference).cpu().numpy()
    return wrong


def _tensors(adapter: dict[str, Floats]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in adapter.items()}

"""What every adapter gets wrong on every validation sample, and where that sample stands: errors[v, k], embeddings[v].

Each user's rows are computed in batches of their own, one adapter at a time: a float's last bits depend on its batch mates,
and what is stored of one user must not depend on another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.build.training import Lesson
from service.build.workforce import Report
from service.llm.encoder import ModelSpec
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture

Floats = NDArray[np.float32]
_BATCH = 32  # rows; what many more make on the way does not fit into a processor's caches


@dataclass(frozen=True, slots=True)
class ValidationTask:
    """Some users' lessons, and the adapters (digest -> PEFT tensors as numpy) whose errors on them are wanted."""

    model: ModelSpec
    targets: tuple[str, ...]
    scaling: float
    activation: str
    users: tuple[tuple[Lesson, ...], ...]
    adapters: dict[str, dict[str, Floats]]


@dataclass(frozen=True, slots=True)
class UserValidation:
    """Of one user with V rows: embeddings (V, H) and, by adapter digest, errors (V,) = 1 − P(y|x)."""

    embeddings: Floats
    errors: dict[str, Floats]


def validate_users(task: ValidationTask, report: Report) -> list[UserValidation]:
    """One result a user, in the task's order. Reports one step a user."""
    frozen = FrozenModel.load(task.model)
    mixture = Mixture(frozen, task.targets)
    stacks = {
        digest: AdapterStack.of({digest: _tensors(adapter)}, task.scaling, frozen)
        for digest, adapter in task.adapters.items()
    }
    results = []
    for lessons in task.users:
        results.append(_validate(mixture, stacks, lessons, task.activation))
        report(1)
    return results


def _validate(
    mixture: Mixture, stacks: dict[str, AdapterStack], lessons: tuple[Lesson, ...], activation: str
) -> UserValidation:
    batches = [lessons[i : i + _BATCH] for i in range(0, len(lessons), _BATCH)]
    parts = [_validate_batch(mixture, stacks, batch, activation) for batch in batches]
    return UserValidation(
        np.concatenate([part.embeddings for part in parts]),
        {digest: np.concatenate([part.errors[digest] for part in parts]) for digest in stacks},
    )


def _validate_batch(
    mixture: Mixture, stacks: dict[str, AdapterStack], lessons: tuple[Lesson, ...], activation: str
) -> UserValidation:
    contexts = mixture.frozen.read_contexts([lesson.context for lesson in lessons])
    alone = torch.ones(len(lessons), 1)
    errors = {}
    for digest, stack in stacks.items():
        if activation == "question":
            difference = mixture.answer([lesson.question for lesson in lessons], contexts, stack, alone, "ND")
        else:
            whole = [lesson.context + lesson.question for lesson in lessons]
            difference = mixture.answer_whole(whole, stack, alone, "ND")
        errors[digest] = error(difference, [lesson.liked for lesson in lessons])
    return UserValidation(contexts.embeddings.cpu().numpy(), errors)


def error(difference: Tensor, liked: list[bool]) -> Floats:
    """1 − P(y|x), (V,) float32, from the logit differences (V,)."""
    sign = torch.tensor([1.0 if yes else -1.0 for yes in liked], device=difference.device)
    wrong: Floats = torch.sigmoid(-sign * difference).cpu().numpy()
    return wrong


def _tensors(adapter: dict[str, Floats]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in adapter.items()}

"""The two loops: ordinary training, and unlearning on a batch of D_f beside one of D_r. AdamW without decay at a constant rate.

Each epoch visits its batches in an order drawn by a seed. An epoch of unlearning is one of D_f, and of D_r it takes as many
rows, going on where the last batch stopped: so do the released code's loops, which zip their loaders. Rates are constant, so
the state after an epoch is that of a run which ends there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from research.evaluation.unlearning.learner import Learner, Part, Prompt
from research.evaluation.unlearning.measures import Doubles
from research.evaluation.unlearning.objectives import Answered, Objective, cross_entropy

_READ_AT_ONCE = 32

AfterEpoch = Callable[[int], None]
"""Is told how many epochs are done."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is chosen on validation samples: learning rate, epochs, and the weight of a method that has one."""

    rate: float
    epochs: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Labeled:
    """N prompts with what people said."""

    prompts: tuple[Prompt, ...]
    liked: Tensor  # (N,) bool

    def rows(self, numbers: Sequence[int]) -> Labeled:
        """Some of them, in the order of the numbers."""
        return Labeled(tuple(self.prompts[number] for number in numbers), self.liked[list(numbers)])

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True, slots=True)
class Taught:
    """N rows of D_f or D_r with the teachers' logits (N, 2) for them."""

    rows: Labeled
    original: Tensor | None
    augmented: Tensor | None
    drawn: Tensor  # (N,) bool, labels drawn at random

    def batch(self, numbers: Sequence[int], learner: Learner) -> Answered:
        """These rows under the learner as it now is."""
        at, rows = list(numbers), self.rows.rows(numbers)
        original, augmented = (None if one is None else one[at] for one in (self.original, self.augmented))
        return Answered(learner.answers(rows.prompts), original, augmented, rows.liked, self.drawn[at])


def fit(
    learner: Learner,
    part: Part,
    rows: Labeled,
    setting: Setting,
    batch_size: int,
    seed: int,
    after_epoch: AfterEpoch = lambda _: None,
) -> None:
    """Cross-entropy over all rows, from the state in which the learner is."""
    per_epoch = -(-len(rows) // batch_size)
    for done in steps(learner, part, rows, setting, batch_size, seed):
        if done % per_epoch == 0:
            after_epoch(done // per_epoch)


def steps(learner: Learner, part: Part, rows: Labeled, setting: Setting, batch_size: int, seed: int) -> Iterator[int]:
    """Train like `fit`, one step each time that the next is asked for: how many are done."""
    optimizer = torch.optim.AdamW(learner.parameters(part), lr=setting.rate, weight_decay=0.0)
    in_all = setting.epochs * -(-len(rows) // batch_size)
    for done, numbers in enumerate(islice(_batches(len(rows), batch_size, f"fit {seed}"), in_all), start=1):
        batch = rows.rows(numbers)
        _step(optimizer, cross_entropy(learner.answers(batch.prompts), batch.liked))
        yield done


def unlearn(
    learner: Learner,
    part: Part,
    objective: Objective,
    forgotten: Taught,
    retained: Taught,
    setting: Setting,
    batch_size: int,
    seed: int,
    after_epoch: AfterEpoch = lambda _: None,
) -> None:
    """The objective, from the state in which the learner is: the original's. The rows of `retained` are read in their order."""
    optimizer = torch.optim.AdamW(learner.parameters(part), lr=setting.rate, weight_decay=0.0)
    gone = _batches(len(forgotten.rows), batch_size, f"forget {seed}")
    per_epoch = -(-len(forgotten.rows) // batch_size)
    place, stay = 0, len(retained.rows)
    for epoch in range(setting.epochs):
        for of_gone in islice(gone, per_epoch):
            of_kept = [(place + n) % stay for n in range(len(of_gone))]
            place += len(of_gone)
            _step(optimizer, objective.loss(forgotten.batch(of_gone, learner), retained.batch(of_kept, learner)))
        after_epoch(epoch + 1)


def read_answers(learner: Learner, prompts: Sequence[Prompt]) -> Tensor:
    """Logits of No and Yes of N prompts, (N, 2); no gradient."""
    with torch.no_grad():
        return torch.cat([learner.answers(prompts[n : n + _READ_AT_ONCE]) for n in _starts(prompts)])


def read_vocabulary(learner: Learner, prompts: Sequence[Prompt]) -> Iterator[Tensor]:
    """Logits of the whole vocabulary, batch by batch (B, V); no gradient."""
    for n in _starts(prompts):
        with torch.no_grad():
            yield learner.vocabulary(prompts[n : n + _READ_AT_ONCE])


def likely(logits: Tensor) -> Doubles:
    """P(Yes) of N rows of logits (N, 2)."""
    found: Doubles = torch.softmax(logits.double(), dim=-1)[:, 1].cpu().numpy().astype(np.float64)
    return found


def labels_at_random(count: int, seed: int) -> Tensor:
    """(count,) bool, for Bad-T."""
    chance = random.Random(f"labels {seed}")
    return torch.tensor([chance.random() < 0.5 for _ in range(count)], dtype=torch.bool)


def _starts(prompts: Sequence[Prompt]) -> range:
    return range(0, len(prompts), _READ_AT_ONCE)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()


def _batches(count: int, size: int, key: str) -> Iterator[list[int]]:
    """Epoch after epoch, each in an order of its own; the last batch of an epoch may be smaller."""
    chance = random.Random(key)
    while True:
        order = chance.sample(range(count), count)
        yield from (order[n : n + size] for n in range(0, count, size))

"""Each objective's loss and gradient, pinned to plain formulas on a model of two layers: floats, loops, finite differences."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from research.evaluation.unlearning.objectives import (
    Answered,
    BadTeacher,
    E2URec,
    NegativeDivergence,
    NegativeGradient,
    Objective,
    cross_entropy,
    divergence,
    forgetting_teacher,
)

ROWS, INPUTS, HIDDEN = 5, 3, 4
ALPHA, BETA, WEIGHT = 2.0, 0.6, 0.3
Pair = tuple[float, float]  # logits of No and Yes


class TwoLayers:
    """x -> W2 tanh(W1 x), once with tensors and once with plain floats."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.weights = [chance.gauss(0, 1) for _ in range(HIDDEN * INPUTS + 2 * HIDDEN)]
        self.tensor = torch.tensor(self.weights, dtype=torch.float64, requires_grad=True)

    def logits(self, x: Tensor) -> Tensor:
        first = self.tensor[: HIDDEN * INPUTS].reshape(HIDDEN, INPUTS)
        return torch.tanh(x @ first.T) @ self.tensor[HIDDEN * INPUTS :].reshape(2, HIDDEN).T

    @staticmethod
    def plainly(weights: Sequence[float], x: Sequence[float]) -> Pair:
        hidden = [math.tanh(sum(weights[h * INPUTS + i] * x[i] for i in range(INPUTS))) for h in range(HIDDEN)]
        last = weights[HIDDEN * INPUTS :]
        no, yes = (sum(last[a * HIDDEN + h] * hidden[h] for h in range(HIDDEN)) for a in (0, 1))
        return no, yes


def p_of(logits: Pair) -> Pair:
    total = math.exp(logits[0]) + math.exp(logits[1])
    return math.exp(logits[0]) / total, math.exp(logits[1]) / total


def plain_ce(logits: Pair, liked: bool) -> float:
    return -math.log(p_of(logits)[int(liked)])


def plain_kl(teacher: Pair, student: Pair) -> float:
    return sum(t * math.log(t / s) for t, s in zip(p_of(teacher), p_of(student), strict=True))


def plain_teacher(v: Pair, augmented: Pair) -> Pair:
    no, yes = (one - ALPHA * max(0.0, more - one) for one, more in zip(v, augmented, strict=True))
    return no, yes


class Batch:
    """Random inputs, labels and teachers' logits of one side."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.x = [[chance.gauss(0, 1) for _ in range(INPUTS)] for _ in range(ROWS)]
        self.original, self.augmented = ([(chance.gauss(0, 2), chance.gauss(0, 2)) for _ in range(ROWS)] for _ in "ab")
        self.liked, self.drawn = ([chance.random() < 0.5 for _ in range(ROWS)] for _ in "ab")

    def answered(self, model: TwoLayers) -> Answered:
        logits = model.logits(torch.tensor(self.x, dtype=torch.float64))
        original, augmented = (torch.tensor(rows, dtype=torch.float64) for rows in (self.original, self.augmented))
        return Answered(logits, original, augmented, torch.tensor(self.liked), torch.tensor(self.drawn))


FORGOTTEN, RETAINED = Batch(1), Batch(2)
Plain = Callable[[Sequence[float]], float]


def mean_of(batch: Batch, term: Callable[[Pair, int], float]) -> Plain:
    return lambda weights: sum(term(TwoLayers.plainly(weights, batch.x[n]), n) for n in range(ROWS)) / ROWS


kept = mean_of(RETAINED, lambda logits, n: plain_ce(logits, RETAINED.liked[n]))
kept_like_original = mean_of(RETAINED, lambda logits, n: plain_kl(RETAINED.original[n], logits))
gone = mean_of(FORGOTTEN, lambda logits, n: plain_ce(logits, FORGOTTEN.liked[n]))
gone_like_original = mean_of(FORGOTTEN, lambda logits, n: plain_kl(FORGOTTEN.original[n], logits))
gone_with_drawn_labels = mean_of(FORGOTTEN, lambda logits, n: plain_ce(logits, FORGOTTEN.drawn[n]))
gone_with_flipped_labels = mean_of(FORGOTTEN, lambda logits, n: plain_ce(logits, not FORGOTTEN.liked[n]))
gone_like_teacher = mean_of(
    FORGOTTEN, lambda logits, n: plain_kl(plain_teacher(FORGOTTEN.original[n], FORGOTTEN.augmented[n]), logits)
)

OBJECTIVES: list[Any] = [
    pytest.param(NegativeGradient(WEIGHT), lambda w: kept(w) - WEIGHT * gone(w), id="neggrad"),
    pytest.param(NegativeDivergence(WEIGHT), lambda w: kept(w) - WEIGHT * gone_like_original(w), id="negkl"),
    pytest.param(BadTeacher(), lambda w: kept(w) + gone_with_drawn_labels(w), id="bad-t"),
    pytest.param(BadTeacher(flips=True), lambda w: kept(w) + gone_with_flipped_labels(w), id="bad-t-flipped"),
    pytest.param(
        E2URec(ALPHA, BETA),
        lambda w: BETA * gone_like_teacher(w) + (1 - BETA) * (kept(w) + kept_like_original(w)),
        id="e2urec",
    ),
    pytest.param(
        E2URec(ALPHA, BETA, forgets=False),
        lambda w: (1 - BETA) * (kept(w) + kept_like_original(w)),
        id="e2urec-without-fgt",
    ),
    pytest.param(E2URec(ALPHA, BETA, remembers=False), lambda w: BETA * gone_like_teacher(w), id="e2urec-without-rem"),
]


@pytest.mark.parametrize(("objective", "plain"), OBJECTIVES)
def test_loss_and_gradient_are_those_of_the_plain_formula(objective: Objective, plain: Plain) -> None:
    model = TwoLayers(3)
    loss = objective.loss(FORGOTTEN.answered(model), RETAINED.answered(model))
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(plain(model.weights), abs=1e-12)
    assert model.tensor.grad is not None
    assert model.tensor.grad.tolist() == pytest.approx(differences(plain, model.weights), abs=1e-8)
    assert model.tensor.grad.abs().max() > 0.01


def differences(plain: Plain, weights: Sequence[float], step: float = 1e-5) -> list[float]:
    """The gradient by central differences."""

    def moved(at: int, by: float) -> list[float]:
        return [w + by if n == at else w for n, w in enumerate(weights)]

    return [(plain(moved(n, step)) - plain(moved(n, -step))) / (2 * step) for n in range(len(weights))]


def test_the_forgetting_teacher_lowers_what_the_forgotten_data_made_likelier_and_nothing_else() -> None:
    v = torch.tensor([[1.0, -2.0], [0.5, 0.25]])
    augmented = torch.tensor([[1.5, -3.0], [0.5, 1.25]])
    assert forgetting_teacher(v, augmented, 2.0).tolist() == [[0.0, -2.0], [0.5, -1.75]]
    assert forgetting_teacher(v, augmented, 0.0).tolist() == v.tolist()


def test_no_gradient_reaches_a_teacher() -> None:
    teacher, student = (torch.randn(4, 2, requires_grad=True) for _ in "ab")
    torch.autograd.backward(divergence(teacher, student))
    assert teacher.grad is None
    assert student.grad is not None


def test_a_divergence_on_both_sides_would_never_leave_the_original() -> None:
    """Why NegKL keeps cross-entropy on what stays."""
    student = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    [gradient] = torch.autograd.grad(divergence(student, student), [student])
    assert gradient.abs().max() < 1e-15
    [moves] = torch.autograd.grad(cross_entropy(student, torch.tensor([True, False, True, True])), [student])
    assert moves.abs().max() > 0.01


@pytest.mark.parametrize("objective", [NegativeDivergence(1.0), E2URec()])
def test_a_teacher_that_was_not_made_is_an_error_and_no_zero(objective: Objective) -> None:
    side = Answered(torch.randn(3, 2), None, None, torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool))
    assert objective.needs_original
    with pytest.raises(ValueError, match="teacher"):
        objective.loss(side, side)

"""What each approximate method makes small: formulas over logits of No and Yes, B rows each, with means in the place of sums.

Sources: Wang et al. 2024 (E2URec), eqs. 4 to 7, and the baselines as its section 4.1.3 words them. All of them read one batch
of what is forgotten beside one of what stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

ALPHA = 2.0  # of the forgetting teacher, in the paper
BETA = 0.6  # of the forgetting term, in the paper


@dataclass(frozen=True, slots=True)
class Answered:
    """One batch: what the model in training says, and what it is compared with. Logits are (B, 2), labels (B,) bool."""

    student: Tensor
    original: Tensor | None  # of the model before it forgot anything; where a method asks for it
    augmented: (
        Tensor | None
    )  # of the original after it was taught D_f once more; of D_f alone, where a method asks for it
    liked: Tensor
    drawn: Tensor  # a label drawn at random for each row, once for all epochs


class Objective(Protocol):
    """A loss of one step. `needs_…`: whether the original's, and the augmented model's answers are to be made first."""

    @property
    def needs_original(self) -> bool: ...

    @property
    def needs_augmented(self) -> bool: ...

    def loss(self, forgotten: Answered, retained: Answered) -> Tensor:
        """A scalar with a way back to both students."""
        ...


def cross_entropy(logits: Tensor, liked: Tensor) -> Tensor:
    """Mean −ln P(y), in nats, with P a softmax over the two answers."""
    return functional.cross_entropy(logits, liked.long())


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean KL(softmax(teacher) ‖ softmax(student)), in nats. No gradient goes to the teacher."""
    known = functional.log_softmax(teacher.detach(), dim=-1)
    return (known.exp() * (known - functional.log_softmax(student, dim=-1))).sum(dim=-1).mean()


def forgetting_teacher(original: Tensor, augmented: Tensor, alpha: float) -> Tensor:
    """Eq. 4: v − α · ReLU(v_aug − v): what D_f made likelier becomes less likely."""
    return original - alpha * functional.relu(augmented - original)


@dataclass(frozen=True, slots=True)
class NegativeGradient:
    """NegGrad: cross-entropy on D_r minus a weighted one on D_f."""

    weight: float
    needs_original: bool = False
    needs_augmented: bool = False

    def loss(self, forgotten: Answered, retained: Answered) -> Tensor:
        """Unbounded below: what is forgotten may become as unlikely as one likes."""
        gone = cross_entropy(forgotten.student, forgotten.liked)
        return cross_entropy(retained.student, retained.liked) - self.weight * gone


@dataclass(frozen=True, slots=True)
class NegativeDivergence:
    """NegKL: cross-entropy on D_r minus a weighted KL from the original on D_f.

    With KL on both sides the original would be a stationary point, and without dropout nothing would ever move.
    """

    weight: float
    needs_original: bool = True
    needs_augmented: bool = False

    def loss(self, forgotten: Answered, retained: Answered) -> Tensor:
        """At the original the second term and its gradient are 0: the first step is one of D_r alone."""
        away = divergence(_made(forgotten.original), forgotten.student)
        return cross_entropy(retained.student, retained.liked) - self.weight * away


@dataclass(frozen=True, slots=True)
class BadTeacher:
    """Bad-T: cross-entropy on D_r plus one on D_f with random labels; or, as in the released code, with every label flipped."""

    flips: bool = False
    needs_original: bool = False
    needs_augmented: bool = False

    def loss(self, forgotten: Answered, retained: Answered) -> Tensor:
        """Loss with random labels; of those drawn at random about half are right."""
        wrong = ~forgotten.liked if self.flips else forgotten.drawn
        return cross_entropy(retained.student, retained.liked) + cross_entropy(forgotten.student, wrong)


@dataclass(frozen=True, slots=True)
class E2URec:
    """Eq. 7: β · KL(M_f ‖ M_u) on D_f + (1 − β) · (cross-entropy + KL(M_r ‖ M_u)) on D_r.

    M_f is `forgetting_teacher`, M_r the original. The ablation leaves one of the two terms out (its tables' L_FGT and L_REM).
    """

    alpha: float = ALPHA
    beta: float = BETA
    forgets: bool = True
    remembers: bool = True
    needs_original: bool = True

    @property
    def needs_augmented(self) -> bool:
        return self.forgets

    def loss(self, forgotten: Answered, retained: Answered) -> Tensor:
        """The sum of the terms that are not left out."""
        total = torch.zeros((), device=retained.student.device)
        if self.forgets:
            teacher = forgetting_teacher(_made(forgotten.original), _made(forgotten.augmented), self.alpha)
            total = total + self.beta * divergence(teacher, forgotten.student)
        if self.remembers:
            kept = cross_entropy(retained.student, retained.liked) + divergence(
                _made(retained.original), retained.student
            )
            total = total + (1 - self.beta) * kept
        return total


def _made(logits: Tensor | None) -> Tensor:
    if logits is None:
        raise ValueError("a teacher's logits were not made, although the objective says that it needs them")
    return logits

"""The final figures of a model that is to have forgotten D_f: quality on test samples, distance to Retrain on D_f, attacks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from research.evaluation.membership import membership_auc
from research.evaluation.metrics import accuracy, auc, log_loss, losses
from research.evaluation.unlearning.learner import Part, State
from research.evaluation.unlearning.measures import (
    Doubles,
    distributions,
    euclidean,
    half_symmetric,
    jensen_shannon,
    log_probabilities,
)
from research.evaluation.unlearning.objectives import cross_entropy
from research.evaluation.unlearning.training import (
    Labeled,
    Setting,
    likely,
    read_answers,
    read_vocabulary,
    steps,
)
from research.evaluation.unlearning.trial import Trial, labeled
from service.records import Sample

_LOOKED_AT = 64  # rows of D_f by whose loss it is known again
_STEPS_BETWEEN = 2  # two looks
_VOCABULARY_ROWS = 1024  # a vocabulary of each of all would not fit


@dataclass(frozen=True, slots=True)
class Quality:
    """How good N scores are; `auc` is NaN where a class is absent."""

    auc: float
    accuracy: float
    log_loss: float


@dataclass(frozen=True, slots=True)
class Distance:
    """Mean over D_f, to the retrained model. `symmetric` is half a symmetric KL over the whole vocabulary, as released.

    It is taken over 1,024 rows of D_f at most.
    """

    jsd: float
    l2: float
    symmetric: float | None


@dataclass(frozen=True, slots=True)
class Exam:
    """What one model shows."""

    quality: Quality
    distance: Distance
    membership_auc: float  # losses of D_f against those of as many test samples


@dataclass(frozen=True, slots=True)
class Read:
    """What models answer to D_f and to the test samples: P(Yes), and ln P of every token for D_f."""

    forgotten: Doubles
    vocabulary: Tensor  # (at most 1,024 of F, V) float32
    test: Doubles


class Examiner:
    """The only one who holds test samples. Nothing that it finds is looked at by what chooses or trains."""

    def __init__(self, test: Sequence[Sample]) -> None:
        self._test = test
        self._labeled: Labeled | None = None

    def test(self, trial: Trial) -> Labeled:
        """The test samples as the trial's learner reads them."""
        if self._labeled is None:
            self._labeled = labeled(trial.bench.learner, self._test, trial.bench.lessons.item_type)
        return self._labeled

    def read(self, trial: Trial, states: Sequence[State]) -> Read:
        """The mean of the states' distributions; leaves the learner in the last one."""
        found = [self._read_one(trial, state) for state in states]
        if len(found) == 1:
            return found[0]
        mean = torch.logsumexp(torch.stack([one.vocabulary for one in found]), dim=0) - np.log(len(found))
        forgotten, test = (np.mean([getattr(one, name) for one in found], axis=0) for name in ("forgotten", "test"))
        return Read(forgotten, mean, test)

    def exam(self, trial: Trial, ours: Read, retrained: Read) -> Exam:
        """All figures from what was read, beside what the retrained model said to the same rows."""
        return Exam(
            self.quality(trial, ours.test), distance(ours, retrained), self.membership(trial, ours.forgotten, ours.test)
        )

    def quality(self, trial: Trial, scores: Doubles) -> Quality:
        """How good P(Yes) of the test samples is."""
        liked = self.test(trial).liked.tolist()
        return Quality(auc(scores.tolist(), liked), accuracy(scores.tolist(), liked), log_loss(scores.tolist(), liked))

    def relearning_steps(self, trial: Trial, state: State, original: State, most: int) -> int:
        """Steps of the original's training on D_f alone, until D_f's loss is the original's again; at most `most`.

        Looked at after every other step, on the same few rows.
        """
        bench, rows = trial.bench, trial.forgotten
        seen = rows.rows(sorted(random.Random(0).sample(range(len(rows)), min(_LOOKED_AT, len(rows)))))
        bench.learner.restore(original)
        known = _loss(trial, seen)
        bench.learner.restore(state)
        if _loss(trial, seen) <= known:
            return 0
        endless = Setting(trial.recipe.rate, most)  # an epoch has a step at least
        for done in steps(bench.learner, Part.FULL, rows, endless, bench.config.batch_size, trial.seed):
            if done >= most or (done % _STEPS_BETWEEN == 0 and _loss(trial, seen) <= known):
                return done
        return most

    def _read_one(self, trial: Trial, state: State) -> Read:
        learner = trial.bench.learner
        learner.restore(state)
        gone = trial.forgotten.prompts
        first = gone[:_VOCABULARY_ROWS]
        whole = torch.cat([log_probabilities(logits).float() for logits in read_vocabulary(learner, first)])
        forgotten, test = (likely(read_answers(learner, prompts)) for prompts in (gone, self.test(trial).prompts))
        return Read(forgotten, whole, test)

    def membership(self, trial: Trial, forgotten: Doubles, scores: Doubles) -> float:
        """AUC of telling D_f from as many test samples by the loss, of P(Yes) of D_f and of the test samples."""
        test, gone = self.test(trial), trial.forgotten
        drawn = random.Random(trial.seed).sample(range(len(test)), min(len(test), len(gone)))
        others = test.rows(drawn)
        members = losses(forgotten.tolist(), gone.liked.tolist())
        return membership_auc(members, losses(scores[drawn].tolist(), others.liked.tolist()))


def distance(ours: Read, retrained: Read) -> Distance:
    """Between two models' answers to D_f."""
    two = distributions(ours.forgotten), distributions(retrained.forgotten)
    symmetric = half_symmetric(ours.vocabulary, retrained.vocabulary).mean().item()
    return Distance(jensen_shannon(*two), euclidean(*two), symmetric)


def _loss(trial: Trial, rows: Labeled) -> float:
    return float(cross_entropy(read_answers(trial.bench.learner, rows.prompts), rows.liked))

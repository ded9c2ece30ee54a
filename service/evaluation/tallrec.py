"""TALLRec's MovieLens-100K split (Bao et al. 2023): build from a seeded draw of its training windows, score its test windows.

Nothing is chosen on the test windows: the validation windows serve routing, the settings come from outside.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from adapters_store import Store
from service.build.build import Builder, Corpus
from service.data.samples import TallrecSplit
from service.evaluation.metrics import accuracy, auc, log_loss
from service.evaluation.scoring import Unmasked, Untimed, score_samples
from service.llm.frozen import FrozenModel
from service.records import BuildConfig, Item, Sample
from service.scoring.scorer import Scorer
from service.scoring.snapshot import Snapshots

MAX_SHARD_SIZE = 320  # gives about four shards of 1,024 samples


@dataclass(frozen=True, slots=True)
class Report:
    """What one evaluation found. Seconds are wall time."""

    auc: float
    accuracy: float
    log_loss: float
    shards: int
    training_samples: int
    validation_samples: int
    test_samples: int
    build_seconds: float
    scoring_seconds: float


def evaluate(
    split: TallrecSplit,
    items: Sequence[Item],
    store: Store,
    builder: Builder,
    frozen: FrozenModel,
    config: BuildConfig,
    training_samples: int,
) -> Report:
    """Build a generation from `training_samples` windows in a scratch store, and score the test windows."""
    drawn = random.Random(config.seed).sample(split.train, training_samples)
    began = time.monotonic()
    corpus = Corpus("movie", tuple(items), _by_user(drawn), _by_user(split.valid))
    built = builder.build_corpus(corpus, config, fence=0)
    done = time.monotonic()
    scorer = Scorer(Unmasked(built.generation), Snapshots(store, frozen), frozen, Untimed())
    scores = score_samples(scorer, split.test)
    liked = [sample.liked for sample in split.test]
    return Report(
        auc=auc(scores, liked),
        accuracy=accuracy(scores, liked),
        log_loss=log_loss(scores, liked),
        shards=len(built.shards),
        training_samples=len(drawn),
        validation_samples=len(split.valid),
        test_samples=len(split.test),
        build_seconds=done - began,
        scoring_seconds=time.monotonic() - done,
    )


def _by_user(samples: Sequence[Sample]) -> dict[str, tuple[Sample, ...]]:
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.user_id].append(sample)
    return {user_id: tuple(own) for user_id, own in found.items()}

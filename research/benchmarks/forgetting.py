"""One person forgotten, from masked to published, beside training everything again without them.

Each round forgets another person, the same one everywhere. Ours runs as a worker runs it: the real reconciler over a ledger and
a store. Full retraining is given less to do than we do: it trains and stores one adapter, and neither places anybody, nor
validates, publishes or erases anything.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean, median
from time import perf_counter
from typing import Any, Protocol

import torch

from adapters_store import Store
from research.benchmarks.interleaved import (
    Contestant,
    Floor,
    Lap,
    Timing,
    race,
)
from research.benchmarks.models import Cost, times, total
from research.benchmarks.report import (
    Goal,
    Section,
    goals_of,
    section_of,
)
from research.evaluation.forgetting import samples_by_user
from research.evaluation.metrics import auc
from research.evaluation.scoring import Unmasked, score_samples
from service.building.builder import Built
from service.building.planning.corpus import Corpus, corpus_of
from service.building.progress import Progress
from service.building.training.adapters import AdapterMaker
from service.building.training.training import EncodedSample
from service.data.samples import canonical_order, is_validation_user
from service.forgetting.reconcile import Reconciler
from service.ledger import Ledger
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture, load_adapter
from service.records import BuildConfig, Interaction, Item, Sample, Shard
from service.scoring.scorer import Scorer, Untimed
from service.scoring.snapshot import Snapshots

RETRAINING, OURS, OURS_ON_PROMPTS = "full retraining, prompt", "Lethe, question", "Lethe, prompt"
_TESTED_AT_ONCE = 32
_NOTHING = Floor(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who is in the ledger, who is not and tests, and who will be forgotten, in that order."""

    items: tuple[Item, ...]
    item_type: str
    imported: tuple[Interaction, ...]
    test: tuple[Sample, ...]
    forgotten: tuple[str, ...]


def crowd_of(
    items: Sequence[Item],
    item_type: str,
    interactions: Sequence[Interaction],
    config: BuildConfig,
    samples: int,
    forgotten: int,
    tested: int,
) -> Crowd:
    """Draw people as long as they have at most `samples` training samples; `tested` samples of who is left test.

    Raises:
        ValueError: there are too few people for that.
    """
    windows = samples_by_user(interactions, items, config)
    walked = random.Random(config.seed).sample(sorted(windows), len(windows))
    trained: list[str] = []
    validating: list[str] = []
    while walked:
        user = walked.pop()
        if is_validation_user(user, config.validation_percent, config.seed):
            validating.append(user)
        elif len(windows[user]) <= samples:
            trained.append(user)
            samples -= len(windows[user])
        else:
            break
    test = [sample for user in walked for sample in windows[user]][:tested]
    if len(trained) <= forgotten or not test:
        raise ValueError("too few people: fewer samples, or fewer rounds")
    known = {*trained, *validating}
    return Crowd(
        items=tuple(items),
        item_type=item_type,
        imported=tuple(row for row in interactions if row.user_id in known),
        test=tuple(test),
        forgotten=tuple(trained[:forgotten]),
    )


class PublicationBell:
    """Notes when a worker first rings: it does so when it has published."""

    def __init__(self) -> None:
        self.rung_at: float | None = None

    def ring(self) -> None:
        """Only the first one counts, until somebody forgets it."""
        self.rung_at = perf_counter() if self.rung_at is None else self.rung_at

    def wait(self, timeout: float) -> bool:
        return False

    @contextmanager
    def courtesy_lock(self) -> Iterator[bool]:
        """Nobody else is here."""
        yield True

    def close(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Installation:
    """A service's worker, with a ledger and a store of its own."""

    ledger: Ledger
    store: Store
    reconciler: Reconciler
    bell: PublicationBell
    config: BuildConfig
    keeps_prefills: bool  # what builds read of people's contexts


class Way(Protocol):
    """A way of forgetting that is timed."""

    name: str

    def forget_next(self) -> Lap: ...

    def floor(self) -> Floor: ...

    def facts(self) -> dict[str, Any]: ...

    def test_auc(self) -> float: ...


class OurWay:
    """Forgets by retraining the shards that knew somebody."""

    def __init__(self, name: str, installation: Installation, crowd: Crowd, frozen: FrozenModel) -> None:
        self.name = name
        self._here = installation
        self._crowd = crowd
        self._frozen = frozen
        self._people = iter(crowd.forgotten)
        self._floors: list[Floor] = []  # this and the next two: of each round
        self._to_completed: list[float] = []
        self._retrained: list[int] = []
        installation.ledger.import_data(crowd.items, crowd.imported, crowd.item_type)
        self._built = installation.reconciler.rebuild(installation.config)

    def forget_next(self) -> Lap:
        """Masked → published."""
        here = self._here
        here.ledger.forget(next(self._people), None, None)
        here.bell.rung_at = None
        masked_at = perf_counter()
        self._built = here.reconciler.rebuild(here.config)
        self._to_completed.append(perf_counter() - masked_at)
        if here.bell.rung_at is None:
            raise RuntimeError("published without ringing")
        self._note(self._built)
        return Lap(here.bell.rung_at - masked_at)

    def floor(self) -> Floor:
        """What one deletion costs at least, at the median of the rounds."""
        return Floor(median(f.tokens for f in self._floors), median(f.flops for f in self._floors))

    def facts(self) -> dict[str, Any]:
        """What was retrained in a round, at the median."""
        retrained, completed = median(self._retrained), median(self._to_completed)
        return _facts(self.name, self._crowd, len(self._built.shards), retrained, completed)

    def test_auc(self) -> float:
        """AUC of the service's scores of people whom it has never known."""
        scorer = Scorer(
            Unmasked(self._built.generation), Snapshots(self._here.store, self._frozen), self._frozen, Untimed()
        )
        return auc(score_samples(scorer, self._crowd.test), [sample.liked for sample in self._crowd.test])

    def _note(self, built: Built) -> None:
        manifest = self._here.store.generation(built.generation).manifest
        samples = sum(adapter["samples"] for adapter in manifest["adapters"] if adapter["digest"] in built.trained)
        self._retrained.append(samples)
        corpus = corpus_of(self._here.ledger.view(), self._here.config)
        work = Work.of(self._frozen, corpus, self._here.config, self._here.keeps_prefills)
        self._floors.append(work.floor(samples, len(built.rows) * len(built.trained)))


class FullRetraining:
    """Trains one adapter on everybody's samples but theirs, all tokens under it."""

    def __init__(
        self, maker: AdapterMaker, store: Store, crowd: Crowd, corpus: Corpus, config: BuildConfig, frozen: FrozenModel
    ) -> None:
        self.name = RETRAINING
        self._maker = maker
        self._store = store
        self._crowd = crowd
        self._config = config
        self._frozen = frozen
        self._left: dict[str, tuple[Sample, ...]] = dict(corpus.training)
        self._people = iter(crowd.forgotten)
        self._digest = ""
        self._work = Work.of(frozen, corpus, config, kept=False)

    def forget_next(self) -> Lap:
        """Retrained and stored."""
        del self._left[next(self._people)]
        item_type, seed = self._crowd.item_type, self._config.seed
        began = perf_counter()
        shard = Shard("all", canonical_order([sample for own in self._left.values() for sample in own], seed))
        self._digest = self._maker.digest(shard, item_type, self._config)
        self._maker.train({self._digest: shard}, item_type, self._config)
        return Lap(perf_counter() - began)

    def floor(self) -> Floor:
        """What the last round costs at least."""
        return self._work.floor(self._samples(), 0)

    def facts(self) -> dict[str, Any]:
        """What was retrained in the last round."""
        return _facts(self.name, self._crowd, 1, self._samples(), None)

    def test_auc(self) -> float:
        """AUC of the scores of people whom it has never known."""
        config, frozen, test = self._config, self._frozen, self._crowd.test
        adapters = {self._digest: load_adapter(self._store.adapters.path(self._digest))}
        stack = AdapterStack.of(adapters, config.adapter_scaling, frozen)
        mixture = Mixture(frozen, config.lora_targets)
        encoded_samples = self._maker.encoded_samples(test, self._crowd.item_type)
        scores: list[float] = []
        for i in range(0, len(encoded_samples), _TESTED_AT_ONCE):
            prompts = [encoded.context + encoded.question for encoded in encoded_samples[i : i + _TESTED_AT_ONCE]]
            scores += mixture.yes_no_logits_whole(prompts, stack, torch.ones(len(prompts), 1), "ND").tolist()
        return auc(scores, [sample.liked for sample in test])

    def _samples(self) -> int:
        return sum(len(own) for own in self._left.values())


@dataclass(frozen=True, slots=True)
class Work:
    """What retraining must spend: tokens of a mean sample of this corpus, under these settings."""

    cost: Cost
    config: BuildConfig
    adapted: float  # share of the layers that are, or stand above, the first one with adapters
    kept: bool  # contexts were read by an earlier build
    context: int
    question: int

    @classmethod
    def of(cls, frozen: FrozenModel, corpus: Corpus, config: BuildConfig, kept: bool) -> Work:
        encoded_samples = [
            _lesson(frozen, sample, corpus.item_type)
            for own in corpus.training.values()
            for sample in own[:_SEEN_OF_EACH]
        ]
        return cls(
            cost=Cost.of(frozen, config.lora_targets),
            config=config,
            adapted=1 - config.adapt_from_layer / frozen.layers,
            kept=kept,
            context=round(fmean(len(encoded.context) for encoded in encoded_samples)),
            question=round(fmean(len(encoded.question) for encoded in encoded_samples)),
        )

    def floor(self, samples: int, errors: int) -> Floor:
        """To train on `samples` samples, and to know `errors` errors of validation rows under the new adapter."""
        cost, context, question, rank = self.cost, self.context, self.question, self.config.lora_rank
        if self.config.activation == "question":
            read = _NOTHING if self.kept else cost.read(context)
            encoded = total([read, self._lesson(question, seen=context)])
            error = total([read, cost.read(question, seen=context, rank=rank)])
        else:
            encoded = self._lesson(context + question, seen=0)
            error = cost.read(context + question, rank=rank)
        return total([times(samples, encoded), times(errors, error)])

    def _lesson(self, tokens: int, seen: int) -> Floor:
        """All epochs of `tokens` tokens that meet the adapters. Below these nothing changes, so once is enough."""
        below = self.cost.read(tokens, seen).flops * (1 - self.adapted)
        above = self.cost.learn(tokens, seen, self.config.lora_rank).flops * self.adapted
        return Floor(self.config.epochs * tokens, below + self.config.epochs * above)


_SEEN_OF_EACH = 2  # samples of each person whose tokens are counted; their windows overlap almost wholly


def _lesson(frozen: FrozenModel, sample: Sample, item_type: str) -> EncodedSample:
    tokenizer = frozen.tokenizer
    return EncodedSample(
        tokenizer.context(sample.history, item_type), tokenizer.question(sample.target, item_type), sample.liked
    )


def measure(
    retraining: FullRetraining, ours: Sequence[OurWay], crowd: Crowd, progress: Progress | None = None
) -> list[Section]:
    """All tables, and how good the answers are once everybody who was to be forgotten is."""
    ways: list[Way] = [retraining, *ours]
    timings = race(
        [Contestant(way.name, way.forget_next, 1.0, _NOTHING) for way in ways],
        len(crowd.forgotten),
        warmups=0,
        progress=progress,
    )
    timings = tuple(replace(timing, floor=way.floor()) for timing, way in zip(timings, ways, strict=True))
    quality = {way.name: way.test_auc() for way in ways}
    return [
        section_of("one person forgotten: masked to published", timings, RETRAINING, "person", _NOTES),
        Section(
            f"after {len(crowd.forgotten)} people",
            tuple(way.facts() | {"AUC of people never seen": quality[way.name]} for way in ways),
        ),
        goals_of(_goals(timings, quality)),
    ]


def _facts(name: str, crowd: Crowd, shards: int, retrained: float, completed: float | None) -> dict[str, Any]:
    return {
        "contestant": name,
        "test samples": len(crowd.test),
        "shards": shards,
        "samples retrained": retrained,
        "masked to completed, s": completed,
    }


def _goals(timings: Sequence[Timing], quality: Mapping[str, float]) -> list[Goal]:
    by_name = {timing.name: timing for timing in timings}
    wanted = ((OURS, RETRAINING, 15.0), (OURS, OURS_ON_PROMPTS, 3.5), (OURS_ON_PROMPTS, RETRAINING, None))
    goals = [
        Goal(
            f"{ours}: x {theirs}",
            least,
            median(by_name[ours].ratios(by_name[theirs])),
            by_name[theirs].floor.flops / by_name[ours].floor.flops,
        )
        for ours, theirs, least in wanted
    ]
    return [*goals, Goal(f"{OURS}: AUC - AUC of {RETRAINING}", -0.003, quality[OURS] - quality[RETRAINING])]


_NOTES = (
    "Floor: forward and back through the frozen weights (2 + 2 operations per weight and token), attention and adapters as in "
    "the scoring table. question: each question in every epoch, its context not at all, as an earlier build has read it "
    "(where nothing is kept, once); prompt: every token in every epoch; layers below the first with adapters: forward, once. "
    "With the new adapter's errors on every validation row. Tokens are those of a mean sample.",
    "x full retraining: that one only trains and stores an adapter; ours also places, validates and publishes. Full retraining "
    "and prompt have adapters on all layers, whatever `adapt_from_layer` says.",
)

"""One story of forgetting, measured: build, forget some people, and build again as if they had never been there.

Asked of each of the three states: how good are the answers for people whom no build ever saw, and can one tell from the
losses who was trained on? Both once with the weights as they are served and once with weights rounded to int8.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from adapters_store import Store
from research.evaluation.membership import chance_error, membership_auc
from research.evaluation.metrics import auc, log_loss, losses
from research.evaluation.quantized import RoundedSnapshots, rounded_model
from research.evaluation.scoring import Unmasked, score_samples
from service.building.builder import Builder
from service.building.planning.corpus import corpus_of
from service.data.samples import user_samples
from service.forgetting.reconcile import Reconciler
from service.ledger import Ledger
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from service.records import BuildConfig, ForgetRequest, Interaction, Item, Sample
from service.scoring.scorer import Scorer, Untimed
from service.scoring.snapshot import MaskSource, Snapshots

_TEST_PEOPLE_OF = 10  # one in ten is set aside


@dataclass(frozen=True, slots=True)
class Measured:
    """What one state of the service shows under one precision of its weights."""

    weights: str  # as served | int8
    state: str  # before | after | clean build
    auc: float  # of the test people's windows
    log_loss: float  # of the same, in nats
    membership_auc: float  # of the forgotten people's windows against other people's


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two stores, file by file."""

    files: int  # in either
    differing: tuple[str, ...]  # relative paths of files that differ, or that only one store has

    @property
    def identical(self) -> bool:
        return not self.differing


@dataclass(frozen=True, slots=True)
class Story:
    """What happened, in seconds of wall time, samples, and shards."""

    claim: str  # of the comparison with the clean build: strict | relative to the recorded partition
    bytes_identical: bool
    files_compared: int
    files_differing: int
    generation_before: str
    generation_after: str
    generation_clean: str
    people: int  # in the ledger before
    forgotten_people: int
    training_samples: int  # before
    shards_before: int
    shards_after: int
    shards_masked: int
    shards_retrained: int
    build_seconds: float
    masked_to_completed_seconds: float  # the longest of the deletions; all were asked for at once
    clean_build_seconds: float
    test_people: int
    test_samples: int
    members: int  # training samples of the forgotten people
    non_members: int  # samples of test people
    membership_chance_error: float  # standard error of a membership AUC if the losses said nothing
    measured: tuple[Measured, ...]


@dataclass(frozen=True, slots=True)
class Precision:
    """The frozen model under one rounding of its weights, and how it reads the generations of a store."""

    name: str
    frozen: FrozenModel
    snapshots: Callable[[Store, FrozenModel], Snapshots]

    def scorer(self, masks: MaskSource, store: Store) -> Scorer:
        return Scorer(masks, self.snapshots(store, self.frozen), self.frozen, Untimed())


def precisions(spec: ModelSpec) -> tuple[Precision, ...]:
    """The frozen model's precisions that are examined: the served one, and int8."""
    return (
        Precision("as served", FrozenModel.load(spec), Snapshots),
        Precision("int8", rounded_model(spec), RoundedSnapshots),
    )


@dataclass(frozen=True, slots=True)
class Exam:
    """Samples to score. `members` were trained on before the deletion; nobody of `test` was ever trained on."""

    test: tuple[Sample, ...]
    members: tuple[Sample, ...]
    non_members: tuple[int, ...]  # numbers in `test`

    @classmethod
    def of(cls, test: Sequence[Sample], members: Sequence[Sample], seed: int) -> Exam:
        """An exam of as many non-members as members, as far as there are test samples."""
        drawn = random.Random(seed).sample(range(len(test)), min(len(members), len(test)))
        return cls(tuple(test), tuple(members), tuple(sorted(drawn)))

    def take(self, scorer: Scorer, weights: str, state: str) -> Measured:
        """Score everything once."""
        scores, liked = score_samples(scorer, self.test), [sample.liked for sample in self.test]
        test_losses = losses(scores, liked)
        member_losses = losses(score_samples(scorer, self.members), [sample.liked for sample in self.members])
        membership = membership_auc(member_losses, [test_losses[n] for n in self.non_members])
        return Measured(weights, state, auc(scores, liked), log_loss(scores, liked), membership)


@dataclass(frozen=True, slots=True)
class Stage:
    """An installation that is thrown away, and what builds cleanly beside it.

    `clean_builder` takes the forgotten people and builds, into `clean_store`, from a ledger that has never known them.
    """

    ledger: Ledger
    store: Store
    reconciler: Reconciler
    clean_store: Store
    clean_builder: Callable[[frozenset[str]], Builder]
    precisions: tuple[Precision, ...]


@dataclass(frozen=True, slots=True)
class _Deletion:
    generation: str
    shards: int
    masked: int
    retrained: int
    seconds: float


def tell(stage: Stage, test: Mapping[str, tuple[Sample, ...]], config: BuildConfig, people: int) -> Story:
    """Build, forget `people` people who were trained on, build without them, and measure each state.

    `test` holds the samples, by user, of people whom the ledger does not know.
    """
    began = time.monotonic()
    before = stage.reconciler.rebuild(config).generation
    build_seconds = time.monotonic() - began
    view = stage.ledger.view()
    training = corpus_of(view, config).training
    gone = random.Random(config.seed).sample(sorted(training), min(people, len(training)))
    exam = Exam.of(_all_of(test, sorted(test)), _all_of(training, gone), config.seed)
    measured = _examine(exam, stage, stage.store, stage.ledger, "before")
    adapters_before = _adapters(stage.store, before)
    deletion = _forget(stage, gone, adapters_before)
    measured += _examine(exam, stage, stage.store, stage.ledger, "after")
    began = time.monotonic()
    built = stage.clean_builder(frozenset(gone)).build(config)
    clean = built.generation
    clean_build_seconds = time.monotonic() - began
    stage.clean_store.publish(clean)
    stage.clean_store.erase_except(built.shards, built.memories, [clean])  # what only a build needs, as a worker does
    measured += _examine(exam, stage, stage.clean_store, Unmasked(clean), "clean build")
    comparison = compare(stage.store, stage.clean_store)
    return Story(
        claim="relative to the recorded partition" if config.partition == "algorithm1" else "strict",
        bytes_identical=comparison.identical,
        files_compared=comparison.files,
        files_differing=len(comparison.differing),
        generation_before=before,
        generation_after=deletion.generation,
        generation_clean=clean,
        people=len(view.interactions),
        forgotten_people=len(gone),
        training_samples=sum(len(own) for own in training.values()),
        shards_before=len(adapters_before),
        shards_after=deletion.shards,
        shards_masked=deletion.masked,
        shards_retrained=deletion.retrained,
        build_seconds=build_seconds,
        masked_to_completed_seconds=deletion.seconds,
        clean_build_seconds=clean_build_seconds,
        test_people=len(test),
        test_samples=len(exam.test),
        members=len(exam.members),
        non_members=len(exam.non_members),
        membership_chance_error=chance_error(len(exam.members), len(exam.non_members)),
        measured=tuple(measured),
    )


def set_aside(interactions: Sequence[Interaction], seed: int) -> tuple[list[Interaction], list[Interaction]]:
    """(what is imported, what is kept for testing): a tenth of the people, drawn by `seed`, is never imported."""
    users = sorted({row.user_id for row in interactions})
    test = set(random.Random(seed).sample(users, len(users) // _TEST_PEOPLE_OF))
    return [row for row in interactions if row.user_id not in test], [r for r in interactions if r.user_id in test]


def samples_by_user(
    interactions: Sequence[Interaction], items: Collection[Item], config: BuildConfig
) -> dict[str, tuple[Sample, ...]]:
    """Everybody's windows, cut as a build cuts them."""
    by_id = {item.item_id: item for item in items}
    rows: dict[str, list[Interaction]] = {}
    for row in interactions:
        rows.setdefault(row.user_id, []).append(row)
    return {
        user: user_samples(own, by_id, config.history_length, config.samples_per_user) for user, own in rows.items()
    }


def compare(one: Store, other: Store) -> Comparison:
    """Byte by byte: adapters, generations and what is published."""
    ours, theirs = dict(_files(one.root)), dict(_files(other.root))
    names = sorted(ours.keys() | theirs.keys())
    return Comparison(len(names), tuple(name for name in names if ours.get(name) != theirs.get(name)))


def _files(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            yield str(path.relative_to(root)), hashlib.file_digest(file, "sha256").hexdigest()


def _forget(stage: Stage, people: Sequence[str], adapters_before: Set[str]) -> _Deletion:
    accepted = [stage.ledger.forget(user, None, None).request for user in people]
    while stage.reconciler.reconcile_once():
        pass
    done = [stage.ledger.request(request.request_id) for request in accepted]
    generation = stage.ledger.generation() or ""
    adapters = _adapters(stage.store, generation)
    return _Deletion(
        generation=generation,
        shards=len(adapters),
        masked=len({digest for request in done for digest in request.affected_shards}),
        retrained=len(adapters - adapters_before),
        seconds=max((_open_seconds(request) for request in done), default=0.0),
    )


def _open_seconds(request: ForgetRequest) -> float:
    return math.nan if request.completed_at is None else request.completed_at - request.masked_at


def _all_of(samples: Mapping[str, tuple[Sample, ...]], users: Iterable[str]) -> list[Sample]:
    return [sample for user in users for sample in samples[user]]


def _examine(exam: Exam, stage: Stage, store: Store, masks: MaskSource, state: str) -> list[Measured]:
    return [exam.take(each.scorer(masks, store), each.name, state) for each in stage.precisions]


def _adapters(store: Store, generation: str) -> set[str]:
    return {adapter["digest"] for adapter in store.generation(generation).manifest["adapters"]}

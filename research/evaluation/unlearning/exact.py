"""The exact row: Lethe's own build, a deletion of all people to be forgotten, and a clean build that has never known them."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters_store import Store
from research.evaluation.comparison.examiner import timed
from research.evaluation.comparison.laboratory import Laboratory
from research.evaluation.forgetting import compare
from research.evaluation.scoring import Unmasked, score_samples
from research.evaluation.unlearning.measures import Doubles, distributions, euclidean, jensen_shannon
from research.evaluation.unlearning.splits import Lessons
from service.building.builder import Builder, Built
from service.building.planning.corpus import Corpus
from service.ledger import Ledger
from service.llm.mixture import load_adapter
from service.records import BuildConfig, Sample
from service.scoring.scorer import Scorer, Untimed
from service.scoring.snapshot import Snapshots

_SECRET = b"of a comparison, where nobody is hidden"


@dataclass(frozen=True, slots=True)
class ExactlyForgotten:
    """What one deletion came to. Distances are to the clean build, over the samples of everybody forgotten so far."""

    scores: Doubles  # P(Yes) of the test samples
    forgotten: Doubles  # P(Yes) of the samples of everybody forgotten so far
    seconds: float  # of the rebuild
    shards: int  # adapters that had to be trained
    parameters: int  # of all adapters together
    clean: CleanBuild | None  # None: not compared


@dataclass(frozen=True, slots=True)
class CleanBuild:
    """Whether every file of the store is that of a build in an empty place, and how far the answers are apart."""

    identical: bool
    jsd: float
    l2: float


class Installation:
    """A ledger, a store and a builder in one folder, which knows the training people and forgets some of them."""

    def __init__(self, folder: Path, laboratory: Laboratory, config: BuildConfig, lessons: Lessons) -> None:
        folder.mkdir()
        self._laboratory = laboratory
        self._config = config
        self._lessons = lessons
        self._ledger = Ledger(f"sqlite:///{folder.absolute()}/ledger.sqlite", _SECRET)
        self.store = Store(folder / "store")
        spec, pool = laboratory.frozen.spec, laboratory.process_pool
        self._builder = Builder(self._ledger, self.store, spec, pool, _SECRET, laboratory.environment)

    def build(self, without: frozenset[str]) -> tuple[Built, float]:
        """The generation of everybody else, published, and the seconds of its making."""
        built = timed(lambda: self._builder.build_corpus(self._corpus(without), self._config, fence=0))
        self.store.publish(built.value.generation)
        made = built.value
        self._ledger.publish(made.published, made.shards, made.rows, made.memories)
        # What only an earlier generation needs goes, as a worker has it: the next build may use the rest.
        self.store.erase_except(made.shards, made.memories, [made.generation])
        return made, built.seconds

    def scores(self, built: Built, samples: Sequence[Sample]) -> Doubles:
        """P(Yes) of each sample, as a server would give it."""
        snapshots = Snapshots(self.store, self._laboratory.frozen)
        scorer = Scorer(Unmasked(built.generation), snapshots, self._laboratory.frozen, Untimed())
        return np.array(score_samples(scorer, samples), np.float64)

    def parameters(self, built: Built) -> int:
        """Trained numbers of all adapters."""
        adapters = (load_adapter(self.store.adapters.path(digest)) for digest in built.shards)
        return sum(tensor.numel() for adapter in adapters for tensor in adapter.values())

    def close(self) -> None:
        self._ledger.close()

    def _corpus(self, without: frozenset[str]) -> Corpus:
        parts = (self._lessons.train, self._lessons.valid)
        training, validation = (_by_user(part, without) for part in parts)
        return Corpus(self._lessons.item_type, self._lessons.items, training, validation)


@contextmanager
def installed(laboratory: Laboratory, config: BuildConfig, lessons: Lessons) -> Iterator[Installation]:
    """An installation that is thrown away afterwards. The catalog is read before anything is timed."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Installation(Path(scratch) / "home", laboratory, config, lessons)
        try:
            yield made
        finally:
            made.close()


def forget_exactly(
    home: Installation,
    laboratory: Laboratory,
    config: BuildConfig,
    lessons: Lessons,
    gone: frozenset[str],
    test: Sequence[Sample],
    compares: bool = True,
) -> ExactlyForgotten:
    """Build again without these people, whose validation samples go with them, and if wanted compare with a clean build."""
    forgotten = [sample for sample in lessons.train if sample.user_id in gone]
    built, seconds = home.build(gone)
    answers = home.scores(built, forgotten)
    clean = _compared(home, laboratory, config, lessons, gone, forgotten, answers) if compares else None
    return ExactlyForgotten(
        home.scores(built, test), answers, seconds, len(built.trained), home.parameters(built), clean
    )


def _compared(
    home: Installation,
    laboratory: Laboratory,
    config: BuildConfig,
    lessons: Lessons,
    gone: frozenset[str],
    forgotten: Sequence[Sample],
    answers: Doubles,
) -> CleanBuild:
    with installed(laboratory, config, lessons) as clean:
        built, _ = clean.build(gone)
        two = distributions(answers), distributions(clean.scores(built, forgotten))
        identical = compare(home.store, clean.store).identical
        return CleanBuild(identical, jensen_shannon(*two), euclidean(*two))


def _by_user(samples: Sequence[Sample], without: frozenset[str]) -> dict[str, tuple[Sample, ...]]:
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.user_id not in without:
            found[sample.user_id].append(sample)
    return {user: tuple(own) for user, own in found.items()}

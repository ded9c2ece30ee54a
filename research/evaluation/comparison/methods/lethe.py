"""Lethe as it is served: built by the builder, scored by the scorer, forgotten by building again without the person."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from adapters_store import Store
from research.evaluation.comparison.examiner import Timed, timed
from research.evaluation.comparison.laboratory import (
    Finding,
    Forgotten,
    Removal,
    Trial,
)
from research.evaluation.scoring import Unmasked, score_samples
from service.building.builder import Builder, Built
from service.building.planning.corpus import Corpus
from service.ledger import Ledger
from service.llm.mixture import load_adapter
from service.records import Mask, Sample
from service.scoring.scorer import Scorer, Untimed
from service.scoring.snapshot import MaskSource, Snapshots

MAX_SHARD_SIZE = 450  # gives three or four shards of 1,024 samples

_SECRET = b"of a comparison, where nobody is hidden"
_NOTHING = Removal(None, frozenset())


@dataclass(frozen=True, slots=True)
class _Only:
    """The mask under which one adapter answers alone."""

    built: Built
    digest: str

    def mask(self) -> Mask:
        others = frozenset(self.built.shards) - {self.digest}
        return Mask(revision=0, fence=0, generation=self.built.generation, adapters=others, rows=frozenset())


@dataclass(frozen=True, slots=True)
class _Home:
    ledger: Ledger
    store: Store
    builder: Builder


class Lethe:
    """A generation of the laboratory's configuration. The catalog is read before the time begins."""

    def measure(self, trial: Trial, removals: Sequence[Removal]) -> Finding:
        """Each removal starts from a copy of the installation, with the published generation at hand."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "home"
            _start(folder, trial)
            with _home(folder, trial) as home:
                built = _build(home, trial, _NOTHING)
                _publish(home, built.value)
                finding = _examined(trial, home.store, built)
            forgotten = tuple(
                _forget(trial, folder, Path(scratch) / str(number), built.value, removal)
                for number, removal in enumerate(removals)
            )
        return replace(finding, forgotten=forgotten)


METHOD = Lethe()


def _start(folder: Path, trial: Trial) -> None:
    """An installation that has read the catalog and knows nobody; it is made once for all seeds."""
    catalog = trial.folder / "catalog"
    catalog.mkdir(exist_ok=True)
    nobody = Corpus(trial.split.item_type, trial.split.items, {}, {})
    with _home(catalog, trial) as home:
        _publish(home, home.builder.build_corpus(nobody, trial.laboratory.config, fence=0))
    shutil.copytree(catalog, folder)


@contextmanager
def _home(folder: Path, trial: Trial) -> Iterator[_Home]:
    laboratory = trial.laboratory
    ledger, store = Ledger(f"sqlite:///{folder.absolute()}/ledger.sqlite", _SECRET), Store(folder / "store")
    spec, process_pool = laboratory.frozen.spec, laboratory.process_pool
    try:
        yield _Home(ledger, store, Builder(ledger, store, spec, process_pool, _SECRET, laboratory.environment))
    finally:
        ledger.close()


def _publish(home: _Home, built: Built) -> None:
    home.store.publish(built.generation)
    home.ledger.publish(built.published, built.shards, built.rows, built.memories)


def _build(home: _Home, trial: Trial, removal: Removal) -> Timed[Built]:
    left = (sample for number, sample in enumerate(trial.training) if number not in removal.samples)
    valid = (sample for sample in trial.split.valid if sample.user_id != removal.user)
    corpus = Corpus(trial.split.item_type, trial.split.items, _by_user(left), _by_user(valid))
    return timed(lambda: home.builder.build_corpus(corpus, trial.config, fence=0))


def _examined(trial: Trial, store: Store, built: Timed[Built]) -> Finding:
    snapshots = Snapshots(store, trial.laboratory.frozen)
    snapshots.of(built.value.generation)  # a server has it in memory before it is asked

    def score(masks: MaskSource) -> Timed[list[float]]:
        scorer = Scorer(masks, snapshots, trial.laboratory.frozen, Untimed())
        return trial.examiner.served(lambda samples: score_samples(scorer, samples))

    scores = score(Unmasked(built.value.generation))
    digests = sorted(built.value.shards)
    adapters = (load_adapter(store.adapters.path(digest)) for digest in digests)
    return Finding(
        scores=scores.value,
        scoring_seconds=scores.seconds,
        single_scores=[score(_Only(built.value, digest)).value for digest in digests],
        shards=len(digests),
        build_seconds=built.seconds,
        trainable_parameters=sum(tensor.numel() for adapter in adapters for tensor in adapter.values()),
        forgotten=(),
    )


def _forget(trial: Trial, before: Path, folder: Path, built: Built, removal: Removal) -> Forgotten:
    shutil.copytree(before, folder)
    with _home(folder, trial) as home:
        after = _build(home, trial, removal)
    return Forgotten(after.seconds, len(built.shards.keys() - after.value.shards.keys()))


def _by_user(samples: Iterable[Sample]) -> dict[str, tuple[Sample, ...]]:
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.user_id].append(sample)
    return {user_id: tuple(own) for user_id, own in found.items()}

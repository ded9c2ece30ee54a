"""The whole function: ledger -> generation. It computes only what the store lacks, and publishes nothing.

Everything is named by the digest of what it was made from, so what did not change is found instead of made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store import DamagedArtifact, MissingArtifact, Store, StoredGeneration, canonical_json, digest_of
from service.build.adapters import AdapterMaker, canonical_order
from service.build.embedding import PublicTextsTask, embed_public_texts
from service.build.environment import environment_of
from service.build.placement import Placer, units_of
from service.build.progress import Progress, Silent
from service.build.rows import RowMaker, ValidationUser, array_bytes, known_rows, row_keys
from service.build.workforce import Workforce
from service.data import prompts
from service.data.ledger import Ledger
from service.data.samples import canonical, is_validation_user, user_samples
from service.llm.encoder import Encoder, ModelSpec
from service.llm.frozen import POOLING
from service.records import BuildConfig, Item, LedgerView, Published, Sample, Shard

FORMAT = "lethe-generation-1"
_ITEMS_A_TASK = 1024


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a generation is made from: everybody's samples by user, already split."""

    noun: str
    items: tuple[Item, ...]
    training: dict[str, tuple[Sample, ...]]
    validation: dict[str, tuple[Sample, ...]]


@dataclass(frozen=True, slots=True)
class Built:
    """A complete generation in the store, not yet published, and what its making took."""

    published: Published  # what the ledger is to note of it
    trained: tuple[str, ...]  # digests of the adapters that had to be trained
    shards: dict[str, str]  # adapter digest -> name of its shard
    rows: frozenset[str]  # keys of the validation rows

    @property
    def generation(self) -> str:
        return self.published.generation

    @property
    def fence(self) -> int:
        return self.published.fence


def corpus_of(view: LedgerView, config: BuildConfig) -> Corpus:
    """Split users by keyed hash, and cut each user's windows from their own rows alone."""
    items = {item.item_id: item for item in view.items}
    training: dict[str, tuple[Sample, ...]] = {}
    validation: dict[str, tuple[Sample, ...]] = {}
    for user_id, interactions in view.interactions.items():
        samples = user_samples(interactions, items, config.history_length, config.samples_per_user)
        if samples:
            held_out = is_validation_user(user_id, config.validation_percent, config.seed)
            (validation if held_out else training)[user_id] = samples
    return Corpus(view.noun, view.items, training, validation)


class Builder:
    """Makes generations from one ledger and one frozen model into one store."""

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        model: ModelSpec,
        workforce: Workforce,
        secret: bytes,
        progress: Progress | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment` decides digests as the rows do; by default it is what this process computes with."""
        self._ledger = ledger
        self._store = store
        self._encoder = Encoder.load(model)
        self._model = replace(model, answers=self._encoder.answers)  # whoever computes gets token ids
        self._workforce = workforce
        self._secret = secret
        self._progress: Progress = progress or Silent()
        self._environment = environment_of(model.device) if environment is None else environment
        self._adapters = AdapterMaker(store, self._encoder, self._model, workforce, self._progress, self._environment)

    @property
    def frozen(self) -> dict[str, str]:
        """What identifies the frozen model in a manifest."""
        return {"digest": self._encoder.digest, "dtype": self._model.dtype}

    @property
    def _made_with(self) -> dict[str, Any]:
        """What the bits of everything computed here depend on, beside its own inputs."""
        return {"frozen": self.frozen, "pooling": POOLING, "environment": self._environment}

    def build(self, config: BuildConfig) -> Built:
        """Read the ledger once and make its generation."""
        view = self._ledger.view()
        return self.build_corpus(corpus_of(view, config), config, view.fence)

    def build_corpus(self, corpus: Corpus, config: BuildConfig, fence: int) -> Built:
        """Make the generation of a corpus that was read at `fence`.

        Raises:
            LetheError, StoreFailure: nothing half-made is left where it could be served.
        """
        planned = self._plan_shards(corpus, config)
        shards = dict(planned)
        users = self._plan_validation(corpus, config)
        # Recorded before anything is trained: a deletion that comes now must know what will have seen its user.
        self._ledger.record_exposures(
            fence,
            _seen_by(planned),
            {key: user.user_id for user in users for key in user.keys},
            {digest: shard.name for digest, shard in shards.items()},
        )
        trained = self._train_missing(shards, corpus.noun, config)
        previous = self._previous()
        maker = RowMaker(self._store, self._model, self._workforce, self._progress)
        files = maker.files(users, list(shards), known_rows(previous, self.frozen), config)
        files |= self._catalogue_files(corpus.items, previous)
        manifest = self._manifest(corpus, config, shards, users)
        return Built(
            published=Published(
                self._store.add_generation(manifest, files), fence, config, self.frozen, self._environment
            ),
            trained=trained,
            shards={digest: shard.name for digest, shard in shards.items()},
            rows=frozenset(key for user in users for key in user.keys),
        )

    # Which adapters there should be

    def _plan_shards(self, corpus: Corpus, config: BuildConfig) -> list[tuple[str, Shard]]:
        """Digest and shard; people who said the same things may make two shards of one digest."""
        units = units_of(corpus.training, corpus.noun, config)
        placer = Placer(self._ledger, self._encoder, self._model, self._workforce, self._progress, self._environment)
        names = placer.place(units, corpus.items, corpus.noun, config)
        members: dict[str, list[Sample]] = {}
        for unit in units:
            members.setdefault(names[unit.key], []).extend(unit.samples)
        shards = [Shard(name, canonical_order(samples, config.seed)) for name, samples in sorted(members.items())]
        return [(self._adapters.digest(shard, corpus.noun, config), shard) for shard in shards]

    # Adapters

    def _train_missing(self, shards: Mapping[str, Shard], noun: str, config: BuildConfig) -> tuple[str, ...]:
        missing = self._adapters.missing(list(shards))
        self._ledger.set_shards_training(len(missing))
        try:
            self._adapters.train({digest: shards[digest] for digest in missing}, noun, config)
        finally:
            self._ledger.set_shards_training(0)
        return tuple(missing)

    # Validation rows and catalogue

    def _plan_validation(self, corpus: Corpus, config: BuildConfig) -> list[ValidationUser]:
        planned = []
        for user_id, samples in sorted(corpus.validation.items()):
            ordered = canonical_order(samples, config.seed)
            batch = digest_of(
                [self._made_with, config.activation, [canonical(sample, corpus.noun) for sample in ordered]]
            )
            keys = row_keys(self._secret, user_id, batch, len(ordered))
            planned.append(ValidationUser(user_id, keys, tuple(self._adapters.lesson(s, corpus.noun) for s in ordered)))
        return planned

    def _catalogue_files(self, items: Sequence[Item], previous: StoredGeneration | None) -> dict[str, bytes]:
        if previous is not None and previous.manifest["catalogue"] == self._catalogue_digest(items):
            embeddings = previous.read("item_embeddings.npy")
        else:
            embeddings = array_bytes(self._embed_items(items))
        return {"items.json": canonical_json([item.item_id for item in items]), "item_embeddings.npy": embeddings}

    def _catalogue_digest(self, items: Sequence[Item]) -> str:
        return digest_of([self._made_with, [asdict(item) for item in items]])

    def _embed_items(self, items: Sequence[Item]) -> NDArray[np.float32]:
        rows = [self._encoder.item(item) for item in items]
        tasks = [
            PublicTextsTask(self._model, tuple(rows[i : i + _ITEMS_A_TASK])) for i in range(0, len(rows), _ITEMS_A_TASK)
        ]
        self._progress.phase("embedding the catalogue", len(items))
        parts = dict(self._workforce.run(embed_public_texts, tasks, self._progress.advance))
        found = [parts[number] for number in range(len(tasks))]
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)

    def _manifest(
        self, corpus: Corpus, config: BuildConfig, shards: Mapping[str, Shard], users: Sequence[ValidationUser]
    ) -> dict[str, Any]:
        adapters = [
            {
                "digest": digest,
                "shard": shard.name,
                "samples": len(shard.samples),
                "files": self._store.adapter_sums(digest),
            }
            for digest, shard in shards.items()
        ]
        return {
            "format": FORMAT,
            "frozen": self.frozen,
            "template": prompts.TEMPLATE_VERSION,
            "noun": corpus.noun,
            "catalogue": self._catalogue_digest(corpus.items),
            "config": asdict(config),
            "environment": dict(self._environment),
            "adapters": adapters,
            "validation_rows": sum(len(user.keys) for user in users),
        }

    def _previous(self) -> StoredGeneration | None:
        # It saves work only, so one that cannot be read is not worth refusing to build.
        try:
            active = self._store.active()
            previous = self._store.generation(active) if active else None
        except (DamagedArtifact, MissingArtifact):
            return None
        return previous if previous is not None and previous.manifest["format"] == FORMAT else None


def _seen_by(planned: Sequence[tuple[str, Shard]]) -> dict[str, list[str]]:
    """Adapter digest -> a user id for each of the samples behind it."""
    seen: dict[str, list[str]] = {}
    for digest, shard in planned:
        seen.setdefault(digest, []).extend(sample.user_id for sample in shard.samples)
    return seen

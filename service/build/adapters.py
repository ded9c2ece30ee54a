"""Shards -> adapters in the store: their names, and the training of those that are not there yet."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adapters_store import DamagedArtifact, MissingArtifact, Store, digest_of
from service.build.progress import Progress
from service.build.training import Lesson, TrainingTask, train_adapter
from service.build.workforce import Workforce
from service.data import prompts
from service.data.samples import canonical
from service.llm.encoder import Encoder, ModelSpec
from service.records import BuildConfig, Sample, Shard

_FORMAT = "lethe-adapter-1"


class AdapterMaker:
    """Trains adapters of one frozen model into one store."""

    def __init__(
        self,
        store: Store,
        encoder: Encoder,
        model: ModelSpec,
        workforce: Workforce,
        progress: Progress,
        environment: Mapping[str, str],
    ) -> None:
        self._store = store
        self._encoder = encoder
        self._model = model
        self._workforce = workforce
        self._progress = progress
        self._environment = environment

    def digest(self, shard: Shard, noun: str, config: BuildConfig) -> str:
        """What names the adapter of some samples: all that it is made from, and what it is made with."""
        return digest_of([self._recipe_digest(shard, noun, config), self._environment])

    def digest_by_content(self, content: str, config: BuildConfig) -> str:
        """The same of a shard whose samples are not at hand, but what names them (`content_of`).

        As that names order and people too, adapters of one such digest have the same bytes and have seen the same people.
        """
        return digest_of([{**self._recipe(config), "units": content}, self._environment])

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that the store does not hold; a damaged one is removed and counts as missing."""
        return [digest for digest in digests if not self._usable(digest)]

    def train(self, shards: Mapping[str, Shard], noun: str, config: BuildConfig) -> None:
        """Train the adapter of every shard (by its adapter's digest) and store it.

        Raises:
            LetheError, StoreFailure: those that were finished by then are kept.
        """
        digests = list(shards)
        tasks = [self._training_task(shards[digest], noun, config) for digest in digests]
        self._progress.phase("training shards", len(tasks) * config.epochs)
        for number, files in self._workforce.run(train_adapter, tasks, self._trained):
            self._keep(digests[number], files)

    def lesson(self, sample: Sample, noun: str) -> Lesson:
        context = self._encoder.context(sample.history, noun)
        return Lesson(context, self._encoder.question(sample.target, noun), sample.liked)

    def _recipe_digest(self, shard: Shard, noun: str, config: BuildConfig) -> str:
        """Of an adapter as it is meant, on whatever machine and whoever said it: from it training draws its order."""
        return digest_of({**self._recipe(config), "samples": [canonical(sample, noun) for sample in shard.samples]})

    def _recipe(self, config: BuildConfig) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "frozen": {"digest": self._encoder.digest, "dtype": self._model.dtype},
            "template": prompts.TEMPLATE_VERSION,
            "training": _training_part(config),
        }

    def _usable(self, digest: str) -> bool:
        if not self._store.has_adapter(digest):
            return False
        try:
            self._store.known_adapter_sums(digest)
        except (DamagedArtifact, MissingArtifact):
            # It can be made again to the same bytes, so a damaged one is not worth refusing to build.
            self._store.remove_adapter(digest)
            return False
        return True

    def _training_task(self, shard: Shard, noun: str, config: BuildConfig) -> TrainingTask:
        lessons = tuple(self.lesson(sample, noun) for sample in shard.samples)
        invocation = self._encoder.invocation(noun) if config.activation == "question" else []
        return TrainingTask(self._recipe_digest(shard, noun, config), self._model, invocation, lessons, config)

    def _trained(self, epochs: int) -> None:
        sys.audit("lethe.build.training")
        self._progress.advance(epochs)

    def _keep(self, digest: str, files: Mapping[str, bytes]) -> None:
        with self._store.new_adapter(digest) as folder:
            for name, content in files.items():
                (folder / name).write_bytes(content)


def content_of(units: Iterable[str]) -> str:
    """What names the content of a shard: a digest over those of its units."""
    return hashlib.sha256("\n".join(sorted(units)).encode()).hexdigest()


def _training_part(config: BuildConfig) -> dict[str, Any]:
    lora = ("lora_rank", "lora_alpha", "lora_targets", "adapt_from_layer")
    names = ("activation", *lora, "epochs", "learning_rate", "batch_size", "seed")
    return {name: getattr(config, name) for name in names}

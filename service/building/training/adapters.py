"""Shards -> adapters in the store: their names, and the training of those that are not there yet."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from adapters_store import digest_of
from service.building.known import KnownArtifacts
from service.building.progress import Progress
from service.building.training.training import Lesson, TrainingTask, train_adapter
from service.building.workers.prefill import MANNER, reading_name
from service.building.workers.prefill_cache import Readings
from service.building.workers.process_pool import Workforce
from service.data import prompts
from service.data.samples import canonical
from service.llm.tokenizer import Encoder, ModelSpec
from service.records import BuildConfig, Sample, Shard

_FORMAT = "lethe-adapter-1"


class AdapterMaker:
    """Trains adapters of one frozen model into one store."""

    def __init__(
        self,
        adapters: KnownArtifacts,
        encoder: Encoder,
        model: ModelSpec,
        workforce: Workforce,
        progress: Progress,
        environment: Mapping[str, str],
        readings: Readings | None = None,
    ) -> None:
        self._adapters = adapters
        self._encoder = encoder
        self._model = model
        self._workforce = workforce
        self._progress = progress
        self._environment = environment
        self._readings = readings or Readings(0)

    def digest(self, shard: Shard, noun: str, config: BuildConfig) -> str:
        """What names the adapter of some samples: all that it is made from, and what it is made with."""
        return digest_of([self._recipe_digest(shard, noun, config), MANNER, self._environment])

    def digest_by_content(self, content: str, config: BuildConfig) -> str:
        """The same of a shard whose samples are not at hand, but what names them (`content_of`).

        As that names order and people too, adapters of one such digest have the same bytes and have seen the same people.
        """
        return digest_of([{**self._recipe(config), "units": content}, MANNER, self._environment])

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that must be trained: `KnownArtifacts` says why."""
        return self._adapters.missing(digests)

    def train(self, shards: Mapping[str, Shard], noun: str, config: BuildConfig) -> None:
        """Train the adapter of every shard (by its adapter's digest) and store it.

        Raises:
            LetheError, StoreFailure: those that were finished by then are kept.
        """
        digests = list(shards)
        tasks = [self._training_task(shards[digest], noun, config) for digest in digests]
        self._progress.phase("training shards", len(tasks) * config.epochs)
        wanted = [_readings_of(task, shards[digest]) for digest, task in zip(digests, tasks, strict=True)]
        with self._readings.lend(wanted) as lending:
            lent = [replace(task, loan=loan) for task, loan in zip(tasks, lending.loans, strict=True)]
            for number, trained in self._workforce.run(train_adapter, lent, self._trained):
                lending.left[number] = trained.left
                self._adapters.add(digests[number], trained.files)

    def lessons(self, samples: Sequence[Sample], noun: str) -> tuple[Lesson, ...]:
        """The same as token ids, in the same order."""
        contexts = self._encoder.contexts([sample.history for sample in samples], noun)
        questions = self._encoder.questions([sample.target for sample in samples], noun)
        return tuple(
            Lesson(context, question, sample.liked)
            for context, question, sample in zip(contexts, questions, samples, strict=True)
        )

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

    def _training_task(self, shard: Shard, noun: str, config: BuildConfig) -> TrainingTask:
        lessons = self.lessons(shard.samples, noun)
        invocation = self._encoder.invocation(noun) if config.activation == "question" else []
        recipe, people = self._recipe_digest(shard, noun, config), tuple(_numbers_of_people(shard).values())
        return TrainingTask(recipe, self._model, invocation, lessons, people, config)

    def _trained(self, epochs: int) -> None:
        sys.audit("lethe.build.training")
        self._progress.advance(epochs)


def _numbers_of_people(shard: Shard) -> dict[str, tuple[int, ...]]:
    """User id -> the numbers of their samples."""
    numbers: dict[str, tuple[int, ...]] = {}
    for number, sample in enumerate(shard.samples):
        numbers[sample.user_id] = (*numbers.get(sample.user_id, ()), number)
    return numbers


def _readings_of(task: TrainingTask, shard: Shard) -> dict[str, str]:
    """The names of what will be read -> whose it is."""
    if task.config.activation != "question":
        return {}
    return {
        reading_name([task.lessons[number].context for number in numbers], embed=False): user
        for user, numbers in _numbers_of_people(shard).items()
    }


def content_of(units: Iterable[str]) -> str:
    """What names the content of a shard: a digest over those of its units."""
    return hashlib.sha256("\n".join(sorted(units)).encode()).hexdigest()


def _training_part(config: BuildConfig) -> dict[str, Any]:
    lora = ("lora_rank", "lora_alpha", "lora_targets", "adapt_from_layer")
    names = ("activation", *lora, "epochs", "learning_rate", "batch_size", "seed")
    return {name: getattr(config, name) for name in names}

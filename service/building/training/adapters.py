"""Shards -> adapters in the store: their names, and the training of those that are not there yet."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters_store import digest_of
from service.building.known import KnownArtifacts
from service.building.progress import Progress, go_on
from service.building.training.training import EncodedSample, TrainingTask, contexts_of, train_adapter
from service.building.workers.prefill import MANNER, prefill_name
from service.building.workers.prefill_cache import PrefillCache
from service.building.workers.prefill_task import PrefillTask, read_contexts
from service.building.workers.process_pool import TaskRunner
from service.data import prompts
from service.data.samples import canonical
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.records import BuildConfig, Sample, Shard

_FORMAT = "lethe-adapter-1"


class AdapterMaker:
    """Trains adapters of one frozen model into one store."""

    def __init__(
        self,
        adapters: KnownArtifacts,
        tokenizer: PromptTokenizer,
        model: ModelSpec,
        process_pool: TaskRunner,
        progress: Progress,
        environment: Mapping[str, str],
        prefill_cache: PrefillCache | None = None,
        checkpoint: Callable[[], None] = go_on,
    ) -> None:
        self._checkpoint = checkpoint
        self._adapters = adapters
        self._tokenizer = tokenizer
        self._model = model
        self._process_pool = process_pool
        self._progress = progress
        self._environment = environment
        self._prefill_cache = prefill_cache or PrefillCache(0)

    def digest(self, shard: Shard, item_type: str, config: BuildConfig) -> str:
        """What names the adapter of some samples: all that it is made from, and what it is made with."""
        return digest_of([self._recipe_digest(shard, item_type, config), MANNER, self._environment])

    def digest_by_content(self, content: str, config: BuildConfig) -> str:
        """The adapter's digest of a shard whose samples are not at hand, but what names them (`content_of`).

        As that names order and people too, adapters of one such digest have the same bytes and have seen the same people.
        """
        return digest_of([{**self._recipe(config), "units": content}, MANNER, self._environment])

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those that must be trained: `KnownArtifacts` says why."""
        return self._adapters.missing(digests)

    def train(self, shards: Mapping[str, Shard], item_type: str, config: BuildConfig) -> None:
        """Train the adapter of every shard (by its adapter's digest) and store it.

        Raises:
            LetheError (GaveWay too), StoreFailure: those that were finished by then are kept.
        """
        digests = list(shards)
        tasks = [self._training_task(shards[digest], item_type, config) for digest in digests]
        contexts = [_contexts_of(task, shards[digest]) for digest, task in zip(digests, tasks, strict=True)]
        self._read_together(contexts)
        self._progress.phase("training shards", len(tasks) * config.epochs)
        wanted = [{name: own.user_id for name, own in of_shard.items()} for of_shard in contexts]
        with self._prefill_cache.lend(wanted) as lending:
            lent = [replace(task, loan=loan) for task, loan in zip(tasks, lending.loans, strict=True)]
            for number, trained in self._process_pool.run(train_adapter, lent, self._trained):
                lending.left[number] = trained.left
                self._adapters.add(digests[number], trained.files)
                self._checkpoint()

    def _read_together(self, contexts: Sequence[Mapping[str, _Contexts]]) -> None:
        """Let all processes read for shards that are fewer, as one deletion's is: else one reads and the others wait."""
        processes = self._process_pool.processes
        named = {name: own for of_shard in contexts for name, own in of_shard.items()}
        unread = self._prefill_cache.lacking(named)
        if len(contexts) >= processes or len(unread) < processes:
            return
        shares = [unread[first::processes] for first in range(processes)]
        self._progress.phase("reading contexts", len(unread))
        with self._prefill_cache.lend([{name: named[name].user_id for name in share} for share in shares]) as lending:
            tasks = [
                PrefillTask(self._model, tuple(named[name].token_ids for name in share), loan)
                for share, loan in zip(shares, lending.loans, strict=True)
            ]
            for number, left in self._process_pool.run(read_contexts, tasks, self._progress.advance):
                lending.left[number] = left

    def encoded_samples(self, samples: Sequence[Sample], item_type: str) -> tuple[EncodedSample, ...]:
        """Samples as token ids, in the same order."""
        contexts = self._tokenizer.contexts([sample.history for sample in samples], item_type)
        questions = self._tokenizer.questions([sample.target for sample in samples], item_type)
        return tuple(
            EncodedSample(context, question, sample.liked, sample.negative_of is not None)
            for context, question, sample in zip(contexts, questions, samples, strict=True)
        )

    def _recipe_digest(self, shard: Shard, item_type: str, config: BuildConfig) -> str:
        """Digest of an adapter as it is meant, on whatever machine and whoever said it: from it training draws its order."""
        return digest_of(
            {**self._recipe(config), "samples": [canonical(sample, item_type) for sample in shard.samples]}
        )

    def _recipe(self, config: BuildConfig) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "frozen": {"digest": self._tokenizer.digest, "dtype": self._model.dtype},
            "template": prompts.TEMPLATE_VERSION,
            "training": _training_part(config),
        }

    def _training_task(self, shard: Shard, item_type: str, config: BuildConfig) -> TrainingTask:
        encoded_samples = self.encoded_samples(shard.samples, item_type)
        invocation = self._tokenizer.invocation(item_type) if config.activation == "question" else []
        recipe, people = self._recipe_digest(shard, item_type, config), tuple(_numbers_of_people(shard).values())
        return TrainingTask(recipe, self._model, invocation, encoded_samples, people, config)

    def _trained(self, epochs: int) -> None:
        sys.audit("lethe.build.training")
        self._progress.advance(epochs)


def _numbers_of_people(shard: Shard) -> dict[str, tuple[int, ...]]:
    """User id -> the numbers of their samples."""
    numbers: dict[str, tuple[int, ...]] = {}
    for number, sample in enumerate(shard.samples):
        numbers[sample.user_id] = (*numbers.get(sample.user_id, ()), number)
    return numbers


@dataclass(frozen=True, slots=True)
class _Contexts:
    """What is read for one person's samples."""

    user_id: str
    token_ids: list[list[int]]


def _contexts_of(task: TrainingTask, shard: Shard) -> dict[str, _Contexts]:
    """The names of what will be read -> whose it is, and what."""
    if task.config.activation != "question":
        return {}
    people = [
        _Contexts(user, contexts_of([task.encoded_samples[number] for number in numbers])[0])
        for user, numbers in _numbers_of_people(shard).items()
    ]
    return {prefill_name(own.token_ids, embed=False): own for own in people}


def content_of(units: Iterable[str]) -> str:
    """What names the content of a shard: a digest over those of its units."""
    return hashlib.sha256("\n".join(sorted(units)).encode()).hexdigest()


def _training_part(config: BuildConfig) -> dict[str, Any]:
    lora = ("lora_rank", "lora_alpha", "lora_targets", "adapt_from_layer")
    names = ("activation", *lora, "epochs", "learning_rate", "batch_size", "seed")
    stated = {name: getattr(config, name) for name in names}
    # LoRA was the only kind once: its adapters keep their names.
    return stated if config.adapter == "lora" else stated | {"adapter": config.adapter}

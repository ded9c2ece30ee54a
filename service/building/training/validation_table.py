"""The validation rows of a generation: opaque keys, embeddings (V, H) and errors (V, K), computed only where unknown."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from adapters_store import StoredGeneration, canonical_json
from service.arrays import array_bytes, load_array
from service.building.progress import Progress, go_on
from service.building.training.training import EncodedSample, contexts_of
from service.building.training.validation import UserValidation, ValidationTask, validate_users
from service.building.workers.prefill import prefill_name
from service.building.workers.prefill_cache import PrefillCache
from service.building.workers.process_pool import TaskRunner
from service.generation import Manifest
from service.llm.mixture import WEIGHTS
from service.llm.spec import ModelSpec
from service.records import BuildConfig, ModelIdentity

Floats = NDArray[np.float32]
EncodedSamplesOf = Callable[[str], tuple[EncodedSample, ...]]  # user id -> samples in canonical order
_USERS_A_TASK = 64
_USERS_A_TASK_AHEAD = 8  # a deletion waits for one task


@dataclass(frozen=True, slots=True)
class ValidationUser:
    """One user's rows in canonical order. The keys say nothing of the user to who does not hold the secret."""

    user_id: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KnownRows:
    """The rows of an earlier generation: errors (V, K) and embeddings (V, H), whose rows and columns have names."""

    numbers: Mapping[str, int]  # key of a row -> its number
    columns: Mapping[str, int]  # digest of an adapter -> its column
    errors: Floats
    embeddings: Floats

    @classmethod
    def of(cls, generation: StoredGeneration | None, frozen: ModelIdentity) -> Self:
        """The rows of a generation of the same frozen model; none of any other."""
        manifest = None if generation is None else Manifest.of(generation.manifest)
        if generation is None or manifest is None or manifest.model != frozen:
            return cls({}, {}, np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))
        return cls(
            {key: number for number, key in enumerate(json.loads(generation.read("rows.json")))},
            {adapter.digest: number for number, adapter in enumerate(manifest.adapters)},
            load_array(generation.read("errors.npy")),
            load_array(generation.read("embeddings.npy")),
        )

    def lacking(self, users: Sequence[ValidationUser], digests: Sequence[str]) -> list[Lack]:
        """Whose rows must be computed, and under which adapters. A user's rows are always computed together."""
        new = [user for user in users if user.keys[0] not in self.numbers]
        known = [user for user in users if user.keys[0] in self.numbers]
        unknown = tuple(digest for digest in digests if digest not in self.columns)
        return [Lack(new, tuple(digests))] * bool(new) + [Lack(known, unknown)] * bool(known and unknown)


class RowsAhead:
    """Embeddings and errors that were computed ahead of the generation that will hold them, in memory alone."""

    def __init__(self) -> None:
        self._found: dict[
            str, tuple[str, UserValidation]
        ] = {}  # first key of a user's rows -> whose, and what is known

    @property
    def people(self) -> frozenset[str]:
        """The ids of those whose rows they are."""
        return frozenset(user_id for user_id, _ in self._found.values())

    def forget(self, users: Collection[str], adapters: Collection[str]) -> None:
        """Keep nothing of these users, and nothing that these adapters said."""
        for key, (user_id, found) in list(self._found.items()):
            for digest in found.errors.keys() & adapters:
                del found.errors[digest]
            if user_id in users:
                del self._found[key]

    def add(self, user: ValidationUser, found: UserValidation) -> None:
        """Keep a user's rows, beside what is known of them under other adapters."""
        known = self.of(user)
        errors = found.errors if known is None else known.errors | found.errors
        self._found[user.keys[0]] = user.user_id, UserValidation(found.embeddings, errors)

    def of(self, user: ValidationUser) -> UserValidation | None:
        """What is known of a user's rows."""
        found = self._found.get(user.keys[0])
        return None if found is None else found[1]

    def lacking(self, lack: Lack) -> list[Lack]:
        """What of this is not known: users by the adapters that are to be tried on their rows."""
        open_: dict[tuple[str, ...], list[ValidationUser]] = {}
        for user in lack.users:
            known = self.of(user)
            missing = lack.digests if known is None else tuple(d for d in lack.digests if d not in known.errors)
            if missing or known is None:
                open_.setdefault(missing, []).append(user)
        return [Lack(users, digests) for digests, users in open_.items()]


@dataclass(frozen=True, slots=True)
class WantedRows:
    """The rows of a generation: its users, the digests of its adapters, what is known of them, and what they are made of."""

    users: Sequence[ValidationUser]
    digests: Sequence[str]
    known: KnownRows
    encoded_samples_of: EncodedSamplesOf

    def lacking(self) -> list[Lack]:
        """What is not known."""
        return self.known.lacking(self.users, self.digests)


@dataclass(frozen=True, slots=True)
class Lack:
    """Users whose rows lack an embedding or the errors under these adapters."""

    users: Sequence[ValidationUser]
    digests: tuple[str, ...]


def row_keys(secret: bytes, user_id: str, batch_digest: str, count: int) -> tuple[str, ...]:
    """Keys that name rows by their content and their batch mates (all of one user), so that floats can be reused."""
    return tuple(
        hmac.new(secret, canonical_json(["row", user_id, batch_digest, number]), hashlib.sha256).hexdigest()[:32]
        for number in range(count)
    )


class RowMaker:
    """Completes known rows: every user of now, under every adapter of now."""

    def __init__(
        self,
        adapter_files: Callable[[str], Mapping[str, bytes]],
        model: ModelSpec,
        process_pool: TaskRunner,
        progress: Progress,
        prefill_cache: PrefillCache | None = None,
        ahead: RowsAhead | None = None,
        checkpoint: Callable[[], None] = go_on,
    ) -> None:
        """`adapter_files` gives an adapter's files by its digest, verified; `ahead` is what is known beside earlier rows."""
        self._ahead = RowsAhead() if ahead is None else ahead
        self._checkpoint = checkpoint
        self._adapter_files = adapter_files
        self._model = model
        self._process_pool = process_pool
        self._progress = progress
        self._prefill_cache = prefill_cache or PrefillCache(0)

    def files(self, wanted: WantedRows, config: BuildConfig) -> dict[str, bytes]:
        """`rows.json` (V keys, sorted), `errors.npy` (V, K) with columns as the digests, `embeddings.npy` (V, H)."""
        keys = sorted(key for user in wanted.users for key in user.keys)
        table = _Table(keys, wanted.digests)
        table.take(wanted.known)
        for lack in wanted.lacking():
            for user in lack.users:
                if (found := self._ahead.of(user)) is not None:
                    table.fill(user.keys, [digest for digest in lack.digests if digest in found.errors], found)
            for open_ in self._ahead.lacking(lack):
                for user, found in self._validate(open_, _USERS_A_TASK, wanted.encoded_samples_of, config):
                    table.fill(user.keys, open_.digests, found)
        return {
            "rows.json": canonical_json(keys),
            "errors.npy": array_bytes(table.errors),
            "embeddings.npy": array_bytes(table.embeddings),
        }

    def make_ahead(self, wanted: WantedRows, config: BuildConfig) -> None:
        """Compute what `files` will find neither among known rows nor ahead, a few users at a time. Raises GaveWay."""
        for lack in wanted.lacking():
            for open_ in self._ahead.lacking(lack):
                for user, found in self._validate(open_, _USERS_A_TASK_AHEAD, wanted.encoded_samples_of, config):
                    self._ahead.add(user, found)
                    self._checkpoint()

    def _validate(
        self, lack: Lack, most: int, encoded_samples_of: EncodedSamplesOf, config: BuildConfig
    ) -> Iterator[tuple[ValidationUser, UserValidation]]:
        users = lack.users
        size = min(most, math.ceil(len(users) / self._process_pool.processes))  # so that no process is idle
        chunks = [users[i : i + size] for i in range(0, len(users), size)]
        adapters = {digest: self._tensors(digest) for digest in lack.digests}
        tasks = [self._task([encoded_samples_of(user.user_id) for user in chunk], adapters, config) for chunk in chunks]
        self._progress.phase("validating adapters", len(users))
        wanted = [_prefills_of(task, chunk) for task, chunk in zip(tasks, chunks, strict=True)]
        with self._prefill_cache.lend(wanted) as lending:
            lent = [replace(task, loan=loan) for task, loan in zip(tasks, lending.loans, strict=True)]
            for number, validated in self._process_pool.run(validate_users, lent, self._progress.advance):
                lending.left[number] = validated.left
                yield from zip(chunks[number], validated.users, strict=True)

    def _task(
        self,
        encoded_samples: Sequence[tuple[EncodedSample, ...]],
        adapters: dict[str, dict[str, Floats]],
        config: BuildConfig,
    ) -> ValidationTask:
        scaling = config.adapter_scaling
        return ValidationTask(
            self._model, config.lora_targets, scaling, config.activation, tuple(encoded_samples), adapters
        )

    def _tensors(self, digest: str) -> dict[str, Floats]:
        tensors: dict[str, Floats] = safetensors.numpy.load(self._adapter_files(digest)[WEIGHTS])
        return tensors


def _prefills_of(task: ValidationTask, users: Sequence[ValidationUser]) -> dict[str, str]:
    """The names of what will be read -> whose it is."""
    return {
        prefill_name(contexts_of(encoded_samples)[0], embed=True): user.user_id
        for encoded_samples, user in zip(task.users, users, strict=True)
    }


class _Table:
    """Errors (V, K) and embeddings (V, H) under way, whose rows and columns have names."""

    def __init__(self, keys: Sequence[str], digests: Sequence[str]) -> None:
        self._keys, self._digests = keys, digests
        self._numbers = {key: number for number, key in enumerate(keys)}
        self._columns = {digest: number for number, digest in enumerate(digests)}
        self.errors: Floats = np.zeros((len(keys), len(digests)), np.float32)
        self.embeddings: Floats = np.zeros((len(keys), 0), np.float32)

    def take(self, known: KnownRows) -> None:
        """Whole columns and rows at once: there may be a hundred million errors."""
        old, new = _both(known.numbers, self._keys)
        old_columns, new_columns = _both(known.columns, self._digests)
        if old:
            self._widen(known.embeddings.shape[1])
            self.embeddings[new] = known.embeddings[old]
            self.errors[np.ix_(new, new_columns)] = known.errors[np.ix_(old, old_columns)]

    def fill(self, keys: Sequence[str], digests: Sequence[str], found: UserValidation) -> None:
        rows = [self._numbers[key] for key in keys]
        self._widen(found.embeddings.shape[1])
        self.embeddings[rows] = found.embeddings
        if digests:
            columns = [self._columns[digest] for digest in digests]
            self.errors[np.ix_(rows, columns)] = np.stack([found.errors[name] for name in digests], axis=1)

    def _widen(self, width: int) -> None:
        # The first rows tell how wide the model is.
        if self.embeddings.shape[1] != width:
            self.embeddings = np.zeros((len(self._keys), width), np.float32)


def _both(known: Mapping[str, int], names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Where the names that are known stand: there, and here."""
    pairs = [(known[name], number) for number, name in enumerate(names) if name in known]
    return [there for there, _ in pairs], [here for _, here in pairs]

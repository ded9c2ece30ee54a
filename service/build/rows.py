"""The validation rows of a generation: opaque keys, embeddings (V, H) and errors (V, K), computed only where unknown."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from adapters_store import Store, StoredGeneration, canonical_json
from service.build.progress import Progress
from service.build.training import Lesson
from service.build.validation import UserValidation, ValidationTask, validate_users
from service.build.workforce import Workforce
from service.llm.encoder import ModelSpec
from service.records import BuildConfig

Floats = NDArray[np.float32]
_USERS_A_TASK = 64


@dataclass(frozen=True, slots=True)
class ValidationUser:
    """One user's rows in canonical order. The keys say nothing of the user to who does not hold the secret."""

    user_id: str
    keys: tuple[str, ...]
    lessons: tuple[Lesson, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one validation row: its embedding (H,) and its error under some adapters."""

    embedding: Floats
    errors: dict[str, np.float32]


def row_keys(secret: bytes, user_id: str, batch_digest: str, count: int) -> tuple[str, ...]:
    """Keys that name rows by their content and their batch mates (all of one user), so that floats can be reused."""
    return tuple(
        hmac.new(secret, canonical_json(["row", user_id, batch_digest, number]), hashlib.sha256).hexdigest()[:32]
        for number in range(count)
    )


def known_rows(generation: StoredGeneration | None, frozen: Mapping[str, str]) -> dict[str, Row]:
    """The rows of an earlier generation of the same frozen model, by key."""
    if generation is None or generation.manifest["frozen"] != frozen:
        return {}
    digests = [adapter["digest"] for adapter in generation.manifest["adapters"]]
    errors, embeddings = load_array(generation.read("errors.npy")), load_array(generation.read("embeddings.npy"))
    keys = json.loads(generation.read("rows.json"))
    return {
        key: Row(embedding, dict(zip(digests, row, strict=True)))
        for key, row, embedding in zip(keys, errors, embeddings, strict=True)
    }


class RowMaker:
    """Completes known rows: every user of now, under every adapter of now."""

    def __init__(self, store: Store, model: ModelSpec, workforce: Workforce, progress: Progress) -> None:
        self._store = store
        self._model = model
        self._workforce = workforce
        self._progress = progress

    def files(
        self, users: Sequence[ValidationUser], digests: Sequence[str], known: Mapping[str, Row], config: BuildConfig
    ) -> dict[str, bytes]:
        """`rows.json` (V keys, sorted), `errors.npy` (V, K) with columns as `digests`, `embeddings.npy` (V, H)."""
        rows = self._complete(users, digests, known, config)
        keys = sorted(key for user in users for key in user.keys)
        errors = [[rows[key].errors[digest] for digest in digests] for key in keys]
        embeddings = [rows[key].embedding for key in keys]
        width = len(embeddings[0]) if embeddings else 0
        return {
            "rows.json": canonical_json(keys),
            "errors.npy": array_bytes(np.array(errors, dtype=np.float32).reshape(len(keys), len(digests))),
            "embeddings.npy": array_bytes(np.array(embeddings, dtype=np.float32).reshape(len(keys), width)),
        }

    def _complete(
        self, users: Sequence[ValidationUser], digests: Sequence[str], known: Mapping[str, Row], config: BuildConfig
    ) -> dict[str, Row]:
        rows = dict(known)
        # Users who lack the same adapters go together: after a deletion, everybody lacks the one new adapter.
        for lacking, group in _by_lack(users, digests, known).items():
            for user, found in self._validate(group, lacking, config):
                for number, key in enumerate(user.keys):
                    before = known[key].errors if key in known else {}
                    new = {digest: column[number] for digest, column in found.errors.items()}
                    rows[key] = Row(found.embeddings[number], {**before, **new})
        return rows

    def _validate(
        self, users: Sequence[ValidationUser], digests: Sequence[str], config: BuildConfig
    ) -> Iterable[tuple[ValidationUser, UserValidation]]:
        size = min(_USERS_A_TASK, math.ceil(len(users) / self._workforce.processes))  # so that no process is idle
        chunks = [users[i : i + size] for i in range(0, len(users), size)]
        adapters = {digest: self._tensors(digest) for digest in digests}
        tasks = [self._task(chunk, adapters, config) for chunk in chunks]
        self._progress.phase("validating adapters", len(users))
        for number, results in self._workforce.run(validate_users, tasks, self._progress.advance):
            yield from zip(chunks[number], results, strict=True)

    def _task(
        self, users: Sequence[ValidationUser], adapters: dict[str, dict[str, Floats]], config: BuildConfig
    ) -> ValidationTask:
        scaling = config.lora_alpha / config.lora_rank
        lessons = tuple(user.lessons for user in users)
        return ValidationTask(self._model, config.lora_targets, scaling, config.activation, lessons, adapters)

    def _tensors(self, digest: str) -> dict[str, Floats]:
        tensors: dict[str, Floats] = safetensors.numpy.load_file(
            self._store.adapter(digest) / "adapter_model.safetensors"
        )
        return tensors


def array_bytes(array: NDArray[Any]) -> bytes:
    """The array in NumPy's own format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def load_array(content: bytes) -> Floats:
    """The array of a generation's file; never unpickled."""
    array: Floats = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def _by_lack(
    users: Sequence[ValidationUser], digests: Sequence[str], known: Mapping[str, Row]
) -> dict[tuple[str, ...], list[ValidationUser]]:
    groups: dict[tuple[str, ...], list[ValidationUser]] = {}
    for user in users:
        row = known.get(user.keys[0])  # a user's rows are always computed together
        lacking = tuple(digest for digest in digests if row is None or digest not in row.errors)
        if lacking or row is None:
            groups.setdefault(lacking, []).append(user)
    return groups

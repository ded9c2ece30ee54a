"""The validation rows of a generation, by columns, against the same row by row and adapter by adapter."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from adapters_store import Store, StoredGeneration
from service.building.progress import Silent
from service.building.training.training import EncodedSample
from service.building.training.validation import UserValidation, Validated
from service.building.training.validation_table import KnownRows, RowMaker, ValidationUser, WantedRows
from service.llm.spec import ModelSpec
from service.records import BuildConfig, ModelIdentity
from tests.manifests import MODEL, adapter, manifest

FROZEN = MODEL
WIDTH = 3
DIGESTS = [f"{number:064x}" for number in range(9)]
USERS = {f"user-{number}": tuple(f"{hash_:08x}-{number}" for hash_ in range(1 + number % 3)) for number in range(8)}


def error(encoded: EncodedSample, digest: str) -> float:
    return encoded.context[0] + int(digest, 16) / 16


def encoded_samples_of(user: str) -> tuple[EncodedSample, ...]:
    return tuple(EncodedSample([10 * list(USERS).index(user) + n], [], True) for n in range(len(USERS[user])))


class MadeUp:
    """What a model would find; notes for how many pairs of lesson and adapter it was asked."""

    processes = 2

    def __init__(self) -> None:
        self.pairs = 0

    def run(
        self, function: Callable[..., Any], tasks: Sequence[Any], on_steps: Callable[[int], None] = lambda _: None
    ) -> Iterator[tuple[int, Any]]:
        for number, task in reversed(list(enumerate(tasks))):
            self.pairs += sum(map(len, task.users)) * len(task.adapters)
            found = [self._found(encoded_samples, list(task.adapters)) for encoded_samples in task.users]
            yield number, Validated(found, {})

    def beside(self, function: Callable[..., Any], task: Any) -> Any:
        raise AssertionError("nobody asks for that")

    def _found(self, encoded_samples: tuple[EncodedSample, ...], digests: list[str]) -> UserValidation:
        embeddings = np.array([[encoded.context[0]] * WIDTH for encoded in encoded_samples], np.float32)
        errors = {
            digest: np.array([error(encoded, digest) for encoded in encoded_samples], np.float32) for digest in digests
        }
        return UserValidation(embeddings, errors)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    for digest in DIGESTS:
        weights = safetensors.numpy.save({"w": np.zeros(1, np.float32)})
        store.adapters.add(digest, {"adapter_model.safetensors": weights})
    return store


def made(store: Store, users: Sequence[str], digests: Sequence[str], known: KnownRows) -> tuple[dict[str, bytes], int]:
    def files_of(digest: str) -> dict[str, bytes]:
        return store.adapters.stated(digest, store.adapters.sums(digest)).read()

    process_pool = MadeUp()
    maker = RowMaker(files_of, ModelSpec("none"), process_pool, Silent())
    asked = [ValidationUser(user, USERS[user]) for user in users]
    return maker.files(WantedRows(asked, digests, known, encoded_samples_of), BuildConfig()), process_pool.pairs


def stored(store: Store, files: dict[str, bytes], digests: Sequence[str]) -> StoredGeneration:
    made_of = manifest(adapters=tuple(map(adapter, digests)))
    return store.generation(store.add_generation(made_of.stated(), files))


@pytest.mark.parametrize("seed", range(30))
def test_rows_are_those_of_a_generation_that_knew_none_before(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    users, then = (chance.sample(sorted(USERS), chance.randint(0, 8)) for _ in "ab")
    digests, before = (chance.sample(DIGESTS, chance.randint(0, 9)) for _ in "ab")
    known = KnownRows.of(stored(store, made(store, then, before, KnownRows.of(None, FROZEN))[0], before), FROZEN)
    files, pairs = made(store, users, digests, known)
    assert files == made(store, users, digests, KnownRows.of(None, FROZEN))[0]
    rows = {key: encoded for user in users for key, encoded in zip(USERS[user], encoded_samples_of(user), strict=True)}
    keys = json.loads(files["rows.json"])
    assert keys == sorted(rows)
    errors, embeddings = (np.load(io.BytesIO(files[name])) for name in ("errors.npy", "embeddings.npy"))
    assert errors.shape == (len(keys), len(digests))
    assert len(embeddings) == len(keys)
    for number, key in enumerate(keys):
        assert errors[number].tolist() == [error(rows[key], digest) for digest in digests]
        assert embeddings[number].tolist() == [rows[key].context[0]] * WIDTH
    lacking = sum(user not in then or digest not in before for user in users for _ in USERS[user] for digest in digests)
    assert pairs == lacking


def test_rows_of_another_frozen_model_are_not_known(store: Store) -> None:
    files, _ = made(store, ["user-1"], DIGESTS[:2], KnownRows.of(None, FROZEN))
    generation = stored(store, files, DIGESTS[:2])
    assert KnownRows.of(generation, FROZEN).numbers.keys() == set(USERS["user-1"])
    assert KnownRows.of(generation, ModelIdentity("0" * 64, "float32")).numbers == {}

"""Runs the tests that name a hidden channel against copies of the code in which that channel was opened on purpose.

A process of its own: `python mutants.py COPIES RESULTS`. It imports the libraries once and forks for each mutant, so that
none costs more than the tests themselves. It must not import the service: every fork imports its own copy of it.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHANNELS = "tests/exactness/test_channels.py"
LIBRARIES = (
    "anyio._backends._asyncio",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "faiss",
    "hypothesis",
    "huggingface_hub",
    "numpy",
    "peft",
    "pytest",
    "redis",
    "safetensors.numpy",
    "safetensors.torch",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
    "tokenizers",
    "torch",
    "transformers.models.llama.modeling_llama",
    "transformers.pytorch_utils",
)


@dataclass(frozen=True)
class Mutant:
    """One channel opened: `old` stands in `file` exactly once, and `caught_by` names the test that must fail."""

    name: str
    file: str
    old: str
    new: str
    caught_by: str


MUTANTS = (
    Mutant(
        "rows in the database's own order",
        "service/ledger/horizon.py",
        "where(sa.or_(~c.deleted, counts_still)).order_by(c.item_id)",
        "where(sa.or_(~c.deleted, counts_still))",
        "test_the_order_of_rows_from_the_database",
    ),
    Mutant(
        "a person's rows as the view lists them",
        "service/data/samples.py",
        "rows = sorted(interactions, key=lambda row: (row.timestamp, row.item_id))",
        "rows = list(interactions)",
        "test_the_order_in_which_a_view_lists_people",
    ),
    Mutant(
        "split by rank among all users",
        "service/building/planning/corpus.py",
        "held_out = is_validation_user(user_id, config.validation_percent, config.seed)",
        "held_out = sorted(view.interactions).index(user_id) * config.validation_percent % 100 < 30",
        "test_split_and_samples_of_a_person_do_not_depend_on_who_else_there_is",
    ),
    Mutant(
        "sub-sampling that depends on the number of users",
        "service/building/planning/corpus.py",
        "items, config.history_length, config.samples_per_user)",
        "items, config.history_length, config.samples_per_user - len(view.interactions) % 2)",
        "test_split_and_samples_of_a_person_do_not_depend_on_who_else_there_is",
    ),
    Mutant(
        "negatives from what the people of a reading have met",
        "service/building/planning/incremental_plan.py",
        "corpus = corpus_of_some(view, pool, config)",
        "corpus = corpus_of_some(view, negative_pool(view.items, config), config)",
        "test_negatives_of_a_person_do_not_depend_on_who_else_there_is",
    ),
    Mutant(
        "negatives that only somebody's row names",
        "service/data/negatives.py",
        "(item for item in catalog if not item.created)",
        "(item for item in catalog)",
        "test_an_item_that_only_the_forgotten_person_had_is_nobodys_negative",
    ),
    Mutant(
        "planes fitted on users",
        "service/building/planning/placement.py",
        "        cells = known.of(units, tree)\n",
        "        tree = partition.PublicTree.through(self.embed(units, item_type), config.tree_depth)\n"
        "        cells = known.of(units, tree)\n",
        "test_a_persons_path_does_not_depend_on_who_else_there_is",
    ),
    Mutant(
        "a seed from the shard's position",
        "service/building/training/adapters.py",
        "self._training_task(shards[digest], item_type, config)",
        "self._training_task(shards[digest], item_type, "
        "BuildConfig.of({**{n: getattr(config, n) for n in config.__slots__}, 'seed': list(shards).index(digest)}))",
        "test_an_adapter_does_not_depend_on_other_shards",
    ),
    Mutant(
        "readers of an item that changes",
        "service/ledger/importing.py",
        "    mark_readers_changed(connection, known.keys() & {item.item_id for item in differing})\n",
        "",
        "test_a_title_that_changes_and_moves_no_plane",
    ),
    Mutant(
        "a seed from a counter",
        "service/building/training/training.py",
        "torch.manual_seed(config.seed)",
        "torch.manual_seed(torch.initial_seed() + 1)",
        "test_an_adapter_does_not_depend_on_what_was_trained_before_it",
    ),
    Mutant(
        "stopping early on shared validation data",
        "service/building/builder.py",
        "            self._train_missing(work, config)\n            rows =",
        "            self._train_missing(work, config if work.users else BuildConfig())\n            rows =",
        "test_an_adapter_does_not_depend_on_those_who_validate",
    ),
    Mutant(
        "validation users in one batch",
        "service/building/training/validation.py",
        "        results.append(_validate(mixture, stacks, encoded_samples, prefixes, task.activation))\n",
        "        everybody = tuple(encoded for own in task.users for encoded in own)\n"
        "        read = [reader.read([encoded.context for encoded in own]) for own in task.users]\n"
        "        prefixes = [prefix for prefill in read for prefix in prefill.prefixes()]\n"
        "        whole = _validate(mixture, stacks, everybody, prefixes, task.activation)\n"
        "        first = sum(map(len, task.users[: len(results)]))\n"
        "        mine = slice(first, first + len(encoded_samples))\n"
        # Beside one another rows may round differently, but need not; so what the batch shares is in them for all to see.
        "        errors = {digest: column[mine] / column.max() for digest, column in whole.errors.items()}\n"
        "        results.append(UserValidation(whole.embeddings[mine], errors))\n",
        "test_a_validation_row_does_not_depend_on_others_who_validate",
    ),
    Mutant(
        "tau from the data",
        "service/building/builder.py",
        "            config=config,\n",
        "            config=replace(config, tau=1.0 + len(work.shards)),\n",
        "test_a_configuration_holds_whatever_the_data",
    ),
    Mutant(
        "popularity in an item's text",
        "service/building/builder.py",
        "self._catalog_files(work, before)\n",
        "self._catalog_files(replace(work, items=[\n"
        "                Item(i.item_id, i.title, i.year, (str(sum(row.item_id == i.item_id for own in"
        " self._ledger.view().interactions.values() for row in own)),)) for i in work.items]), before)\n",
        "test_the_catalog_does_not_know_what_anybody_liked",
    ),
    Mutant(
        "counts that a mask leaves",
        "service/scoring/snapshot.py",
        "return self.memory.without(mask.memories)",
        "return self.memory.without()",
        "test_retrieval_counts_nobody_who_is_gone",
    ),
    Mutant(
        "an item model that a mask leaves",
        "service/scoring/recommender.py",
        "snapshot.item_model if mask.empty else None",
        "snapshot.item_model",
        "test_retrieval_counts_nobody_who_is_gone",
    ),
    Mutant(
        "a cap shared by all memories",
        "service/building/memories.py",
        "count_people(histories)",
        "count_people([own[-2 - len(self._memories._found) % 2 :] for own in histories])",
        "test_a_memory_does_not_depend_on_other_memories",
    ),
    Mutant(
        "a memory known by what is in it and not by its order",
        "service/memory/counting.py",
        "[[row.item_id, row.liked] for row in rows]]",
        "sorted([row.item_id, row.liked] for row in rows)]",
        "test_an_order_of_time_that_changes",
    ),
    Mutant(
        "catalog known by its ids",
        "service/building/builder.py",
        "catalog = digest_of([self._made_with, [_row_of(item) for item in plan.items]])",
        "catalog = digest_of([self._made_with, [item.item_id for item in plan.items]])",
        "test_genres_that_change_under_an_id",
    ),
    Mutant(
        "validation rows known by their user",
        "service/building/builder.py",
        "row_keys(self._secret, user.user_id, batch, user.samples)",
        "row_keys(self._secret, user.user_id, user.user_id, user.samples)",
        "test_validation_rows_of_somebody_whose_opinions_change",
    ),
    Mutant(
        "what was read of somebody before",
        "service/building/workers/prefill.py",
        '        digest.update(array("q", [len(context), *context]).tobytes())\n',
        '        digest.update(array("q", [len(contexts)]).tobytes())\n',
        "test_what_was_read_of_people_whose_opinions_change",
    ),
    Mutant(
        "what is remembered of somebody who changes",
        "service/ledger/horizon.py",
        "    mark_changed(connection, users)\n",
        "",
        "test_the_path_of_somebody_whose_opinions_change",
    ),
    Mutant(
        "adapters numbered as their processes end",
        "service/building/training/adapters.py",
        "for number, trained in self._process_pool.run(train_adapter, lent, self._trained):",
        "for number, (_, trained) in enumerate(self._process_pool.run(train_adapter, lent, self._trained)):",
        "test_which_process_ends_first",
    ),
    Mutant(
        "what another library computed",
        "service/building/training/adapters.py",
        'return digest_of([{**self._recipe(config), "units": content}, MANNER, self._environment])',
        'return digest_of([{**self._recipe(config), "units": content}, MANNER])',
        "test_what_another_environment_computed_is_not_taken_for_ones_own",
    ),
    Mutant(
        "times in what an adapter is named by",
        "service/data/samples.py",
        "yield Sample(rows[i].user_id, history, opinions[i].item, opinions[i].liked)",
        "yield Sample(rows[i].user_id, history, opinions[i].item, rows[i].timestamp % 2 == 0)",
        "test_times_count_by_their_order_alone",
    ),
    Mutant(
        "a key that outlives what it sealed",
        "adapters_store/encrypted.py",
        "        self._keys.destroy(self.look().keys_left())\n",
        "",
        "test_the_key_of_what_had_seen_somebody_goes_with_it",
    ),
)


def mutated(mutant: Mutant | None, folder: Path) -> Path:
    """A copy of the code, with the mutant's change; the model that is bundled is no code and is linked."""
    for package in ("service", "adapters_store"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "base_model"))
    (folder / "service/bundled/base_model").symlink_to(ROOT / "service/bundled/base_model")
    if mutant is not None:
        file = folder / mutant.file
        code = file.read_text()
        assert code.count(mutant.old) == 1, (
            f"{mutant.name}: {mutant.file} holds {mutant.old!r} {code.count(mutant.old)} times"
        )
        file.write_text(code.replace(mutant.old, mutant.new))
    return folder


class Outcomes:
    """A pytest plugin: the name of each test -> whether its own code passed."""

    def __init__(self) -> None:
        self.passed: dict[str, bool] = {}
        self.told: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid.rpartition("::")[2].partition("[")[0]
        if report.when == "call":
            self.passed[name] = self.passed.get(name, True) and report.passed
        if report.failed:
            self.told.append(f"{report.when} of {report.nodeid}: {report.longreprtext[-600:]}")


def run_tests(copy: Path, tests: Sequence[str], results: Path) -> None:
    """In a fork: these tests with the copy's code instead of the real one."""
    import pytest  # noqa: PLC0415 - imported long before; only the name is needed

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    outcomes = Outcomes()
    chosen = [f"{ROOT / CHANNELS}::{test}" for test in tests]
    plain = [
        "-q",
        "--assert=plain",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(ROOT),
        "-c",
        str(ROOT / "pyproject.toml"),
        "-m",
        "",  # what catches a mutant may be thorough
        "-o",
        f"pythonpath={copy} {ROOT}",
    ]
    pytest.main([*plain, f"--basetemp={copy / 'tmp'}", *chosen], plugins=[outcomes])
    used = str(sys.modules["service"].__file__)
    told = {"service": used, "passed": outcomes.passed, "told": outcomes.told}
    results.write_text(json.dumps(told))


def main(copies: Path, results: Path) -> None:
    """Two forks at a time: one for the code as it is, and one for each mutant."""
    for library in LIBRARIES:
        importlib.import_module(library)
    assert "service" not in sys.modules
    gc.freeze()  # what is here already is everybody's, and nobody's garbage
    context = multiprocessing.get_context("fork")
    waiting: list[tuple[str, Mutant | None]] = [("control", None)] + [(mutant.name, mutant) for mutant in MUTANTS]
    running: list[Any] = []
    for number, (name, mutant) in enumerate(waiting):
        copy = mutated(mutant, copies / str(number))
        tests = sorted({each.caught_by for each in ([mutant] if mutant else MUTANTS)})
        while len([process for process in running if process.is_alive()]) >= 2:
            multiprocessing.connection.wait([process.sentinel for process in running if process.is_alive()])
        running.append(context.Process(target=run_tests, args=(copy, tests, results / f"{name}.json")))
        running[-1].start()
    for process in running:
        process.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""What was read of people's contexts and kept: it changes no bit, stays within its bounds, and ends with a deletion."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from service.building.training.training import EncodedSample, Trained, TrainingTask, train_adapter
from service.building.workers.prefill import Prefill, prefill_name, read_together
from service.building.workers.prefill_cache import (
    Kept,
    Loan,
    PrefillCache,
    Reader,
)
from service.building.workers.prefill_task import PrefillTask, read_contexts
from service.building.workers.process_pool import ProcessPool
from service.building.workers.shared_memory import Block, SharedMemory, whole_pages
from service.llm.frozen import FrozenModel
from service.llm.packed import FORWARD_TOKENS
from service.llm.spec import ModelSpec
from service.records import AdapterKind, BuildConfig, Item, RatedItem

NOUN = "movie"
CONFIG = BuildConfig(lora_rank=2, lora_alpha=6, epochs=2, learning_rate=0.05, batch_size=4)
PAGE = whole_pages(1)
ROOM = 2**24


def nothing(steps: int) -> None:
    pass


@pytest.fixture
def frozen(tiny_models: Callable[[str], Path], architecture: str) -> FrozenModel:
    return FrozenModel.load(ModelSpec(str(tiny_models(architecture))))


@pytest.fixture
def llama(tiny_models: Callable[[str], Path]) -> FrozenModel:
    return FrozenModel.load(ModelSpec(str(tiny_models("llama"))))


def contexts_of(frozen: FrozenModel, person: int, count: int) -> list[list[int]]:
    opinions = [RatedItem(Item("", f"Film {person} {n}"), n % 2 == 0) for n in range(count)]
    return [frozen.tokenizer.context(opinions[:n], NOUN) for n in range(count)]


def same(one: Prefill, other: Prefill) -> bool:
    pairs = zip(one.tensors, other.tensors, strict=True)
    return one.lengths == other.lengths and all(torch.equal(a, b) for a, b in pairs)


# Reading


@pytest.mark.parametrize("embed", [True, False])
def test_a_persons_reading_is_what_padded_rows_say(frozen: FrozenModel, embed: bool) -> None:
    contexts = contexts_of(frozen, 1, 5)
    plain = frozen.read_padded_prefixes(contexts)
    prefixes = read_together(frozen, contexts, embed).prefixes()
    for row, (prefix, context) in enumerate(zip(prefixes, contexts, strict=True)):
        assert len(prefix.states) == 2 * frozen.layers
        for ours, theirs in zip(prefix.states, plain.states, strict=True):
            torch.testing.assert_close(ours, theirs[row, :, : len(context)], rtol=1e-4, atol=1e-4)
        if embed:
            torch.testing.assert_close(prefix.embedding, plain.embeddings[row], rtol=1e-4, atol=1e-4)
        else:
            assert prefix.embedding.numel() == 0


def test_somebody_with_more_than_a_pass_takes_is_read_in_parts(llama: FrozenModel) -> None:
    contexts = contexts_of(llama, 1, 6) * (FORWARD_TOKENS // 100)
    assert sum(map(len, contexts)) > FORWARD_TOKENS
    many, few = read_together(llama, contexts, True).prefixes(), read_together(llama, contexts[:6], True).prefixes()
    assert len(many) == len(contexts)
    for one, other in zip(many[-6:], few, strict=True):
        torch.testing.assert_close(one.embedding, other.embedding, rtol=1e-4, atol=1e-4)


def test_a_reading_is_named_by_all_that_is_read_in_its_order() -> None:
    named = [
        prefill_name([[1, 2], [3]], embed=True),
        prefill_name([[1, 2], [3]], embed=False),
        prefill_name([[3], [1, 2]], embed=True),
        prefill_name([[1], [2, 3]], embed=True),
        prefill_name([[1, 2, 3]], embed=True),
        prefill_name([[1, 2]], embed=True),
    ]
    assert len(set(named)) == len(named)


# Shared memory


def test_tensors_are_read_as_they_were_written_and_zeros_once_they_are_wiped() -> None:
    memory = SharedMemory()
    tensors = [torch.randn(2, 3, 5), torch.empty(4, 0), torch.randn(7).bfloat16(), torch.arange(3)]
    blocks = [Block.of(tensors, memory.reserve(PAGE)) for _ in range(2)]
    for block in blocks:
        memory.write(block, tensors)
    memory.wipe(blocks[0].offset, blocks[0].size)
    assert not any(tensor.any() for tensor in memory.read(blocks[0]))
    for found, written in zip(memory.read(blocks[1]), tensors, strict=True):
        assert found.dtype == written.dtype
        assert torch.equal(found, written)
        assert found.data_ptr() % 64 == 0


# Keeping


def reads(
    prefill_cache: PrefillCache, frozen: FrozenModel, people: Mapping[str, list[list[int]]], embed: bool = True
) -> dict[str, Kept]:
    """A task that reads these people's contexts: what it left."""
    with prefill_cache.lend([{prefill_name(own, embed): who for who, own in people.items()}]) as lending:
        reader = Reader(frozen, lending.loans[0], embed)
        for contexts in people.values():
            assert same(reader.read(contexts), read_together(frozen, contexts, embed))
        lending.left[0] = reader.left
    return reader.left


def test_what_was_read_once_is_found_again_to_the_last_bit(frozen: FrozenModel) -> None:
    prefill_cache, people = PrefillCache(ROOM), {who: contexts_of(frozen, n, 4) for n, who in enumerate(("ann", "bob"))}
    assert len(reads(prefill_cache, frozen, people)) == 2
    assert prefill_cache.people == {"ann", "bob"}
    assert reads(prefill_cache, frozen, people) == {}
    assert len(reads(prefill_cache, frozen, people, embed=False)) == 2
    assert len(reads(prefill_cache, frozen, {"ann": people["ann"][:3]})) == 1


def test_people_who_said_the_same_are_kept_once(llama: FrozenModel) -> None:
    prefill_cache, contexts = PrefillCache(ROOM), contexts_of(llama, 1, 4)
    name = prefill_name(contexts, True)
    with prefill_cache.lend([{name: "ann"}, {name: "bob"}]) as lending:
        for number, loan in enumerate(lending.loans):
            reader = Reader(llama, loan, embed=True)
            reader.read(contexts)
            lending.left[number] = reader.left
    assert prefill_cache.people == {"ann"}
    assert reads(prefill_cache, llama, {"bob": contexts}) == {}


def test_whoever_is_forgotten_leaves_zeros_and_nobody_else_does(llama: FrozenModel) -> None:
    prefill_cache, people = PrefillCache(ROOM), {who: contexts_of(llama, n, 4) for n, who in enumerate(("ann", "bob"))}
    with prefill_cache.lend([{prefill_name(own, True): who for who, own in people.items()}]) as lending:
        memory, reader = lending.loans[0].memory, Reader(llama, lending.loans[0], embed=True)
        for contexts in people.values():
            reader.read(contexts)
        lending.left[0] = reader.left
    prefill_cache.forget({"ann", "somebody else"})
    assert prefill_cache.people == {"bob"}
    kept = {who: reader.left[prefill_name(own, True)].block for who, own in people.items()}
    assert memory is not None
    assert not any(tensor.any() for tensor in memory.read(kept["ann"]))
    assert all(tensor.any() for tensor in memory.read(kept["bob"]))
    assert prefill_cache.nbytes == kept["bob"].size
    assert len(reads(prefill_cache, llama, people)) == 1


def test_there_is_no_more_than_the_room_and_what_was_used_longest_ago_goes_first(llama: FrozenModel) -> None:
    people = {f"{n}": contexts_of(llama, n, 3) for n in range(4)}
    size = next(iter(reads(PrefillCache(ROOM), llama, {"0": people["0"]}).values())).block.size
    prefill_cache = PrefillCache(3 * size)
    for who in ("0", "1", "2", "0", "3"):
        reads(prefill_cache, llama, {who: people[who]})
    assert prefill_cache.people == {"0", "2", "3"}
    assert prefill_cache.nbytes == 3 * size
    assert len(reads(prefill_cache, llama, people)) < 4


def test_without_room_nothing_is_kept_and_everything_is_read(llama: FrozenModel) -> None:
    prefill_cache, people = PrefillCache(0), {"ann": contexts_of(llama, 1, 3)}
    for _ in range(2):
        assert reads(prefill_cache, llama, people) == {}
    assert prefill_cache.people == frozenset()


def test_a_task_that_fails_leaves_nothing(llama: FrozenModel) -> None:
    prefill_cache, contexts = PrefillCache(ROOM), contexts_of(llama, 1, 3)
    read: list[_Watched] = []
    with pytest.raises(ValueError, match="killed"):
        _read_and_die(prefill_cache, llama, contexts, read)
    [reader] = read
    assert prefill_cache.people == frozenset()
    [left] = reader.left.values()
    assert reader.memory is not None
    assert not any(tensor.any() for tensor in reader.memory.read(left.block))


class _Watched(Reader):
    """Tells which memory it writes to."""

    def __init__(self, frozen: FrozenModel, loan: Loan) -> None:
        super().__init__(frozen, loan, embed=True)
        self.memory = loan.memory


def _read_and_die(
    prefill_cache: PrefillCache, frozen: FrozenModel, contexts: list[list[int]], read: list[_Watched]
) -> None:
    with prefill_cache.lend([{prefill_name(contexts, True): "ann"}]) as lending:
        read.append(_Watched(frozen, lending.loans[0]))
        read[0].read(contexts)
        raise ValueError("killed")


# Training


def _task(frozen: FrozenModel, people: Sequence[int]) -> TrainingTask:
    """The lessons of some people, mixed."""
    chance, own = random.Random(3), {person: contexts_of(frozen, person, 5) for person in people}
    pairs = [(person, context) for person, contexts in own.items() for context in contexts]
    chance.shuffle(pairs)
    question = frozen.tokenizer.question(Item("", "Film"), NOUN)
    encoded_samples = tuple(EncodedSample(context, question, len(context) % 2 == 0) for _, context in pairs)
    numbers = tuple(tuple(n for n, (whose, _) in enumerate(pairs) if whose == person) for person in people)
    return TrainingTask("5eed" * 16, frozen.spec, [], encoded_samples, numbers, CONFIG)


def _wanted(task: TrainingTask) -> dict[str, str]:
    return {
        prefill_name([task.encoded_samples[n].context for n in numbers], embed=False): str(person)
        for person, numbers in enumerate(task.people)
    }


@pytest.mark.thorough
def test_a_process_trains_the_same_bytes_from_what_others_left(llama: FrozenModel) -> None:
    prefill_cache, process_pool = PrefillCache(ROOM), ProcessPool(2)
    tasks = [_task(llama, people) for people in ((0, 1, 2), (3, 4))]
    alone = [train_adapter(task, nothing).files for task in tasks]
    for already in (0, 5):
        with prefill_cache.lend([_wanted(task) for task in tasks]) as lending:
            assert sum(len(loan.kept) for loan in lending.loans) == already
            lent = [replace(task, loan=loan) for task, loan in zip(tasks, lending.loans, strict=True)]
            for number, trained in process_pool.run(train_adapter, lent):
                assert trained.files == alone[number]
                lending.left[number] = trained.left
    assert prefill_cache.people == {"0", "1", "2"}  # as `_wanted` calls those of either task


def _read_before(prefill_cache: PrefillCache, task: TrainingTask, shares: int) -> int:
    """Read a task's contexts in so many tasks, one after another: of how many people something was left."""
    own = [[task.encoded_samples[n].context for n in numbers] for numbers in task.people]
    names = list(_wanted(task).items())
    with prefill_cache.lend([dict(names[first::shares]) for first in range(shares)]) as lending:
        for first, loan in enumerate(lending.loans):
            lending.left[first] = read_contexts(PrefillTask(task.model, tuple(own[first::shares]), loan), nothing)
    return len(prefill_cache.people)


def _train_with(prefill_cache: PrefillCache, task: TrainingTask) -> Trained:
    with prefill_cache.lend([_wanted(task)]) as lending:
        trained = train_adapter(replace(task, loan=lending.loans[0]), nothing)
        lending.left[0] = trained.left
    return trained


def test_contexts_that_others_read_before_train_the_same_bytes(frozen: FrozenModel, architecture: str) -> None:
    targets = ("c_attn",) if architecture == "gpt2" else CONFIG.lora_targets
    task = replace(_task(frozen, (0, 1, 2)), config=replace(CONFIG, lora_targets=targets))
    prefill_cache = PrefillCache(ROOM)
    assert _read_before(prefill_cache, task, shares=2) == 3
    trained = _train_with(prefill_cache, task)
    assert trained.left == {}
    assert trained.files == train_adapter(task, nothing).files


@pytest.mark.parametrize("adapter", ["rslora", "dora", "vera", "ia3"])
def test_an_adapter_of_any_kind_is_not_there_while_contexts_are_read(llama: FrozenModel, adapter: AdapterKind) -> None:
    task = replace(_task(llama, (0, 1)), config=replace(CONFIG, adapter=adapter))
    prefill_cache = PrefillCache(ROOM)
    assert _read_before(prefill_cache, task, shares=2) == 2
    assert _train_with(prefill_cache, task).files == train_adapter(task, nothing).files


def test_what_there_was_no_room_for_is_read_by_who_trains(llama: FrozenModel) -> None:
    task = _task(llama, (0, 1, 2))
    size = next(
        iter(reads(PrefillCache(ROOM), llama, {"0": contexts_of(llama, 0, 5)}, embed=False).values())
    ).block.size
    prefill_cache = PrefillCache(2 * size)
    assert _read_before(prefill_cache, task, shares=1) == 2
    trained = _train_with(prefill_cache, task)
    assert len(trained.left) == 1
    assert trained.files == train_adapter(task, nothing).files

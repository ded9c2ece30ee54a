from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.building.planning.embedding import EmbeddingTask, embed_groups
from service.building.training.training import EncodedSample
from service.building.training.validation import ValidationTask, error, validate_users
from service.building.training.validation_table import row_keys
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.records import Activation, Item, RatedItem

NOUN = "movie"
TARGETS = ("q_proj", "v_proj")
SCALING = 2.0

activation = pytest.mark.parametrize("activation", ["question", "prompt"])


@pytest.fixture
def frozen(tiny_models: Callable[..., Path]) -> FrozenModel:
    return FrozenModel.load(ModelSpec(str(tiny_models("llama"))))


@pytest.fixture
def task(
    frozen: FrozenModel, random_adapter: Callable[..., dict[str, torch.Tensor]]
) -> Callable[[Activation], ValidationTask]:
    """A function: activation -> the validation of three users under two adapters."""
    adapters = {
        name: {key: tensor.numpy() for key, tensor in random_adapter(frozen.model, TARGETS, 2, ord(name)).items()}
        for name in "xy"
    }
    users = tuple(tuple(_encoded_samples(frozen.tokenizer, user, count)) for user, count in enumerate((3, 1, 4)))
    return lambda activation: ValidationTask(frozen.spec, TARGETS, SCALING, activation, users, adapters)


def _encoded_samples(tokenizer: PromptTokenizer, user: int, count: int) -> Iterator[EncodedSample]:
    for number in range(count):
        history = [RatedItem(Item("", f"Film {user} {n}"), n % 2 == 0) for n in range(number + 1)]
        question = tokenizer.question(Item("", f"Target {user} {number}"), NOUN)
        yield EncodedSample(tokenizer.context(history, NOUN), question, number % 2 == 0)


def _nothing(steps: int) -> None:
    pass


# Errors


@activation
def test_an_error_is_the_probability_of_the_other_answer(
    frozen: FrozenModel,
    task: Callable[[Activation], ValidationTask],
    merged_model: Callable[..., FrozenModel],
    activation: Activation,
) -> None:
    given = task(activation)
    found = validate_users(given, _nothing).users
    for name, arrays in given.adapters.items():
        adapter = {key: torch.from_numpy(array) for key, array in arrays.items()}
        merged = merged_model(frozen, [adapter], SCALING, [1.0], "ND")
        for user, encoded_samples in enumerate(given.users):
            plain = [_slow_error(frozen, merged, encoded, activation) for encoded in encoded_samples]
            np.testing.assert_allclose(found[user].errors[name], plain, rtol=1e-4)


def _slow_error(frozen: FrozenModel, merged: FrozenModel, encoded: EncodedSample, activation: Activation) -> float:
    if activation == "prompt":
        difference = merged.yes_no_logits_whole([encoded.context + encoded.question])
    else:
        difference = merged.yes_no_logits([encoded.question], frozen.read_padded_prefixes([encoded.context]))
    probability_of_yes = float(torch.sigmoid(difference)[0])
    return 1.0 - probability_of_yes if encoded.liked else probability_of_yes


def test_a_certain_right_answer_has_no_error_and_a_certain_wrong_one_is_all_error() -> None:
    found = error(torch.tensor([40.0, -40.0, 40.0, -40.0]), [True, False, False, True])
    assert found.tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0], abs=1e-12)


@activation
def test_a_users_rows_do_not_depend_on_other_users_nor_on_other_adapters_to_the_last_bit(
    task: Callable[[Activation], ValidationTask], activation: Activation
) -> None:
    given = task(activation)
    together = validate_users(given, _nothing).users
    only_y = {"y": given.adapters["y"]}
    for number, encoded_samples in enumerate(given.users):
        alone = ValidationTask(given.model, TARGETS, SCALING, activation, (encoded_samples,), only_y)
        [found] = validate_users(alone, _nothing).users
        assert found.errors["y"].tobytes() == together[number].errors["y"].tobytes()
        assert found.embeddings.tobytes() == together[number].embeddings.tobytes()


@activation
def test_many_rows_of_one_user_keep_their_order(
    frozen: FrozenModel, task: Callable[[Activation], ValidationTask], activation: Activation
) -> None:
    given, encoded_samples = task(activation), tuple(_encoded_samples(frozen.tokenizer, 0, 4)) * 9
    [found, *parts] = validate_users(
        replace(given, users=(encoded_samples, encoded_samples[:32], encoded_samples[32:])), _nothing
    ).users
    for name in given.adapters:
        of_parts = np.concatenate([part.errors[name] for part in parts])
        np.testing.assert_allclose(found.errors[name], of_parts, rtol=1e-4)
        np.testing.assert_allclose(found.errors[name], np.tile(found.errors[name][:4], 9), rtol=1e-4)
    of_parts = np.concatenate([part.embeddings for part in parts])
    np.testing.assert_allclose(found.embeddings, of_parts, rtol=1e-4, atol=1e-5)


def test_a_row_stands_where_its_context_stands(
    frozen: FrozenModel, task: Callable[[Activation], ValidationTask]
) -> None:
    given = task("question")
    for found, encoded_samples in zip(validate_users(given, _nothing).users, given.users, strict=True):
        alone = torch.cat([frozen.embed([encoded.context]) for encoded in encoded_samples])
        np.testing.assert_allclose(found.embeddings, alone.numpy(), rtol=1e-4, atol=1e-5)


def test_a_user_is_a_step(task: Callable[[Activation], ValidationTask]) -> None:
    steps: list[int] = []
    validate_users(task("question"), steps.append)
    assert steps == [1, 1, 1]


# Keys


def test_row_keys_are_distinct_and_say_nothing_without_the_secret() -> None:
    keys = row_keys(b"secret", "someone", "batch", 3)
    assert len(set(keys)) == 3
    others = [
        row_keys(b"other", "someone", "batch", 3),
        row_keys(b"secret", "other", "batch", 3),
        row_keys(b"secret", "someone", "other", 3),
    ]
    assert not set(keys) & {key for other in others for key in other}
    assert row_keys(b"secret", "someone", "batch", 3) == keys


# Embeddings of units


def test_a_units_embedding_does_not_depend_on_other_units_to_the_last_bit(frozen: FrozenModel) -> None:
    groups = tuple(
        tuple(encoded.context for encoded in _encoded_samples(frozen.tokenizer, user, count))
        for user, count in enumerate((2, 5, 1))
    )
    together = embed_groups(EmbeddingTask(frozen.spec, groups), _nothing)
    for number, group in enumerate(groups):
        alone = embed_groups(EmbeddingTask(frozen.spec, (group,)), _nothing)
        assert alone[0].tobytes() == together[number].tobytes()


def test_a_units_embedding_is_the_mean_over_its_samples_of_unit_length(frozen: FrozenModel) -> None:
    group = tuple(encoded.context for encoded in _encoded_samples(frozen.tokenizer, 0, 20))
    [found] = embed_groups(EmbeddingTask(frozen.spec, (group,)), _nothing)
    mean = torch.cat([frozen.embed([context]) for context in group]).mean(dim=0)
    np.testing.assert_allclose(found, torch.nn.functional.normalize(mean, dim=0).numpy(), rtol=1e-4, atol=1e-5)


def test_no_units_have_no_embeddings(frozen: FrozenModel) -> None:
    assert embed_groups(EmbeddingTask(frozen.spec, ()), _nothing).shape == (0, 0)

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from service.building.training.training import EncodedSample, TrainingTask, train_adapter
from service.building.workers.prefill import read_together
from service.building.workers.prefill_cache import PrefillCache
from service.errors import ModelUnsuitable
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.records import Activation, AdapterKind, BuildConfig, Item, RatedItem

NOUN = "movie"
CONFIG = BuildConfig(lora_rank=2, lora_alpha=6, epochs=3, learning_rate=0.05, batch_size=4)
RECIPE = "5eed" * 16
PEOPLE = ((0, 3, 4), (1,), (2, 5, 6, 7, 8, 9))

activation = pytest.mark.parametrize("activation", ["question", "prompt"])


def _task(folder: Path, config: BuildConfig = CONFIG, recipe: str = RECIPE) -> TrainingTask:
    spec = ModelSpec(str(folder))
    tokenizer = PromptTokenizer.load(spec)
    return TrainingTask(recipe, spec, tokenizer.invocation(NOUN), tuple(_encoded_samples(tokenizer)), PEOPLE, config)


def _files(task: TrainingTask) -> dict[str, bytes]:
    return train_adapter(task, _nothing).files


def _encoded_samples(tokenizer: PromptTokenizer) -> Iterator[EncodedSample]:
    for number in range(10):
        liked = number % 2 == 0
        history = [RatedItem(Item(str(n), f"Film {n}"), n % 2 == 0) for n in range(number % 4)]
        question = tokenizer.question(Item("", f"{'Good' if liked else 'Bad'} {number}"), NOUN)
        yield EncodedSample(tokenizer.context(history, NOUN), question, liked)


def _for(architecture: str, activation: Activation) -> BuildConfig:
    targets = ("c_attn",) if architecture == "gpt2" else ("q_proj", "v_proj")
    return replace(CONFIG, lora_targets=targets, activation=activation)


def _nothing(steps: int) -> None:
    pass


def _scores(files: Mapping[str, bytes], task: TrainingTask) -> torch.Tensor:
    """Lethe's own logit differences under one adapter, given as files."""
    frozen = FrozenModel.load(task.model)
    config, tensors = task.config, safetensors.torch.load(files["adapter_model.safetensors"])
    mixture = Mixture(frozen, config.lora_targets)
    stack = AdapterStack.of({task.recipe: tensors}, config.adapter_scaling, frozen)
    alone = torch.ones(len(task.encoded_samples), 1)
    if config.activation == "prompt":
        return mixture.yes_no_logits_whole(
            [one.context + one.question for one in task.encoded_samples], stack, alone, "ND"
        )
    contexts = frozen.read_prefixes([one.context for one in task.encoded_samples])
    questions = [one.question for one in task.encoded_samples]
    return mixture.yes_no_logits_packed(questions, [1] * len(questions), contexts, stack, alone, "ND")


def _scores_without(task: TrainingTask) -> torch.Tensor:
    return FrozenModel.load(task.model).yes_no_logits_whole(
        [one.context + one.question for one in task.encoded_samples]
    )


@activation
def test_peft_alone_opens_an_adapter_and_gives_the_same_score(
    tiny_models: Callable[..., Path], tmp_path: Path, architecture: str, activation: Activation
) -> None:
    task = _task(tiny_models(architecture), _for(architecture, activation))
    _equal_to_peft(_files(task), task, tmp_path)


@pytest.mark.parametrize("adapter", get_args(AdapterKind))
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_peft_alone_opens_an_adapter_of_any_kind_and_gives_the_same_score(
    tiny_models: Callable[..., Path], tmp_path: Path, architecture: str, adapter: AdapterKind
) -> None:
    config = replace(_for(architecture, "prompt"), adapter=adapter, learning_rate=0.2)
    task = _task(tiny_models(architecture), config)
    _equal_to_peft(_files(task), task, tmp_path)


@pytest.mark.parametrize("adapter", ["vera", "ia3"])
def test_kinds_that_peft_cannot_keep_to_layers_stay_above_the_first_one(
    tiny_models: Callable[..., Path], tmp_path: Path, adapter: AdapterKind
) -> None:
    config = replace(CONFIG, activation="prompt", adapter=adapter, learning_rate=0.2, adapt_from_layer=1)
    task = _task(tiny_models("llama"), config)
    files = _files(task)
    names = [name for name in safetensors.torch.load(files["adapter_model.safetensors"]) if ".layers." in name]
    assert names
    assert not [name for name in names if ".layers.0." in name]
    _equal_to_peft(files, task, tmp_path)


@pytest.mark.parametrize("adapter", ["dora", "vera", "ia3"])
def test_a_kind_that_cannot_be_on_an_embedding_is_refused_there(
    tiny_models: Callable[..., Path], adapter: AdapterKind
) -> None:
    config = replace(CONFIG, adapter=adapter, lora_targets=("q_proj", "embed_tokens"))
    with pytest.raises(ModelUnsuitable, match="lora and rslora can"):
        _files(_task(tiny_models("llama"), config))


def _equal_to_peft(files: Mapping[str, bytes], task: TrainingTask, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(task.model.name), tmp_path).eval()
    tokenizer = PromptTokenizer.load(task.model)
    theirs = []
    for encoded in task.encoded_samples:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([encoded.context + encoded.question])).logits[0, -1]
        theirs.append(logits[tokenizer.yes] - logits[tokenizer.no])
    ours = _scores(files, task)
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-4, atol=1e-4)
    assert (ours - _scores_without(task)).abs().max() > 0.05


@activation
def test_training_again_gives_the_same_bytes_whatever_the_process_did_before(
    tiny_models: Callable[..., Path], activation: Activation
) -> None:
    task = _task(tiny_models("llama"), replace(CONFIG, activation=activation))
    first = _files(task)
    torch.manual_seed(999)
    torch.randn(1000) @ torch.randn(1000)
    assert _files(task) == first


def test_another_digest_visits_the_batches_in_another_order(tiny_models: Callable[..., Path]) -> None:
    task = _task(tiny_models("llama"))
    assert _files(task) != _files(replace(task, recipe="0a" * 32))


@activation
def test_training_moves_the_scores_towards_the_labels(tiny_models: Callable[..., Path], activation: Activation) -> None:
    task = _task(tiny_models("llama"), replace(CONFIG, activation=activation, epochs=12))
    scores = _scores(_files(task), task)
    liked = torch.tensor([encoded.liked for encoded in task.encoded_samples])
    before = _scores_without(task)
    assert scores[liked].mean() > before[liked].mean()
    assert scores[~liked].mean() < before[~liked].mean()
    assert scores[liked].min() > scores[~liked].max()


def test_all_adapters_start_from_the_same_a_and_from_b_zero(tiny_models: Callable[..., Path]) -> None:
    task = _task(tiny_models("llama"), replace(CONFIG, epochs=0))
    first, second = (_files(replace(task, recipe=recipe)) for recipe in (RECIPE, "0a" * 32))
    assert first == second
    tensors = safetensors.torch.load(first["adapter_model.safetensors"])
    assert all(tensor.any() == ("lora_A" in name) for name, tensor in tensors.items())


@activation
def test_an_adapters_files_hold_no_path_no_time_and_no_more_than_peft_needs(
    tiny_models: Callable[..., Path], tmp_path: Path, activation: Activation
) -> None:
    folder = tiny_models("llama")
    task = _task(folder, replace(CONFIG, activation=activation))
    files = _files(task)
    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors"]
    for content in files.values():
        assert str(folder).encode() not in content
        assert folder.name.encode() not in content
    stated = json.loads(files["adapter_config.json"])
    assert stated["base_model_name_or_path"] is None
    assert (stated["r"], stated["lora_alpha"]) == (2, 6)
    assert stated["target_modules"] == ["q_proj", "v_proj"]
    assert stated.get("alora_invocation_tokens") == (task.invocation if activation == "question" else None)


def test_where_the_model_lies_does_not_change_an_adapter(tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    task = _task(tiny_models("llama"))
    (tmp_path / "elsewhere").symlink_to(tiny_models("llama"))
    elsewhere = replace(task, model=ModelSpec(str(tmp_path / "elsewhere")))
    assert _files(elsewhere) == _files(task)


@pytest.mark.thorough
@activation
def test_a_model_in_half_precision_learns_too_and_gives_the_same_bytes_again(
    tiny_models: Callable[..., Path], activation: Activation
) -> None:
    task = _task(tiny_models("llama"), replace(CONFIG, activation=activation, epochs=12))
    half = replace(task, model=replace(task.model, dtype="bfloat16"))
    files = _files(half)
    assert _files(half) == files
    liked = torch.tensor([encoded.liked for encoded in task.encoded_samples])
    scores = _scores(files, half)
    assert scores[liked].mean() > scores[~liked].mean() + 1.0


def test_an_epoch_is_a_step(tiny_models: Callable[..., Path]) -> None:
    steps: list[int] = []
    train_adapter(_task(tiny_models("llama")), steps.append)
    assert steps == [1, 1, 1]


def test_a_target_that_names_no_layer_is_refused(tiny_models: Callable[..., Path]) -> None:
    task = _task(tiny_models("llama"), replace(CONFIG, lora_targets=("query",)))
    with pytest.raises(ModelUnsuitable, match="q_proj"):
        _files(task)


# Adapters on the input embedding


@activation
def test_an_embedding_learns_of_the_tokens_that_meet_adapters(
    tiny_models: Callable[..., Path], activation: Activation
) -> None:
    config = replace(CONFIG, lora_targets=("q_proj", "embed_tokens"), activation=activation)
    task = _task(tiny_models("llama"), config)
    files = _files(task)
    [learned] = [
        tensor
        for name, tensor in safetensors.torch.load(files["adapter_model.safetensors"]).items()
        if name.endswith("embed_tokens.lora_embedding_A")
    ]
    met = {token for own in task.encoded_samples for token in own.question}
    if activation == "prompt":
        met.update(token for own in task.encoded_samples for token in own.context)
    assert set(learned.abs().sum(dim=0).nonzero()[:, 0].tolist()) <= met
    assert learned.abs().sum() > 0
    assert files == _files(task)


def test_an_embedding_lies_below_every_layer_that_adapters_could_begin_at(tiny_models: Callable[..., Path]) -> None:
    config = replace(CONFIG, lora_targets=("q_proj", "embed_tokens"), adapt_from_layer=1)
    with pytest.raises(ModelUnsuitable, match="embedding"):
        _files(_task(tiny_models("llama"), config))


# Adapters on upper layers only


@activation
def test_adapters_from_a_layer_on_leave_those_below_as_they_are_and_score_as_peft_does(
    tiny_models: Callable[..., Path], tmp_path: Path, architecture: str, activation: Activation
) -> None:
    task = _task(tiny_models(architecture), replace(_for(architecture, activation), adapt_from_layer=1))
    files = _files(task)
    tensors = safetensors.torch.load(files["adapter_model.safetensors"])
    assert {_layer(name) for name in tensors} == {1}
    _equal_to_peft(files, task, tmp_path)


def _layer(name: str) -> int:
    return next(int(part) for part in name.split(".") if part.isdigit())


def test_from_the_first_layer_on_is_all_of_them(tiny_models: Callable[..., Path]) -> None:
    files = _files(_task(tiny_models("llama")))
    assert {_layer(name) for name in safetensors.torch.load(files["adapter_model.safetensors"])} == {0, 1}
    assert json.loads(files["adapter_config.json"])["layers_to_transform"] is None


def test_a_first_layer_above_the_model_is_refused_with_the_layers_there_are(tiny_models: Callable[..., Path]) -> None:
    task = _task(tiny_models("llama"), replace(CONFIG, adapt_from_layer=2))
    with pytest.raises(ModelUnsuitable, match=r"adapt_from_layer 2 leaves no layer .* 0 to 1"):
        _files(task)


# Contexts that do not fit into memory


def _people_read(task: TrainingTask) -> int:
    """Of how many people the contexts were read one person after the other: each of them leaves what was read."""
    with PrefillCache(2**24).lend([{}]) as lending:
        return len(train_adapter(replace(task, loan=lending.loans[0]), _nothing).left)


# Bits do not tell person by person from batch by batch: on some processors both round the same. What is left does; that all
# of it would be too much shows with the first person.


def test_contexts_that_are_read_batch_by_batch_teach_the_same_up_to_rounding(tiny_models: Callable[..., Path]) -> None:
    task = _task(tiny_models("llama"))
    tight, roomier = (replace(task, prefix_memory=room) for room in (1_000, 40_000))
    assert [_people_read(each) for each in (tight, roomier, task)] == [1, 1, len(PEOPLE)]
    assert _files(tight) == _files(roomier)  # batches that are kept for the next epoch change no bit
    torch.testing.assert_close(_scores(_files(tight), task), _scores(_files(task), task), rtol=1e-3, atol=1e-3)


def test_batches_that_stay_side_by_side_for_the_next_epoch_change_no_bit(tiny_models: Callable[..., Path]) -> None:
    task = _task(tiny_models("llama"))
    contexts = [encoded.context for encoded in task.encoded_samples]
    barely = read_together(
        FrozenModel.load(task.model), contexts, embed=False
    ).nbytes  # what was read, and nothing beside
    assert _people_read(replace(task, prefix_memory=barely)) == len(PEOPLE)
    assert _people_read(replace(task, prefix_memory=barely - 1)) == 1
    assert _files(replace(task, prefix_memory=barely)) == _files(task)


def test_how_contexts_are_divided_among_people_changes_rounding_alone(tiny_models: Callable[..., Path]) -> None:
    task = _task(tiny_models("llama"))
    together = replace(task, people=(tuple(range(10)),))
    torch.testing.assert_close(_scores(_files(together), task), _scores(_files(task), task), rtol=1e-3, atol=1e-3)


# A process that loads no tokenizer


@activation
def test_a_model_that_is_told_its_answers_trains_the_same_bytes(
    tiny_models: Callable[..., Path], activation: Activation
) -> None:
    task = _task(tiny_models("llama"), replace(CONFIG, activation=activation))
    told = replace(task.model, answers=PromptTokenizer.load(task.model).answers)
    assert _files(replace(task, model=told)) == _files(task)

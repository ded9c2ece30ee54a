"""Training, validation and embedding on T5, Flan-T5 and BART: what is promised of causal models holds here too."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from service.building.planning.embedding import EmbeddingTask, embed_groups
from service.building.training.training import EncodedSample, TrainingTask, train_adapter
from service.building.training.validation import ValidationTask, validate_users
from service.building.workers.prefill import prefill_name, read_together
from service.building.workers.prefill_cache import PrefillCache
from service.errors import ModelUnsuitable
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.records import Activation, BuildConfig, Item, RatedItem

pytestmark = pytest.mark.thorough

NOUN = "movie"
RECIPE = "5eed" * 16
PEOPLE = ((0, 3, 4), (1,), (2, 5, 6, 7, 8, 9))
CONFIG = BuildConfig(lora_rank=2, lora_alpha=6, epochs=3, learning_rate=0.05, batch_size=4)

activation = pytest.mark.parametrize("activation", ["question", "prompt"])


@pytest.fixture(params=["t5", "bart"])
def folder(request: pytest.FixtureRequest, tiny_models: Callable[..., Path]) -> Path:
    return tiny_models(request.param)


def targets_of(folder: Path) -> tuple[str, ...]:
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    return ("q_proj", "v_proj") if kind == "bart" else ("q", "v")


def task_of(folder: Path, activation: Activation, **changed: Any) -> TrainingTask:
    spec = ModelSpec(str(folder))
    tokenizer = PromptTokenizer.load(spec)
    config = replace(CONFIG, lora_targets=targets_of(folder), activation=activation, **changed)
    return TrainingTask(RECIPE, spec, tokenizer.invocation(NOUN), tuple(_encoded_samples(tokenizer)), PEOPLE, config)


def _encoded_samples(tokenizer: PromptTokenizer) -> Iterator[EncodedSample]:
    for number in range(10):
        liked = number % 2 == 0
        history = [RatedItem(Item(str(n), f"Film {n}"), n % 2 == 0) for n in range(number % 4)]
        question = tokenizer.question(Item("", f"{'Good' if liked else 'Bad'} {number}"), NOUN)
        yield EncodedSample(tokenizer.context(history, NOUN), question, liked)


def _nothing(steps: int) -> None:
    pass


def _files(task: TrainingTask) -> dict[str, bytes]:
    return train_adapter(task, _nothing).files


def _tensors(files: dict[str, bytes]) -> dict[str, Tensor]:
    return safetensors.torch.load(files["adapter_model.safetensors"])


def _scores(files: dict[str, bytes], task: TrainingTask) -> Tensor:
    """Lethe's own logit differences under one adapter, given as files."""
    frozen, config = FrozenModel.load(task.model), task.config
    mixture = Mixture(frozen, config.lora_targets)
    stack = AdapterStack.of({"x": _tensors(files)}, config.lora_alpha / config.lora_rank, frozen)
    alone, runs = torch.ones(len(task.encoded_samples), 1), [1] * len(task.encoded_samples)
    if config.activation == "prompt":
        prompts = [one.context + one.question for one in task.encoded_samples]
        return mixture.yes_no_logits_packed(prompts, runs, [], stack, alone, "ND")
    prefixes = frozen.read_prefixes([one.context for one in task.encoded_samples])
    questions = [one.question for one in task.encoded_samples]
    return mixture.yes_no_logits_packed(questions, runs, prefixes, stack, alone, "ND")


def _scores_by_peft(files: dict[str, bytes], task: TrainingTask, folder: Path) -> Tensor:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(task.model.name), folder).eval()
    tokenizer = PromptTokenizer.load(task.model)
    start, found = model.config.decoder_start_token_id, []
    for one in task.encoded_samples:
        whole = task.config.activation == "prompt"
        read = [*one.context, *(one.question if whole else []), *tokenizer.answers.closing]
        said = torch.tensor([[start, *([] if whole else one.question)]])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([read]), decoder_input_ids=said).logits[0, -1]
        found.append(logits[tokenizer.yes] - logits[tokenizer.no])
    return torch.stack(found)


# Training


@activation
def test_peft_alone_opens_an_adapter_and_gives_the_same_score(
    tiny_models: Callable[..., Path], encoder_decoder: str, tmp_path: Path, activation: Activation
) -> None:
    task = task_of(tiny_models(encoder_decoder), activation)
    files = _files(task)
    ours = _scores(files, task)
    torch.testing.assert_close(ours, _scores_by_peft(files, task, tmp_path), rtol=1e-4, atol=1e-4)
    assert (ours - _scores(_files(replace(task, config=replace(task.config, epochs=0))), task)).abs().max() > 0.05


@activation
def test_adapters_are_in_the_decoder_alone_where_the_encoder_reads_for_all_of_them(
    folder: Path, activation: Activation
) -> None:
    files = _files(task_of(folder, activation))
    places = {
        name.removeprefix("base_model.model.").removeprefix("model.").partition(".")[0] for name in _tensors(files)
    }
    assert places == ({"decoder"} if activation == "question" else {"decoder", "encoder"})
    crossing = [name for name in _tensors(files) if "EncDecAttention" in name or "encoder_attn" in name]
    assert crossing
    stated = json.loads(files["adapter_config.json"])
    assert stated["task_type"] == "SEQ_2_SEQ_LM"
    assert "alora_invocation_tokens" not in stated or stated["alora_invocation_tokens"] is None


@activation
def test_training_again_gives_the_same_bytes_and_moves_the_scores(folder: Path, activation: Activation) -> None:
    task = task_of(folder, activation, epochs=8)
    files = _files(task)
    torch.randn(1000) @ torch.randn(1000)
    told = replace(task.model, answers=PromptTokenizer.load(task.model).answers)
    assert _files(replace(task, model=told)) == files
    scores, liked = _scores(files, task), torch.tensor([one.liked for one in task.encoded_samples])
    assert scores[liked].min() > scores[~liked].max()


@activation
def test_adapters_from_a_layer_on_leave_those_below_as_they_are(
    folder: Path, tmp_path: Path, activation: Activation
) -> None:
    task = task_of(folder, activation, adapt_from_layer=1)
    files = _files(task)
    layers = {next(int(part) for part in name.split(".") if part.isdigit()) for name in _tensors(files)}
    assert layers == {1, 2}  # of the decoder; the encoder ends with 1
    torch.testing.assert_close(_scores(files, task), _scores_by_peft(files, task, tmp_path), rtol=1e-4, atol=1e-4)


def test_a_first_layer_above_the_decoder_is_refused_with_the_layers_there_are(folder: Path) -> None:
    with pytest.raises(ModelUnsuitable, match=r"adapt_from_layer 3 leaves no layer .* 0 to 2"):
        _files(task_of(folder, "question", adapt_from_layer=3))


def test_contexts_that_are_read_batch_by_batch_teach_the_same_up_to_rounding(folder: Path) -> None:
    task = task_of(folder, "question")
    tight = _files(replace(task, prefix_memory=1_000))
    torch.testing.assert_close(_scores(tight, task), _scores(_files(task), task), rtol=1e-3, atol=2e-3)


def test_what_an_earlier_build_read_changes_no_bit(folder: Path) -> None:
    task = task_of(folder, "question")
    contexts = [[task.encoded_samples[number].context for number in numbers] for numbers in PEOPLE]
    wanted = {prefill_name(of_one, embed=False): str(person) for person, of_one in enumerate(contexts)}
    cache, trained = PrefillCache(2**24), []
    for _ in range(2):
        with cache.lend([wanted]) as lending:
            trained.append(train_adapter(replace(task, loan=lending.loans[0]), _nothing))
            lending.left[0] = trained[-1].left
    assert [len(each.left) for each in trained] == [len(PEOPLE), 0]
    assert trained[0].files == trained[1].files == _files(task)


def test_a_persons_reading_is_the_encoders_last_layer_and_nothing_beside(folder: Path) -> None:
    frozen = FrozenModel.load(ModelSpec(str(folder)))
    contexts = [encoded.context for encoded in _encoded_samples(frozen.tokenizer)]
    prefill = read_together(frozen, contexts, embed=True)
    plain = frozen.read_padded_prefixes(contexts)
    assert len(prefill.tensors) == 2
    for row, prefix in enumerate(prefill.prefixes()):
        torch.testing.assert_close(prefix.states[0], plain.states[0][row, :, : prefix.tokens], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(prefix.embedding, plain.embeddings[row], rtol=1e-4, atol=1e-4)


@activation
def test_a_model_in_half_precision_learns_too_and_gives_the_same_bytes_again(
    folder: Path, activation: Activation
) -> None:
    task = task_of(folder, activation, epochs=8)
    half = replace(task, model=replace(task.model, dtype="bfloat16"))
    files = _files(half)
    assert _files(half) == files
    scores, liked = _scores(files, half), torch.tensor([one.liked for one in task.encoded_samples])
    assert scores[liked].mean() > scores[~liked].mean() + 0.5


# Validation


@activation
def test_an_error_is_the_probability_of_the_other_answer(
    folder: Path,
    random_adapter: Callable[..., dict[str, Tensor]],
    merged_model: Callable[..., FrozenModel],
    activation: Activation,
) -> None:
    frozen, task = FrozenModel.load(ModelSpec(str(folder))), _validation(folder, random_adapter, activation)
    found = validate_users(task, _nothing).users
    for name, arrays in task.adapters.items():
        adapter = {key: torch.from_numpy(array) for key, array in arrays.items()}
        merged = merged_model(frozen, [adapter], task.scaling, [1.0], "ND")
        for user, encoded_samples in enumerate(task.users):
            slow = [_slow_error(frozen, merged, encoded, activation) for encoded in encoded_samples]
            np.testing.assert_allclose(found[user].errors[name], slow, rtol=1e-3, atol=1e-5)


def _slow_error(frozen: FrozenModel, merged: FrozenModel, encoded: EncodedSample, activation: Activation) -> float:
    if activation == "prompt":
        difference = merged.yes_no_logits_whole([encoded.context + encoded.question])
    else:
        difference = merged.yes_no_logits([encoded.question], frozen.read_padded_prefixes([encoded.context]))
    probability_of_yes = float(torch.sigmoid(difference)[0])
    return 1.0 - probability_of_yes if encoded.liked else probability_of_yes


@activation
def test_a_users_rows_do_not_depend_on_other_users_nor_on_other_adapters_to_the_last_bit(
    folder: Path, random_adapter: Callable[..., dict[str, Tensor]], activation: Activation
) -> None:
    task = _validation(folder, random_adapter, activation)
    together = validate_users(task, _nothing).users
    for number, encoded_samples in enumerate(task.users):
        alone = replace(task, users=(encoded_samples,), adapters={"y": task.adapters["y"]})
        [found] = validate_users(alone, _nothing).users
        assert found.errors["y"].tobytes() == together[number].errors["y"].tobytes()
        assert found.embeddings.tobytes() == together[number].embeddings.tobytes()


def _validation(
    folder: Path, random_adapter: Callable[..., dict[str, Tensor]], activation: Activation
) -> ValidationTask:
    frozen, targets = FrozenModel.load(ModelSpec(str(folder))), targets_of(folder)
    adapters = {}
    for name in "xy":
        made = random_adapter(frozen.model, targets, 2, ord(name))
        kept = {key: value for key, value in made.items() if activation == "prompt" or "decoder." in key}
        adapters[name] = {key: value.numpy() for key, value in kept.items()}
    samples = tuple(_encoded_samples(frozen.tokenizer))
    return ValidationTask(frozen.spec, targets, 2.0, activation, (samples[:3], samples[3:4], samples[4:]), adapters)


def test_a_units_embedding_does_not_depend_on_other_units_to_the_last_bit(folder: Path) -> None:
    spec = ModelSpec(str(folder))
    contexts = [encoded.context for encoded in _encoded_samples(PromptTokenizer.load(spec))]
    groups = (tuple(contexts[:2]), tuple(contexts[2:9]), tuple(contexts[9:]))
    together = embed_groups(EmbeddingTask(spec, groups), _nothing)
    for number, group in enumerate(groups):
        assert embed_groups(EmbeddingTask(spec, (group,)), _nothing)[0].tobytes() == together[number].tobytes()

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from transformers import PreTrainedModel

from service.errors import ModelUnsuitable
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.llm.spec import ModelSpec
from service.records import Item, Level, RatedItem

NOUN = "movie"
RANK, SCALING = 3, 2.0
TITLES = ("Heat (1995)", "Up", "The Good, the Bad and the Ugly (1966)", "Yes")
WEIGHTS = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.0, 0.9, 0.1], [1 / 3, 1 / 3, 1 / 3]])

level = pytest.mark.parametrize("level", ["ND", "D"])


class Bench:
    """One architecture: the model that the mixture is attached to, an untouched twin, three random adapters, a batch."""

    def __init__(
        self,
        folder: Path,
        architecture: str,
        random_adapter: Callable[..., dict[str, torch.Tensor]],
        merged_model: Callable[..., FrozenModel],
    ) -> None:
        self._merged_model = merged_model
        self.targets = ("c_attn",) if architecture == "gpt2" else ("q_proj", "v_proj")
        self.frozen, self.plain = (FrozenModel.load(ModelSpec(str(folder))) for _ in range(2))
        self.adapters = {name: random_adapter(self.plain.model, self.targets, RANK, ord(name)) for name in "xyz"}
        self.mixture = Mixture(self.frozen, self.targets)
        self.stack = self.stack_of("xyz")
        tokenizer = self.frozen.tokenizer
        histories = [[RatedItem(Item("", title), True) for title in TITLES[:length]] for length in (0, 3, 1, 2)]
        self.heads = [tokenizer.context(history, NOUN) for history in histories]
        self.questions = [tokenizer.question(Item("", title), NOUN) for title in TITLES]
        self.whole = [head + question for head, question in zip(self.heads, self.questions, strict=True)]
        self.contexts = self.plain.read_padded_prefixes(self.heads)

    def answered(self, weights: torch.Tensor, level: Level, numbers: Sequence[int] = range(4)) -> torch.Tensor:
        """By the mixture: questions after contexts of the frozen model alone."""
        prefixes = self.plain.read_prefixes([self.heads[number] for number in numbers])
        questions = [self.questions[number] for number in numbers]
        return self.mixture.yes_no_logits_packed(questions, [1] * len(numbers), prefixes, self.stack, weights, level)

    def stack_of(self, names: Iterable[str]) -> AdapterStack:
        return AdapterStack.of({name: self.adapters[name] for name in names}, SCALING, self.frozen)

    def merged(self, weights: torch.Tensor, level: Level) -> FrozenModel:
        return self._merged_model(self.plain, list(self.adapters.values()), SCALING, weights.tolist(), level)


@pytest.fixture
def bench(
    tiny_models: Callable[..., Path],
    architecture: str,
    random_adapter: Callable[..., dict[str, torch.Tensor]],
    merged_model: Callable[..., FrozenModel],
) -> Bench:
    return Bench(tiny_models(architecture), architecture, random_adapter, merged_model)


@pytest.fixture
def llama(
    tiny_models: Callable[..., Path],
    random_adapter: Callable[..., dict[str, torch.Tensor]],
    merged_model: Callable[..., FrozenModel],
) -> Bench:
    return Bench(tiny_models("llama"), "llama", random_adapter, merged_model)


def _equal(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


# Against slow and obvious ways


@level
def test_a_mixture_over_whole_prompts_equals_merged_weights_row_by_row(bench: Bench, level: Level) -> None:
    slow = [bench.merged(w, level).yes_no_logits_whole([row]) for w, row in zip(WEIGHTS, bench.whole, strict=True)]
    fast = bench.mixture.yes_no_logits_whole(bench.whole, bench.stack, WEIGHTS, level)
    _equal(fast, torch.cat(slow).detach())
    assert (fast - bench.plain.yes_no_logits_whole(bench.whole)).abs().max() > 0.01


@level
def test_a_mixture_over_questions_equals_merged_weights_after_a_context_of_the_frozen_model(
    bench: Bench, level: Level
) -> None:
    slow = []
    for number, question in enumerate(bench.questions):
        context = bench.contexts.rows(torch.tensor([number]))
        slow.append(bench.merged(WEIGHTS[number], level).yes_no_logits([question], context))
    _equal(bench.answered(WEIGHTS, level), torch.cat(slow))


def test_the_two_levels_differ_unless_one_adapter_has_all_the_weight(llama: Bench) -> None:
    nd, d = (llama.mixture.yes_no_logits_whole(llama.whole, llama.stack, WEIGHTS, level) for level in ("ND", "D"))
    assert (nd - d).abs()[[0, 2, 3]].min() > 1e-4
    assert torch.equal(nd[1], d[1])  # the sum that D takes over the adapters adds zeros to the one


def test_the_nd_level_is_what_peft_calls_a_weighted_adapter(bench: Bench) -> None:
    lora = LoraConfig(
        r=RANK,
        lora_alpha=int(RANK * SCALING),
        target_modules=list(bench.targets),
        fan_in_fan_out="c_attn" in bench.targets,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        model = get_peft_model(copy.deepcopy(bench.plain.model), lora, adapter_name="x")
        for name in "yz":
            model.add_adapter(name, lora)
    for name, tensors in bench.adapters.items():
        set_peft_model_state_dict(model, tensors, adapter_name=name)
    model.add_weighted_adapter(list("xyz"), WEIGHTS[0].tolist(), "mixed", combination_type="cat")
    model.set_adapter("mixed")
    base = cast(PreTrainedModel, model.get_base_model())
    theirs = FrozenModel(bench.plain.spec, base, bench.plain.tokenizer).yes_no_logits_whole(bench.whole)
    _equal(bench.mixture.yes_no_logits_whole(bench.whole, bench.stack, WEIGHTS[:1].expand(4, 3), "ND"), theirs)


# Weights


@level
def test_an_adapter_of_weight_zero_is_not_there(bench: Bench, level: Level) -> None:
    def answered(stack: AdapterStack, *row: float) -> torch.Tensor:
        return bench.mixture.yes_no_logits_whole(bench.whole, stack, torch.tensor([row] * 4), level)

    loud = {name: tensor * 100 for name, tensor in bench.adapters["y"].items()}
    louder = AdapterStack.of({**bench.adapters, "y": loud}, SCALING, bench.frozen)
    masked = answered(bench.stack, 0.4, 0.0, 0.6)
    # Zeros are added whatever it says, and products of one shape add in one order: this is exact.
    assert torch.equal(masked, answered(louder, 0.4, 0.0, 0.6))
    assert (masked - answered(louder, 0.4, 0.1, 0.6)).abs().max() > 0.01
    # Without its columns a product has another shape, whose sums may be rounded in another order.
    _equal(masked, answered(bench.stack_of("xz"), 0.4, 0.6))


@level
def test_without_any_weight_the_frozen_model_answers_alone(bench: Bench, level: Level) -> None:
    nothing = torch.zeros(4, 3)
    whole = bench.mixture.yes_no_logits_whole(bench.whole, bench.stack, nothing, level)
    assert torch.equal(whole, bench.plain.yes_no_logits_whole(bench.whole))
    asked = bench.plain.yes_no_logits_packed(bench.questions, [1] * 4, bench.plain.read_prefixes(bench.heads))
    assert torch.equal(bench.answered(nothing, level), asked)


def test_a_stack_of_no_adapters_leaves_the_frozen_model_alone(llama: Bench) -> None:
    empty = AdapterStack.of({}, SCALING, llama.frozen)
    answered = llama.mixture.yes_no_logits_whole(llama.whole, empty, torch.zeros(4, 0), "ND")
    assert torch.equal(answered, llama.plain.yes_no_logits_whole(llama.whole))


@level
def test_rows_of_one_batch_may_have_different_weights(bench: Bench, level: Level) -> None:
    alone = [bench.answered(WEIGHTS[number : number + 1], level, [number]) for number in range(4)]
    _equal(bench.answered(WEIGHTS, level), torch.cat(alone))


# Calls beside and after one another


def test_two_threads_that_score_at_once_do_not_see_each_others_weights(llama: Bench) -> None:
    stacks = [llama.stack, llama.stack_of("zy")]
    weights = [WEIGHTS, torch.tensor([[0.1, 0.9]] * 4)]

    def score(which: int) -> torch.Tensor:
        return llama.mixture.yes_no_logits_whole(llama.whole, stacks[which], weights[which], "ND")

    expected = [score(0), score(1)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(score, [0, 1] * 40))
    for number, answered in enumerate(found):
        assert torch.equal(answered, expected[number % 2])  # one thread each, products of one shape
    assert (expected[0] - expected[1]).abs().max() > 0.01


def test_after_a_call_the_frozen_model_is_what_it_was(bench: Bench) -> None:
    before = {name: parameter.clone() for name, parameter in bench.frozen.model.named_parameters()}
    bench.mixture.yes_no_logits_whole(bench.whole, bench.stack, WEIGHTS, "ND")
    assert torch.equal(bench.frozen.yes_no_logits_whole(bench.whole), bench.plain.yes_no_logits_whole(bench.whole))
    assert all(torch.equal(before[name], parameter) for name, parameter in bench.frozen.model.named_parameters())


def test_after_a_failed_call_the_frozen_model_is_what_it_was(llama: Bench) -> None:
    with pytest.raises(RuntimeError):
        llama.mixture.yes_no_logits_whole(llama.whole, llama.stack, torch.ones(4, 7), "ND")
    assert torch.equal(llama.frozen.yes_no_logits_whole(llama.whole), llama.plain.yes_no_logits_whole(llama.whole))


def test_two_mixtures_of_one_model_do_not_add_up(llama: Bench) -> None:
    before = llama.mixture.yes_no_logits_whole(llama.whole, llama.stack, WEIGHTS, "ND")
    other = Mixture(llama.frozen, ("o_proj",))
    assert torch.equal(llama.mixture.yes_no_logits_whole(llama.whole, llama.stack, WEIGHTS, "ND"), before)
    assert other.frozen is llama.frozen


@pytest.mark.parametrize("target", ["query", "lm_head", "norm"])
def test_a_target_that_names_no_linear_layer_inside_is_refused_with_the_names_there_are(
    llama: Bench, target: str
) -> None:
    with pytest.raises(ModelUnsuitable, match=rf"'{target}'.*'q_proj'"):
        Mixture(llama.frozen, ("v_proj", target))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_nearly_the_same_scores(llama: Bench, dtype: str) -> None:
    half = FrozenModel.load(replace(llama.frozen.spec, dtype=dtype))
    stack = AdapterStack.of(llama.adapters, SCALING, half)
    mixture = Mixture(half, llama.targets)
    for level in ("ND", "D"):
        exact = llama.mixture.yes_no_logits_whole(llama.whole, llama.stack, WEIGHTS, level)
        found = mixture.yes_no_logits_whole(llama.whole, stack, WEIGHTS, level)
        assert found.dtype == torch.float32
        _equal(found, exact, 0.25 if dtype == "bfloat16" else 0.05)
        prefixes = half.read_prefixes(llama.heads)
        asked = mixture.yes_no_logits_packed(llama.questions, [1] * 4, prefixes, stack, torch.zeros(4, 3), level)
        _equal(asked, llama.plain.yes_no_logits_whole(llama.whole), 0.25 if dtype == "bfloat16" else 0.05)

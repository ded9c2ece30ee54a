"""Adapters on the input embedding: each token's vector has a part of its own in them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor

from service.errors import ModelUnsuitable
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.llm.spec import ModelSpec
from service.records import Item, Level, RatedItem

RANK, SCALING = 2, 1.5
NOUN = "movie"
TITLES = ("Heat (1995)", "Up", "Yes")
MODULE = "base_model.model.model.embed_tokens"

Tensors = dict[str, Tensor]


def adapter(width: int, vocabulary: int, seed: int) -> Tensors:
    chance = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(size, generator=chance) for size in ((RANK, vocabulary), (width, RANK)))
    return {f"{MODULE}.lora_embedding_A": a, f"{MODULE}.lora_embedding_B": b * 0.3}


class Bench:
    """A model with a mixture, a plain twin, six adapters on the embedding, contexts and questions."""

    def __init__(self, folder: Path) -> None:
        self.spec = ModelSpec(str(folder))
        self.frozen, self.plain = FrozenModel.load(self.spec), FrozenModel.load(self.spec)
        embedding: Any = self.plain.model.get_input_embeddings()
        vocabulary, width = embedding.weight.shape
        self.adapters = {str(number): adapter(width, vocabulary, number) for number in range(6)}
        self.mixture = Mixture(self.frozen, ("embed_tokens",))
        self.stack = AdapterStack.of(self.adapters, SCALING, self.frozen)
        tokenizer = self.frozen.tokenizer
        self.contexts = [tokenizer.context([RatedItem(Item("", TITLES[n]), True)], NOUN) for n in range(3)]
        self.questions = [tokenizer.question(Item("", title), NOUN) for title in TITLES]

    def slowly(self, weights: Tensor, level: Level, ask: Callable[[FrozenModel], Tensor]) -> Tensor:
        """What the twin answers while a loop over all adapters adds to its embedding."""

        def add_delta(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            names = (f"{MODULE}.lora_embedding_A", f"{MODULE}.lora_embedding_B")
            parts = [tuple(own[name] for name in names) for own in self.adapters.values()]
            u = [a.T[inputs[0]] for a, _ in parts]
            summed = sum(w * own for w, own in zip(weights, u, strict=True))
            for w, (_, b), own in zip(weights, parts, u, strict=True):
                output = output + SCALING * w * (own if level == "ND" else summed) @ b.T
            return output

        hook = self.plain.model.get_input_embeddings().register_forward_hook(add_delta)
        try:
            return ask(self.plain)
        finally:
            hook.remove()


@pytest.fixture
def bench(tiny_models: Callable[..., Path]) -> Bench:
    return Bench(tiny_models("llama"))


DENSE = torch.softmax(torch.arange(18.0).view(3, 6) % 5, dim=1)
SPARSE = torch.tensor([[0.7, 0, 0, 0.3, 0, 0], [0, 0, 0, 0, 0, 1.0], [0, 0.5, 0.5, 0, 0, 0]])
weights = pytest.mark.parametrize("weights", [DENSE, SPARSE], ids=["all", "few"])
level = pytest.mark.parametrize("level", ["ND", "D"])


@weights
@level
def test_questions_meet_the_loop_over_all_adapters_and_contexts_none(
    bench: Bench, weights: Tensor, level: Level
) -> None:
    prefixes = bench.plain.read_prefixes(bench.contexts)
    texts, runs = [*bench.questions, bench.questions[0]], [1, 1, 2]
    fast = bench.mixture.yes_no_logits_packed(texts, runs, prefixes, bench.stack, weights, level)
    context = bench.plain.read_padded_prefixes(bench.contexts)
    slow = []
    for text, run in zip(texts, (0, 1, 2, 2), strict=True):
        own = context.rows(torch.tensor([run]))
        slow.append(
            bench.slowly(weights[run], level, partial(FrozenModel.yes_no_logits, questions=[text], prefixes=own))
        )
    torch.testing.assert_close(fast, torch.cat(slow), rtol=1e-4, atol=1e-4)
    assert (fast - bench.plain.yes_no_logits_packed(texts, runs, prefixes)).abs().max() > 0.01


@weights
@level
def test_whole_prompts_meet_the_loop_over_all_adapters(bench: Bench, weights: Tensor, level: Level) -> None:
    whole = [context + question for context, question in zip(bench.contexts, bench.questions, strict=True)]
    fast = bench.mixture.yes_no_logits_whole(whole, bench.stack, weights, level)
    slow = [
        bench.slowly(w, level, partial(FrozenModel.yes_no_logits_whole, prompts_ids=[text]))
        for text, w in zip(whole, weights, strict=True)
    ]
    torch.testing.assert_close(fast, torch.cat(slow), rtol=1e-4, atol=1e-4)


def test_one_adapter_alone_answers_as_peft_does(bench: Bench) -> None:
    lora = LoraConfig(r=RANK, lora_alpha=int(RANK * SCALING), target_modules=["embed_tokens", "q_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied weights, and of a flag by its old name
        model: Any = get_peft_model(bench.plain.model, lora)
    with torch.no_grad():
        for number, parameter in enumerate(own for own in model.parameters() if own.requires_grad):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.3)
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    stack = AdapterStack.of({"one": tensors}, SCALING, bench.frozen)
    mixture = Mixture(FrozenModel.load(bench.spec), ("embed_tokens", "q_proj"))
    ours = mixture.yes_no_logits_whole(bench.questions, stack, torch.ones(3, 1), "ND")
    theirs = bench.plain.yes_no_logits_whole(bench.questions)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-4)


def test_an_embedding_that_reads_contexts_of_its_own_takes_no_adapter(tiny_models: Callable[..., Path]) -> None:
    with pytest.raises(ModelUnsuitable, match="shared"):
        Mixture(FrozenModel.load(ModelSpec(str(tiny_models("t5")))), ("shared",))

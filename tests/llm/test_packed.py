from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from service.llm import packed
from service.llm.attention import attend_in_steps
from service.llm.decoder_only import DecoderOnly
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.llm.packed import Runs
from service.llm.spec import ModelSpec
from service.records import Item, Level, RatedItem

NOUN = "movie"
TITLES = ("Heat (1995)", "Up", "The Good, the Bad and the Ugly (1966)", "Yes", "Alien (1979)")
RUNS = [3, 1, 4, 2]  # of questions, over contexts of four lengths
OWNER = torch.repeat_interleave(torch.arange(4), torch.tensor(RUNS))


def _padding(folder: Path) -> FrozenModel:
    """A model of an architecture whose attention cannot be replaced."""
    frozen = FrozenModel.load(ModelSpec(str(folder)))
    assert isinstance(frozen.architecture, DecoderOnly)
    frozen.architecture.packs = False
    return frozen


class Texts:
    def __init__(self, frozen: FrozenModel) -> None:
        tokenizer = frozen.tokenizer
        histories = [[RatedItem(Item("", title), True) for title in TITLES[:length]] for length in (0, 3, 1, 5)]
        self.heads = [tokenizer.context(history, NOUN) for history in histories]
        self.questions = [tokenizer.question(Item("", title), NOUN) for title in TITLES * 2]
        self.whole = [self.heads[owner] + question for owner, question in zip(OWNER, self.questions, strict=True)]


@pytest.fixture
def frozen(tiny_models: Callable[..., Path], architecture: str) -> FrozenModel:
    return FrozenModel.load(ModelSpec(str(tiny_models(architecture))))


@pytest.fixture
def texts(frozen: FrozenModel) -> Texts:
    return Texts(frozen)


@pytest.fixture
def llama(tiny_models: Callable[..., Path]) -> FrozenModel:
    return FrozenModel.load(ModelSpec(str(tiny_models("llama"))))


def _close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def _padded(frozen: FrozenModel, texts: Texts) -> torch.Tensor:
    with torch.no_grad():
        return frozen.yes_no_logits(texts.questions, frozen.read_padded_prefixes(texts.heads).rows(OWNER))


def test_a_packed_context_is_the_padded_one(frozen: FrozenModel, texts: Texts) -> None:
    assert frozen.packs
    contexts = frozen.read_padded_prefixes(texts.heads)
    for row, prefix in enumerate(frozen.read_prefixes(texts.heads)):
        assert prefix.tokens == len(texts.heads[row])
        _close(prefix.embedding, contexts.embeddings[row])
        for ours, theirs in zip(prefix.states, contexts.states, strict=True):
            _close(ours, theirs[row, :, : prefix.tokens])


def test_packed_questions_are_answered_as_padded_ones(frozen: FrozenModel, texts: Texts) -> None:
    prefixes = frozen.read_prefixes(texts.heads)
    _close(frozen.yes_no_logits_packed(texts.questions, RUNS, prefixes), _padded(frozen, texts))


def test_packed_prompts_are_answered_as_padded_ones(frozen: FrozenModel, texts: Texts) -> None:
    with torch.no_grad():
        _close(frozen.yes_no_logits_packed(texts.whole, RUNS, []), frozen.yes_no_logits_whole(texts.whole))


def test_questions_of_one_length_over_one_context_are_answered_as_one_at_a_time(
    frozen: FrozenModel, texts: Texts
) -> None:
    [question] = [frozen.tokenizer.question(Item("", "Up"), NOUN)]
    [prefix] = frozen.read_prefixes(texts.heads[3:])
    together = frozen.yes_no_logits_packed([question] * 3, [3], [prefix])
    _close(together, frozen.yes_no_logits_packed([question], [1], [prefix]).expand(3))


def test_where_attention_cannot_be_replaced_rows_are_padded(
    tiny_models: Callable[..., Path], texts: Texts, frozen: FrozenModel, architecture: str
) -> None:
    padding = _padding(tiny_models(architecture))
    prefixes = padding.read_prefixes(texts.heads)
    _close(padding.yes_no_logits_packed(texts.questions, RUNS, prefixes), _padded(frozen, texts))
    _close(padding.yes_no_logits_packed(texts.whole, RUNS, []), frozen.yes_no_logits_packed(texts.whole, RUNS, []))


def test_a_model_that_attends_in_another_way_is_found_out_and_still_answers_right(llama: FrozenModel) -> None:
    texts = Texts(llama)
    llama.model.config._attn_implementation = "eager"
    other = FrozenModel(llama.spec, llama.model, llama.tokenizer)
    assert not other.packs
    _close(other.yes_no_logits_packed(texts.questions, RUNS, other.read_prefixes(texts.heads)), _padded(other, texts))


def test_nothing_to_read_is_no_prefix(llama: FrozenModel) -> None:
    assert llama.read_prefixes([]) == []


@pytest.mark.parametrize("level", ["ND", "D"])
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("count", [2, 9])  # of adapters: all multiplied, few of them gathered
def test_the_packed_mixture_is_a_merged_model_for_every_row(
    tiny_models: Callable[..., Path],
    random_adapter: Callable[..., dict[str, torch.Tensor]],
    merged_model: Callable[..., FrozenModel],
    level: Level,
    packs: bool,
    count: int,
) -> None:
    folder = tiny_models("llama")
    frozen = FrozenModel.load(ModelSpec(str(folder))) if packs else _padding(folder)
    adapters = {str(k): random_adapter(frozen.model, ("q_proj", "v_proj"), 3, k) for k in range(count)}
    stack = AdapterStack.of(adapters, 2.0, frozen)
    mixture, texts = Mixture(frozen, ("q_proj", "v_proj")), Texts(frozen)
    weights = torch.zeros(4, count)
    weights[:, :2] = torch.tensor([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5], [0.9, 0.1]])
    weights = weights.roll(1, dims=1)
    plain = FrozenModel.load(frozen.spec)
    merged = [merged_model(plain, list(adapters.values()), 2.0, row.tolist(), level) for row in weights[OWNER]]
    with torch.no_grad():
        contexts = [plain.read_padded_prefixes([texts.heads[owner]]) for owner in OWNER]
        asked = [one.yes_no_logits([text], c) for one, text, c in zip(merged, texts.questions, contexts, strict=True)]
        whole = [one.yes_no_logits_whole([text]) for one, text in zip(merged, texts.whole, strict=True)]
    prefixes = frozen.read_prefixes(texts.heads)
    _close(mixture.yes_no_logits_packed(texts.questions, RUNS, prefixes, stack, weights, level), torch.cat(asked))
    _close(mixture.yes_no_logits_packed(texts.whole, RUNS, [], stack, weights, level), torch.cat(whole))
    assert (torch.cat(asked) - _padded(plain, texts)).abs().max() > 0.01


@pytest.mark.parametrize("level", ["ND", "D"])
def test_gathering_few_of_many_adapters_is_multiplying_all_of_them(
    llama: FrozenModel, random_adapter: Callable[..., dict[str, torch.Tensor]], level: Level
) -> None:
    adapters = {str(k): random_adapter(llama.model, ("q_proj", "v_proj"), 3, k) for k in range(9)}
    mixture, texts = Mixture(llama, ("q_proj", "v_proj")), Texts(llama)
    weights = torch.rand(10, 9, generator=torch.Generator().manual_seed(1))
    weights[weights < weights.topk(2, dim=1).values[:, -1:]] = 0.0
    gathered = mixture.yes_no_logits_whole(texts.whole, AdapterStack.of(adapters, 2.0, llama), weights, level)
    alone = []
    for prompt, row in zip(texts.whole, weights, strict=True):
        few = [k for k in range(9) if row[k]]
        stack = AdapterStack.of({str(k): adapters[str(k)] for k in few}, 2.0, llama)
        alone.append(mixture.yes_no_logits_whole([prompt], stack, row[few][None], level))
    _close(gathered, torch.cat(alone))


def test_the_way_back_through_a_packed_row_is_that_through_padded_ones(
    frozen: FrozenModel, texts: Texts, architecture: str
) -> None:
    name = "c_attn" if architecture == "gpt2" else "v_proj"
    weights = [p for key, p in frozen.model.named_parameters() if key.endswith(f"{name}.weight")]
    for weight in weights:
        weight.requires_grad_(True)
    prefixes, alone = frozen.read_prefixes(texts.heads), torch.arange(4)
    ways = (
        frozen.yes_no_logits_packed(texts.questions[:4], [1] * 4, prefixes),
        frozen.yes_no_logits(texts.questions[:4], frozen.read_padded_prefixes(texts.heads).rows(alone)),
    )
    ours, theirs = (torch.autograd.grad(way.square().sum(), weights) for way in ways)
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_with_a_way_back_is_the_textbook_one(groups: int) -> None:
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, 3, 8, generator=random) for _ in range(3))
    keys, values = (torch.randn(2, groups, 5, 8, generator=random) for _ in range(2))
    unseen = torch.zeros(2, 1, 1, 5)
    unseen[1, ..., 3:] = -torch.inf
    every = [part.repeat_interleave(4 // groups, dim=1) for part in (keys, values)]
    scores = query @ torch.cat([every[0], key], dim=2).transpose(-1, -2) * 0.5
    scores = scores + torch.cat([unseen.expand(2, 1, 3, 5), torch.full((2, 1, 3, 3), -torch.inf).triu(1)], dim=3)
    textbook = torch.softmax(scores, dim=-1) @ torch.cat([every[1], value], dim=2)
    _close(packed.attend_both(query, key, value, keys, values, 0.5, unseen), textbook)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_the_textbook_one(causal: bool) -> None:
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 8, generator=random) for n in (5, 5, 5))
    mask = None if causal else torch.zeros(2, 1, 1, 5).index_fill_(3, torch.tensor([4]), -torch.inf)
    scores = query @ key.transpose(-1, -2) * 0.5
    scores = scores + (torch.full((5, 5), -torch.inf).triu(1) if mask is None else mask)
    for way in (packed.attend, attend_in_steps):
        values, lse = way(query, key, value, 0.5, causal=causal, mask=mask)
        _close(values, torch.softmax(scores, dim=-1) @ value)
        _close(lse, torch.logsumexp(scores, dim=-1))


@pytest.mark.parametrize("lengths", [[3, 3], [2, 5, 1], [4]])
def test_what_is_spread_into_a_grid_is_joined_again(lengths: list[int]) -> None:
    runs = Runs(lengths, torch.device("cpu"))
    things = torch.arange(2.0 * sum(lengths)).reshape(2, -1)
    grid = runs.spread(things, 1)
    assert grid.shape == (2, len(lengths), max(lengths))
    assert torch.equal(runs.join(grid, 1), things)
    first = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    assert torch.equal(grid[0, :, 0], things[0, first])
    assert runs.repeat(torch.arange(len(lengths))).tolist() == [n for n, k in enumerate(lengths) for _ in range(k)]

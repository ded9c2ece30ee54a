"""T5, Flan-T5 and BART answer through the same port as causal models: pinned to transformers' own forward passes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from service.errors import ModelUnsuitable
from service.llm.architecture import chunks_of_rows
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.llm.packed import FORWARD_TOKENS, PrefixGrid
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.records import Item, Level, RatedItem

NOUN = "movie"
TITLES = ("Heat (1995)", "Up", "The Good, the Bad and the Ugly (1966)", "Yes", "Alien (1979)")
RUNS = [3, 1, 1, 4, 1]  # of questions, over contexts of five lengths
OWNER = torch.repeat_interleave(torch.arange(5), torch.tensor(RUNS))
WEIGHTS = [[0.2, 0.8], [1.0, 0.0], [0.5, 0.5], [0.9, 0.1], [0.0, 1.0]]
SCALING = 2.0

Adapter = dict[str, Tensor]
RandomAdapter = Callable[..., Adapter]
Merged = Callable[..., FrozenModel]


def targets_of(name: str) -> tuple[str, ...]:
    """Where the papers put LoRA: queries and values, as each architecture calls them."""
    return ("q_proj", "v_proj") if name == "bart" else ("q", "v")


@pytest.fixture
def folder(tiny_models: Callable[..., Path], encoder_decoder: str) -> Path:
    return tiny_models(encoder_decoder)


@pytest.fixture
def frozen(folder: Path) -> FrozenModel:
    return FrozenModel.load(ModelSpec(str(folder)))


class Texts:
    def __init__(self, tokenizer: PromptTokenizer) -> None:
        histories = [[RatedItem(Item("", title), True) for title in TITLES[:length]] for length in (0, 3, 1, 5, 2)]
        self.heads = [tokenizer.context(history, NOUN) for history in histories]
        self.questions = [tokenizer.question(Item("", title), NOUN) for title in TITLES * 2]
        self.whole = [self.heads[owner] + question for owner, question in zip(OWNER, self.questions, strict=True)]


@pytest.fixture
def texts(frozen: FrozenModel) -> Texts:
    return Texts(frozen.tokenizer)


def _close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-4)


def _by_transformers(frozen: FrozenModel, read: Sequence[int], said: Sequence[int]) -> Tensor:
    """logit(Yes) − logit(No) of one text without any padding, as the library alone has it."""
    tokenizer = frozen.tokenizer
    ids = torch.tensor([[*read, tokenizer._tokenizer.eos_token_id]])
    start = frozen.model.config.decoder_start_token_id
    with torch.no_grad():
        logits = frozen.model(input_ids=ids, decoder_input_ids=torch.tensor([[start, *said]])).logits[0, -1]
    difference: Tensor = logits[tokenizer.yes] - logits[tokenizer.no]
    return difference


def _questions_by_transformers(frozen: FrozenModel, texts: Texts) -> Tensor:
    pairs = zip(OWNER, texts.questions, strict=True)
    return torch.stack([_by_transformers(frozen, texts.heads[owner], question) for owner, question in pairs])


def _whole_by_transformers(frozen: FrozenModel, texts: Texts) -> Tensor:
    return torch.stack([_by_transformers(frozen, prompt, []) for prompt in texts.whole])


# Scores


def test_a_question_in_the_decoder_is_answered_as_transformers_answers_it(frozen: FrozenModel, texts: Texts) -> None:
    plain = _questions_by_transformers(frozen, texts)
    _close(frozen.yes_no_logits(texts.questions, frozen.read_padded_prefixes(texts.heads).rows(OWNER)), plain)
    _close(frozen.yes_no_logits_packed(texts.questions, RUNS, frozen.read_prefixes(texts.heads)), plain)
    assert plain.std() > 0.1


def test_a_whole_prompt_is_answered_by_the_decoders_first_step(frozen: FrozenModel, texts: Texts) -> None:
    plain = _whole_by_transformers(frozen, texts)
    _close(frozen.yes_no_logits_whole(texts.whole), plain)
    _close(frozen.yes_no_logits_packed(texts.whole, RUNS, []), plain)
    assert plain.std() > 0.1


def test_what_the_tokenizer_closes_a_text_with_is_what_the_encoder_reads(frozen: FrozenModel) -> None:
    tokenizer = frozen.tokenizer
    text = "Whether the user will like it?"
    ours = tokenizer._encode(text, special=True)
    assert [*ours, *tokenizer.answers.closing] == tokenizer._tokenizer(text)["input_ids"]
    assert tokenizer.answers.closing == (tokenizer._tokenizer.eos_token_id,)


def test_a_request_is_answered_to_the_last_bit_the_same_whoever_else_asks(frozen: FrozenModel, texts: Texts) -> None:
    prefixes = frozen.read_prefixes(texts.heads)
    together = frozen.yes_no_logits_packed(texts.questions, RUNS, prefixes)
    alone = frozen.yes_no_logits_packed(texts.questions[5:9], RUNS[3:4], prefixes[3:4])
    assert torch.equal(together[5:9], alone)


def test_requests_of_one_candidate_share_a_pass_and_are_answered_as_one_at_a_time(
    frozen: FrozenModel, texts: Texts
) -> None:
    prefixes, questions = frozen.read_prefixes(texts.heads), texts.questions[:5]
    assert [part.counts for part in frozen.passes(questions, [1] * 5)] == [(1,) * 5]
    together = frozen.yes_no_logits_packed(questions, [1] * 5, prefixes)
    alone = [frozen.yes_no_logits_packed([q], [1], [prefix]) for q, prefix in zip(questions, prefixes, strict=True)]
    _close(together, torch.cat(alone))
    _close(frozen.yes_no_logits_packed(questions, [1] * 5, PrefixGrid.of(prefixes)), together)


def test_what_was_read_beside_a_context_does_not_matter(frozen: FrozenModel, texts: Texts) -> None:
    together = frozen.read_prefixes(texts.heads)
    for head, prefix in zip(texts.heads, together, strict=True):
        [alone] = frozen.read_prefixes([head])
        assert prefix.tokens == len(head) + len(frozen.tokenizer.answers.closing)
        _close(prefix.states[0], alone.states[0])
        _close(prefix.embedding, alone.embedding)


def test_a_text_stands_where_the_mean_of_its_tokens_does(frozen: FrozenModel, texts: Texts) -> None:
    closing = list(frozen.tokenizer.answers.closing)
    for head, found in zip(texts.heads, frozen.embed(texts.heads), strict=True):
        with torch.no_grad():
            states = frozen.model.get_encoder()(input_ids=torch.tensor([head + closing])).last_hidden_state[0]
        _close(found, torch.nn.functional.normalize(states.mean(dim=0), dim=0))
    _close(frozen.read_prefixes(texts.heads)[2].embedding, frozen.embed(texts.heads)[2])


def test_without_embeddings_none_are_kept(frozen: FrozenModel, texts: Texts) -> None:
    plain = frozen.read_prefixes(texts.heads)
    for prefix, other in zip(frozen.read_prefixes(texts.heads, embed=False), plain, strict=True):
        assert prefix.embedding.numel() == 0
        assert torch.equal(prefix.states[0], other.states[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_nearly_the_same_scores(frozen: FrozenModel, texts: Texts, dtype: str) -> None:
    half = FrozenModel.load(replace(frozen.spec, dtype=dtype))
    found = half.yes_no_logits_packed(texts.questions, RUNS, half.read_prefixes(texts.heads))
    exact = frozen.yes_no_logits_packed(texts.questions, RUNS, frozen.read_prefixes(texts.heads))
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 0.15 * exact.abs().max()


# Passes


def _taken(frozen: FrozenModel, lengths: Iterable[int], runs: Sequence[int]) -> list[tuple[int, ...]]:
    """The counts of the passes, having seen that these take every text once, under the run that it belongs to."""
    texts = [[5] * length for length in lengths]
    owners = [run for run, count in enumerate(runs) for _ in range(count)]
    parts, covered = frozen.passes(texts, runs), []
    for part in parts:
        of_runs = range(len(runs))[part.runs]
        assert len(of_runs) == len(part.counts)
        covered += [run for run, count in zip(of_runs, part.counts, strict=True) for _ in range(count)]
        rows = texts[part.texts]
        assert len(rows) == sum(part.counts)
        assert len(rows) == 1 or len(rows) * max(map(len, rows)) <= FORWARD_TOKENS
    assert covered == owners
    return [part.counts for part in parts]


def test_each_run_is_a_pass_and_runs_of_one_are_rows_of_one(tiny_models: Callable[..., Path]) -> None:
    frozen = FrozenModel.load(ModelSpec(str(tiny_models("t5"))))
    assert _taken(frozen, [7] * 9, [3, 1, 1, 2, 1, 1]) == [(3,), (1, 1), (2,), (1, 1)]
    assert _taken(frozen, [7], [1]) == [(1,)]


def test_no_overlong_text_makes_a_pass_larger_than_it_may_be(tiny_models: Callable[..., Path]) -> None:
    frozen = FrozenModel.load(ModelSpec(str(tiny_models("t5"))))
    few = FORWARD_TOKENS // 4
    assert _taken(frozen, [9, few, 9, 9, 9], [5]) == [(4,), (1,)]
    assert _taken(frozen, [9, FORWARD_TOKENS + 1, 9], [1, 1, 1]) == [(1,), (1,), (1,)]


def test_rows_are_cut_where_the_longest_of_them_would_be_too_many() -> None:
    assert list(chunks_of_rows([], 10)) == []
    assert list(chunks_of_rows([1, 1, 11, 5, 5, 2, 6], 10)) == [
        range(2),
        range(2, 3),
        range(3, 5),
        range(5, 6),
        range(6, 7),
    ]


# Mixtures


def _adapters(
    frozen: FrozenModel, name: str, random_adapter: RandomAdapter, count: int, *, everywhere: bool
) -> list[Adapter]:
    made = [random_adapter(frozen.model, targets_of(name), 3, seed) for seed in range(count)]
    if everywhere:
        return made
    return [{key: tensor for key, tensor in adapter.items() if "decoder." in key} for adapter in made]


def _weights(count: int) -> Tensor:
    weights = torch.zeros(len(RUNS), count)
    weights[:, :2] = torch.tensor(WEIGHTS)
    return weights.roll(1, dims=1)


@pytest.mark.parametrize("level", [pytest.param("ND", marks=pytest.mark.thorough), "D"])
@pytest.mark.parametrize("count", [2, 9])  # of adapters: all multiplied, few of them gathered
def test_a_mixture_is_a_merged_model_for_every_question(
    folder: Path, encoder_decoder: str, random_adapter: RandomAdapter, merged_model: Merged, level: Level, count: int
) -> None:
    frozen, plain = (FrozenModel.load(ModelSpec(str(folder))) for _ in range(2))
    adapters = _adapters(plain, encoder_decoder, random_adapter, count, everywhere=False)
    mixture, texts = Mixture(frozen, targets_of(encoder_decoder)), Texts(frozen.tokenizer)
    stack = AdapterStack.of({str(k): adapter for k, adapter in enumerate(adapters)}, SCALING, frozen)
    weights = _weights(count)
    merged = [merged_model(plain, adapters, SCALING, row.tolist(), level) for row in weights]
    pairs = zip(OWNER, texts.questions, strict=True)
    slow = [_by_transformers(merged[owner], texts.heads[owner], question) for owner, question in pairs]
    prefixes = frozen.read_prefixes(texts.heads)
    fast = mixture.yes_no_logits_packed(texts.questions, RUNS, prefixes, stack, weights, level)
    _close(fast, torch.stack(slow))
    assert (fast - _questions_by_transformers(plain, texts)).abs().max() > 0.05


@pytest.mark.thorough
@pytest.mark.parametrize("level", ["ND", "D"])
@pytest.mark.parametrize("count", [2, 9])
def test_a_mixture_is_a_merged_model_for_every_whole_prompt(
    folder: Path, encoder_decoder: str, random_adapter: RandomAdapter, merged_model: Merged, level: Level, count: int
) -> None:
    frozen, plain = (FrozenModel.load(ModelSpec(str(folder))) for _ in range(2))
    adapters = _adapters(plain, encoder_decoder, random_adapter, count, everywhere=True)
    mixture, texts = Mixture(frozen, targets_of(encoder_decoder)), Texts(frozen.tokenizer)
    stack = AdapterStack.of({str(k): adapter for k, adapter in enumerate(adapters)}, SCALING, frozen)
    weights = _weights(count)
    merged = [merged_model(plain, adapters, SCALING, row.tolist(), level) for row in weights]
    slow = [_by_transformers(merged[owner], prompt, []) for owner, prompt in zip(OWNER, texts.whole, strict=True)]
    _close(mixture.yes_no_logits_packed(texts.whole, RUNS, [], stack, weights, level), torch.stack(slow))
    _close(mixture.yes_no_logits_whole(texts.whole, stack, weights[OWNER], level), torch.stack(slow))
    assert (torch.stack(slow) - _whole_by_transformers(plain, texts)).abs().max() > 0.05


def test_what_is_read_of_a_context_knows_no_adapter(
    folder: Path, encoder_decoder: str, random_adapter: RandomAdapter
) -> None:
    frozen, plain = (FrozenModel.load(ModelSpec(str(folder))) for _ in range(2))
    [adapter] = _adapters(plain, encoder_decoder, random_adapter, 1, everywhere=True)
    mixture, texts = Mixture(frozen, targets_of(encoder_decoder)), Texts(frozen.tokenizer)
    stack = AdapterStack.of({"x": adapter}, SCALING, frozen)
    mixture.yes_no_logits_whole(texts.whole, stack, torch.ones(len(texts.whole), 1), "ND")
    for one, other in zip(frozen.read_prefixes(texts.heads), plain.read_prefixes(texts.heads), strict=True):
        assert torch.equal(one.states[0], other.states[0])


def test_a_mixture_leaves_a_request_the_same_to_the_last_bit_whoever_else_asks(
    frozen: FrozenModel, texts: Texts, encoder_decoder: str, random_adapter: RandomAdapter
) -> None:
    adapters = _adapters(frozen, encoder_decoder, random_adapter, 2, everywhere=False)
    stack = AdapterStack.of(dict(zip("xy", adapters, strict=True)), SCALING, frozen)
    mixture, prefixes, weights = (
        Mixture(frozen, targets_of(encoder_decoder)),
        frozen.read_prefixes(texts.heads),
        _weights(2),
    )
    together = mixture.yes_no_logits_packed(texts.questions, RUNS, prefixes, stack, weights, "ND")
    alone = mixture.yes_no_logits_packed(texts.questions[5:9], RUNS[3:4], prefixes[3:4], stack, weights[3:4], "ND")
    assert torch.equal(together[5:9], alone)


def test_an_adapter_of_weight_zero_is_not_there(
    frozen: FrozenModel, texts: Texts, encoder_decoder: str, random_adapter: RandomAdapter
) -> None:
    adapters = _adapters(frozen, encoder_decoder, random_adapter, 2, everywhere=False)
    stack = AdapterStack.of(dict(zip("xy", adapters, strict=True)), SCALING, frozen)
    mixture, prefixes = Mixture(frozen, targets_of(encoder_decoder)), frozen.read_prefixes(texts.heads)
    nothing = torch.zeros(len(RUNS), 2)
    answered = mixture.yes_no_logits_packed(texts.questions, RUNS, prefixes, stack, nothing, "ND")
    assert torch.equal(answered, frozen.yes_no_logits_packed(texts.questions, RUNS, prefixes))


# Tokens


def test_the_answers_are_the_tokens_with_which_a_text_begins(frozen: FrozenModel) -> None:
    tokenizer = frozen.tokenizer
    for answer, token in (("Yes", tokenizer.yes), ("No", tokenizer.no)):
        assert tokenizer._tokenizer(answer, add_special_tokens=False)["input_ids"] == [token]
    assert tokenizer.invocation(NOUN) == []


def test_an_answer_of_several_tokens_is_refused(tiny_models: Callable[..., Path], encoder_decoder: str) -> None:
    with pytest.raises(ModelUnsuitable, match="as a single token"):
        PromptTokenizer.load(
            ModelSpec(str(tiny_models(encoder_decoder, vocabulary=258 if encoder_decoder == "bart" else 98)))
        )


def test_the_longest_prompt_there_may_be_has_a_position_for_every_token(tiny_models: Callable[..., Path]) -> None:
    frozen = FrozenModel.load(ModelSpec(str(tiny_models("bart"))))
    tokenizer = frozen.tokenizer
    assert tokenizer.positions == 511  # one of 512 is the closing token's
    context = tokenizer.context([RatedItem(Item(str(n), f"Film number {n}"), True) for n in range(80)], NOUN)
    question = tokenizer.question(Item("", "y" * 4000), NOUN)
    assert len(context) + len(question) <= tokenizer.positions
    assert len(tokenizer.item(Item("1", "z" * 4000))) == tokenizer.positions
    assert frozen.yes_no_logits_whole([[5] * tokenizer.positions]).isfinite().all()
    with pytest.raises(IndexError):
        frozen.yes_no_logits_whole([[5] * (tokenizer.positions + 1)])


def test_a_model_that_does_not_say_how_answers_start_is_refused(
    tiny_models: Callable[..., Path], tmp_path: Path
) -> None:
    copied = shutil.copytree(tiny_models("t5"), tmp_path / "model")
    for name in ("config.json", "generation_config.json"):
        stated = json.loads((copied / name).read_text())
        stated.pop("decoder_start_token_id")
        (copied / name).write_text(json.dumps(stated))
    with pytest.raises(ModelUnsuitable, match="decoder_start_token_id"):
        FrozenModel.load(ModelSpec(str(copied)))


def test_a_model_that_is_told_its_answers_needs_no_tokenizer(folder: Path, texts: Texts, tmp_path: Path) -> None:
    loaded = FrozenModel.load(ModelSpec(str(folder)))
    bare = shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    told = FrozenModel.load(replace(loaded.spec, name=str(bare), answers=loaded.tokenizer.answers))
    assert torch.equal(told.yes_no_logits_whole(texts.whole), loaded.yes_no_logits_whole(texts.whole))

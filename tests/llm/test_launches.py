"""A forward pass launches its work and never waits for the device; few of many adapters are two grouped GEMMs.

Where no GPU is at hand, `meta` tensors show it: they have no values, so whoever looks at one fails, and every copy is seen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from service.llm.decoder_only import DecoderOnly
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture, has_grouped_gemms
from service.llm.packed import Prefix
from service.llm.spec import Answers, ModelSpec
from service.llm.staging import sent
from service.llm.tokenizer import PromptTokenizer
from service.records import Level

META = torch.device("meta")
CONTEXTS = [list(range(5, 17)), list(range(5, 12))]
QUESTIONS = [[7, 8, 9], [7, 9], [8, 9, 10, 11], [5, 6]]
RUNS = [3, 1]
WEIGHTS = torch.tensor([[0.5, 0.0, 0.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]])
_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")


class NoWaiting(TorchDispatchMode):
    """Fails where the host would have to wait: it reads a value, or copies and does not go on at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        on_device = any(tensor.device == META for tensor in tensors)
        name = func.overloadpacket.__name__
        assert not (on_device and name in _WAITS), f"{name} waits for the device"
        if name == "_to_copy" and torch.device(given.get("device") or tensors[0].device) != tensors[0].device:
            assert given.get("non_blocking"), "a copy that is waited for"
            self.copies += 1
        return func(*args, **given)


class Unread(FrozenModel):
    """Whose weights have no values, so nothing can be tried on it."""

    def __init__(self, spec: ModelSpec, model: PreTrainedModel, tokenizer: PromptTokenizer | None) -> None:
        super().__init__(spec, model, tokenizer)
        assert isinstance(self.architecture, DecoderOnly)
        self.architecture.packs = True

    def _check_head(self, answers: Answers) -> None:
        pass


@pytest.fixture
def on_meta(tiny_models: Callable[..., Path], architecture: str) -> Unread:
    read = FrozenModel.load(ModelSpec(str(tiny_models(architecture))))
    return Unread(replace(read.spec, device="meta"), copy.deepcopy(read.model).to("meta"), read.tokenizer)


@pytest.fixture
def llama(tiny_models: Callable[..., Path]) -> FrozenModel:
    return FrozenModel.load(ModelSpec(str(tiny_models("llama"))))


def _stack(frozen: FrozenModel, random_adapter: Callable[..., Any], rank: int = 2) -> AdapterStack:
    targets = ("c_attn",) if frozen.model.config.model_type == "gpt2" else ("q_proj", "v_proj")
    on_cpu = FrozenModel.load(replace(frozen.spec, device="cpu"))
    adapters = {str(k): random_adapter(on_cpu.model, targets, rank, k) for k in range(WEIGHTS.shape[1])}
    return AdapterStack.of(adapters, 2.0, frozen)


def _mixture(frozen: FrozenModel, stack: AdapterStack, grouped: bool | None = None) -> Mixture:
    return Mixture(frozen, sorted({name.rpartition(".")[2] for name in stack.modules}), grouped)


def _answers(mixture: Mixture, stack: AdapterStack, prefixes: Sequence[Prefix], weights: Tensor = WEIGHTS) -> Tensor:
    return mixture.yes_no_logits_packed(QUESTIONS, RUNS, prefixes, stack, weights, "ND")


# Nobody waits


def test_no_forward_pass_waits_for_the_device(on_meta: Unread, random_adapter: Callable[..., Any]) -> None:
    stack = _stack(on_meta, random_adapter)
    mixture = _mixture(on_meta, stack)
    dense = torch.full((2, WEIGHTS.shape[1]), 0.2)
    with NoWaiting() as seen:
        prefixes = on_meta.read_prefixes(CONTEXTS)
        found = [_answers(mixture, stack, prefixes, weights) for weights in (WEIGHTS, dense)]
        found.append(_answers(mixture, stack, []))
        found.append(_answers(mixture, stack, prefixes[:1] * 2))
    assert [answer.shape for answer in found] == [(4,)] * 4
    assert 0 < seen.copies <= 5 * 9  # a pass copies its tokens once, and how they are divided


def test_one_pass_copies_its_tokens_once(on_meta: Unread) -> None:
    with NoWaiting() as seen:
        on_meta.yes_no_logits_packed([[7, 8, 9]], [1], [])
    assert seen.copies == 1


def test_a_pass_that_waits_is_noticed() -> None:
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        bool(torch.empty(1, device=META).sum() > 0)
    with pytest.raises(AssertionError, match="waited for"), NoWaiting():
        torch.zeros(3).to(META)


def test_what_is_sent_to_a_processor_is_itself_and_elsewhere_comes_in_one_copy() -> None:
    one, two = torch.arange(3), torch.arange(4).view(2, 2)
    assert sent(torch.device("cpu"), one, two) == (one, two)
    with NoWaiting() as seen:
        there = sent(META, one, two)
    assert [tensor.shape for tensor in there] == [(3,), (2, 2)]
    assert seen.copies == 1


@contextmanager
def _sync_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_no_forward_pass_waits_for_a_gpu(
    tiny_models: Callable[..., Path], architecture: str, random_adapter: Callable[..., Any]
) -> None:
    frozen = FrozenModel.load(ModelSpec(str(tiny_models(architecture)), device="cuda:0"))
    stack = _stack(frozen, random_adapter)
    mixture = _mixture(frozen, stack)
    _answers(mixture, stack, frozen.read_prefixes(CONTEXTS))  # kernels are tried, libraries begin
    with _sync_is_an_error():
        answers = _answers(mixture, stack, frozen.read_prefixes(CONTEXTS))
    plain = FrozenModel.load(replace(frozen.spec, device="cpu"))
    on_cpu = _stack(plain, random_adapter)
    right = _answers(_mixture(plain, on_cpu), on_cpu, plain.read_prefixes(CONTEXTS))
    torch.testing.assert_close(answers.cpu(), right, rtol=1e-3, atol=1e-3)


# Two grouped GEMMs


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("level", ["ND", "D"])
def test_grouped_gemms_are_the_gathered_ones(
    llama: FrozenModel, random_adapter: Callable[..., Any], level: Level, gated: bool
) -> None:
    stack = _stack(llama, random_adapter, rank=4)  # of two adapters: a multiple of eight columns
    if gated:
        widths = {name: (len(b), 2, b.shape[2]) for name, (_, b) in stack.modules.items()}
        stack = replace(stack, gates={name: torch.linspace(-1, 1, math.prod(w)).view(w) for name, w in widths.items()})
    prefixes = llama.read_prefixes(CONTEXTS)
    plain = FrozenModel.load(llama.spec)
    gathered, grouped = _mixture(llama, stack, False), _mixture(plain, stack, True)
    ours = grouped.yes_no_logits_packed(QUESTIONS, RUNS, prefixes, stack, WEIGHTS, level)
    theirs = gathered.yes_no_logits_packed(QUESTIONS, RUNS, prefixes, stack, WEIGHTS, level)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    bare = FrozenModel.load(llama.spec).yes_no_logits_packed(QUESTIONS, RUNS, prefixes)
    assert (theirs - bare).abs().max() > 0.01


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "has"),
    [
        ("cpu", torch.bfloat16, (9, 0), False),
        ("cuda", torch.float32, (9, 0), False),
        ("cuda", torch.bfloat16, (8, 9), False),
        ("cuda", torch.bfloat16, (9, 0), True),
        ("cuda", torch.bfloat16, (10, 0), True),
    ],
)
def test_groups_are_left_to_gpus_that_have_a_kernel_for_them(
    device: str, dtype: torch.dtype, capability: tuple[int, int], has: bool
) -> None:
    assert has_grouped_gemms(torch.device(device), dtype, capability) is has

"""Attention in two parts that log-sum-exps join, and which kernel is let do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.llm.attention import (
    IN_STEPS,
    ON_CPU,
    ON_CUDA,
    Attend,
    AttendRows,
    Kernel,
    Stretches,
    _aligned_bias,
    agrees,
    attend_in_steps,
    attend_on_cpu,
    attend_rows_flash,
    attend_rows_in_steps,
    choose_kernels,
    join,
    kernels_for,
    rows_agree,
    stretches,
)
from service.llm.packed import Packing, Prefix, PrefixGrid, Runs

CPU = torch.device("cpu")
HALF = torch.bfloat16
WIDTH, SCALE = 8, 0.4
ways = pytest.mark.parametrize("attend", [attend_on_cpu, attend_in_steps])


def _random(seed: int, *sizes: tuple[int, ...]) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(*size, generator=random) for size in sizes]


def _close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# Two parts


@ways
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 99), st.sampled_from([1.0, 30.0]))
def test_two_parts_joined_are_the_whole(attend: Attend, own: int, before: int, seed: int, sharpness: float) -> None:
    query, key, value = _random(seed, *[(2, 3, own, WIDTH)] * 3)
    keys, values = _random(seed + 100, *[(2, 3, before, WIDTH)] * 2)
    scale = SCALE * sharpness
    joined = join(*attend(query, key, value, scale, causal=True), *attend(query, keys, values, scale))
    hidden = torch.full((own, before + own), -torch.inf).triu(before + 1)
    scores = query @ torch.cat([keys, key], dim=2).transpose(-1, -2) * scale + hidden
    _close(joined, torch.softmax(scores, dim=-1) @ torch.cat([values, value], dim=2))


@ways
def test_a_part_that_counts_for_nothing_leaves_the_other_as_it_is(attend: Attend) -> None:
    query, key, value = _random(0, *[(1, 2, 3, WIDTH)] * 3)
    mine, lse = attend(query, key, value, SCALE, causal=True)
    assert torch.equal(join(mine, lse, torch.ones_like(mine), torch.full_like(lse, -torch.inf)), mine)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("even", [True, False])
def test_a_packed_row_attends_as_each_text_alone_does(groups: int, even: bool) -> None:
    lengths, runs, before = ([3, 3, 3], [2, 1], [5, 5]) if even else ([2, 4, 1], [2, 1], [5, 3])
    tokens = sum(lengths)
    query, key, value = _random(1, (4, tokens, WIDTH), (groups, tokens, WIDTH), (groups, tokens, WIDTH))
    prefixes = [
        Prefix(tuple(_random(n, *[(groups, length, WIDTH)] * 2)), torch.ones(1)) for n, length in enumerate(before)
    ]
    run_tokens = [sum(lengths[:2]), lengths[2]]
    packing = Packing(Runs(lengths, CPU), Runs(run_tokens, CPU), PrefixGrid.of(prefixes))
    ours = packing.attend(0, query, key, value, SCALE)
    first = 0
    for length, owner in zip(lengths, [n for n, count in enumerate(runs) for _ in range(count)], strict=True):
        own = slice(first, first + length)
        keys, values = prefixes[owner].states
        every = [
            torch.cat([old, new[:, own]], dim=1).repeat_interleave(4 // groups, dim=0)
            for old, new in ((keys, key), (values, value))
        ]
        hidden = torch.full((length, before[owner] + length), -torch.inf).triu(before[owner] + 1)
        scores = query[:, own] @ every[0].transpose(-1, -2) * SCALE + hidden
        _close(ours[:, own], torch.softmax(scores, dim=-1) @ every[1])
        first += length


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("before", [[], [5], [5, 5], [5, 3]], ids=str)
@pytest.mark.parametrize("lengths", [[3, 3, 3], [2, 4, 1]], ids=str)
def test_a_kernel_of_variable_length_reads_a_packed_row_as_the_grid_does(
    groups: int, before: list[int], lengths: list[int]
) -> None:
    tokens, first_run = sum(lengths), sum(lengths[:2])
    query, key, value = _random(2, (4, tokens, WIDTH), (groups, tokens, WIDTH), (groups, tokens, WIDTH))
    prefixes = [Prefix(tuple(_random(n, *[(groups, t, WIDTH)] * 2)), torch.ones(1)) for n, t in enumerate(before)]
    runs = [tokens] if len(before) == 1 else [first_run, lengths[2]]
    packing = Packing(Runs(lengths, CPU), Runs(runs, CPU), PrefixGrid.of(prefixes))
    ours = packing.attend_rows(attend_rows_in_steps, 0, query, key, value, SCALE)
    _close(ours, packing.attend(0, query, key, value, SCALE))


def test_the_keys_of_one_prefix_stand_as_rows_without_a_copy() -> None:
    prefix = Prefix(tuple(_random(3, *[(2, 5, WIDTH)] * 2)), torch.ones(1))
    for row, state in zip(PrefixGrid.of([prefix]).rows_of(0), prefix.states, strict=True):
        assert row.shape == (5, 2, WIDTH)
        assert row.data_ptr() == state.data_ptr()


def test_a_row_whose_texts_and_runs_are_of_one_length_each_is_a_grid_as_it_stands() -> None:
    def packing(lengths: list[int], runs: list[int]) -> Packing:
        return Packing(Runs(lengths, CPU), Runs(runs, CPU), PrefixGrid.of([]))

    assert packing([3, 3, 3, 3], [6, 6]).even
    assert not packing([3, 3, 3], [6, 3]).even
    assert not packing([2, 4], [6]).even


# Which kernel


def _kernel(name: str, attend: Attend = attend_on_cpu, masks: bool = True) -> Kernel:
    return replace(ON_CPU, name=name, attend=attend, masks=masks)


def _only(*right: tuple[str, bool]) -> Callable[[Kernel, bool], bool]:
    return lambda kernel, masked: (kernel.name, masked) in right


def _chosen(*right: tuple[str, bool], dtype: torch.dtype = HALF) -> tuple[str, str]:
    found = choose_kernels(ON_CUDA, dtype, _only(*right))
    return found.plain.name, found.masked.name


FLASH, EFFICIENT, STEPS = (kernel.name for kernel in (*ON_CUDA, IN_STEPS))


def test_the_first_that_agrees_is_taken_and_with_a_mask_the_first_that_takes_one() -> None:
    everything = ((FLASH, False), (FLASH, True), (EFFICIENT, False), (EFFICIENT, True))
    assert _chosen(*everything) == (FLASH, EFFICIENT)
    assert _chosen((EFFICIENT, False), (EFFICIENT, True)) == (EFFICIENT, EFFICIENT)
    assert _chosen((EFFICIENT, False)) == (EFFICIENT, STEPS)
    assert _chosen((FLASH, False)) == (FLASH, STEPS)
    assert _chosen() == (STEPS, STEPS)


def test_a_kernel_is_not_tried_in_a_precision_that_it_does_not_take() -> None:
    assert _chosen((FLASH, False), (EFFICIENT, False), (EFFICIENT, True), dtype=torch.float32) == (
        EFFICIENT,
        EFFICIENT,
    )


def test_the_words_name_what_was_chosen() -> None:
    assert choose_kernels(ON_CUDA, HALF, lambda *_: True).words == (
        "FlashAttention; memory-efficient attention where contexts differ in length"
    )
    assert kernels_for(CPU, torch.float32, 64).words == "fused for processors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kernel", [ON_CPU, IN_STEPS], ids=["fused", "steps"])
def test_a_right_kernel_passes_the_probe(kernel: Kernel, masked: bool, dtype: torch.dtype) -> None:
    assert agrees(kernel, masked, CPU, dtype, 64)


def _unmasked(query: Tensor, key: Tensor, value: Tensor, scale: float, **_: object) -> tuple[Tensor, Tensor]:
    return attend_on_cpu(query, key, value, scale)


def _in_bits(query: Tensor, key: Tensor, value: Tensor, scale: float, **given: object) -> tuple[Tensor, Tensor]:
    out, lse = attend_on_cpu(query, key, value, scale, **given)  # type: ignore[arg-type]
    return out, lse / torch.log(torch.tensor(2.0))  # as some kernels count


def _rounded_up(query: Tensor, key: Tensor, value: Tensor, scale: float, **given: object) -> tuple[Tensor, Tensor]:
    out, lse = attend_on_cpu(query, key, value, scale, **given)  # type: ignore[arg-type]
    return out, torch.nn.functional.pad(lse, (0, 32 - lse.shape[-1] % 32))


def _failing(*_: object, **__: object) -> tuple[Tensor, Tensor]:
    raise RuntimeError("no kernel image is available for execution on the device")


def _empty(query: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
    return query * torch.nan, query[..., 0] * torch.nan


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("wrong", [_in_bits, _rounded_up, _failing, _empty])
def test_a_wrong_kernel_fails_the_probe(wrong: Attend, masked: bool) -> None:
    assert not agrees(_kernel("wrong", wrong), masked, CPU, torch.float32, 16)


def test_a_kernel_that_hears_no_mask_and_knows_no_order_fails_where_these_count() -> None:
    assert not agrees(_kernel("deaf", _unmasked), True, CPU, torch.float32, 16)
    assert not agrees(_kernel("deaf", _unmasked), False, CPU, torch.float32, 16)


@pytest.mark.parametrize("kernel", ON_CUDA, ids=lambda kernel: kernel.name)
def test_the_kernels_of_a_gpu_give_the_shapes_that_are_read(kernel: Kernel) -> None:
    """On `meta` tensors: torch knows these operators and what they return, though it cannot run them here."""
    query, key = (torch.empty(2, 4, n, 64, device="meta", dtype=HALF) for n in (7, 53))
    for causal, mask in ((False, None), (True, None), (False, torch.zeros(2, 1, 1, 53, device="meta", dtype=HALF))):
        if mask is not None and not kernel.masks:
            continue
        out, lse = kernel.attend(query, key, key, 0.125, causal=causal, mask=mask)
        assert (out.shape, lse.shape, lse.dtype) == (query.shape, (2, 4, 7), torch.float32)


# Of packed rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_right_rows_pass_the_probe(dtype: torch.dtype) -> None:
    assert rows_agree(attend_rows_in_steps, CPU, dtype, 64)


def _reading_the_margin(
    query: Tensor, key: Tensor, value: Tensor, scale: float, asking: Stretches, asked: Stretches, **options: Any
) -> tuple[Tensor, Tensor]:
    return attend_rows_in_steps(query, key, value, scale, asking, replace(asked, used=None), **options)


def _without_order(*given: Any, causal: bool) -> tuple[Tensor, Tensor]:
    return attend_rows_in_steps(*given, causal=False)


def _of_the_first_group(
    query: Tensor, key: Tensor, value: Tensor, *given: Any, **options: Any
) -> tuple[Tensor, Tensor]:
    return attend_rows_in_steps(query, key[:, :1], value[:, :1], *given, **options)


def _heads_first(*given: Any, **options: Any) -> tuple[Tensor, Tensor]:
    out, lse = attend_rows_in_steps(*given, **options)
    return out, lse.transpose(0, 1)


@pytest.mark.parametrize("wrong", [_reading_the_margin, _without_order, _of_the_first_group, _heads_first, _failing])
def test_wrong_rows_fail_the_probe(wrong: AttendRows) -> None:
    assert not rows_agree(wrong, CPU, torch.float32, 16)


def test_a_gpus_kernel_of_variable_length_gives_the_shapes_that_are_read() -> None:
    """On `meta` tensors, where torch knows the operator and what it returns."""
    query, key = torch.empty(9, 4, 64, device="meta", dtype=HALF), torch.empty(20, 2, 64, device="meta", dtype=HALF)
    asking, asked = (stretches(lengths, torch.device("meta")) for lengths in ([4, 5], [10, 10]))
    for used in (None, torch.empty(2, dtype=torch.int32, device="meta")):
        out, lse = attend_rows_flash(query, key, key, 0.125, asking, replace(asked, used=used))
        assert (out.shape, lse.shape, lse.dtype) == (query.shape, (9, 4), torch.float32)


def test_a_processor_has_no_kernel_of_variable_length() -> None:
    assert kernels_for(CPU, torch.float32, 64).rows is None
    assert not rows_agree(attend_rows_flash, CPU, HALF, 64)


def test_a_mask_for_the_efficient_kernel_is_copied_for_no_head_and_no_query() -> None:
    query = torch.zeros(2, 4, 7, 8)
    bias = _aligned_bias(torch.zeros(2, 1, 1, 53), query, 53)
    assert bias.shape == (2, 4, 7, 53)
    assert bias.stride()[1:] == (0, 0, 1)
    assert bias.stride(0) % 8 == 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("width", [64, 128])
def test_a_gpu_attends_by_a_fused_kernel(dtype: torch.dtype, width: int) -> None:
    found = kernels_for(torch.device("cuda:0"), dtype, width)
    assert found.plain is not IN_STEPS
    assert found.masked is not IN_STEPS
    assert (found.rows is None) == (dtype == torch.float32)

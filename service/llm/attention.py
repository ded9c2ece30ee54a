"""Softmax attention that tells its log-sum-exps, so that two parts of it can be joined; which kernel does it, on which device.

No kernel is trusted for its name: each is tried on small cases against `attend_in_steps`, in the device's precision, and the
first that agrees is taken. `attend_in_steps` holds every score in memory, so it is what is left when no other agrees.

Shapes: query (b, h, n, D), key and value (b, h, t, D) -> values (b, h, n, D) and log-sum-exps (b, h, n) float32.
Of packed rows: query (N, H, D), key and value (M, G, D) -> values (N, H, D) and log-sum-exps (N, H) float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor

from service.llm.staging import sent

_ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
_BIAS_ALIGNMENT = 8  # keys: the memory-efficient kernel loads a mask in pieces of 16 bytes


class Attend(Protocol):
    """Attention as `attend_in_steps` computes it. A mask (b or 1, 1, 1, t) is added to the scores."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        *,
        causal: bool = False,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to attend. `masks`: it takes a mask. `precisions`: of what it takes."""

    name: str
    attend: Attend
    masks: bool
    precisions: frozenset[torch.dtype]


@dataclass(frozen=True, slots=True)
class Stretches:
    """S consecutive stretches of a row of tokens, of which the first `used` count; without `used` all of each."""

    bounds: Tensor  # (S + 1,) int32: where each begins, and where the last one ends
    longest: int
    used: Tensor | None = None  # (S,) int32


class AttendRows(Protocol):
    """Attention of packed rows: the queries of a stretch look at the keys of the stretch with its number, and at no others."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        asking: Stretches,
        asked: Stretches,
        *,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Kernels:
    """What was chosen: for whole parts, for those that a mask divides, and for packed rows of several lengths, if any."""

    plain: Kernel
    masked: Kernel
    rows: AttendRows | None = None

    @property
    def words(self) -> str:
        named = [self.plain.name]
        if self.masked is not self.plain:
            named.append(f"{self.masked.name} where contexts differ in length")
        if self.rows is not None:
            named.append("of variable length for packed rows")
        return "; ".join(named)


def attend_in_steps(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention, one plain step after the other: what other ways are compared with."""
    scores = (query * scale) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    lse = torch.logsumexp(scores.float(), dim=-1)
    return torch.exp(scores.float() - lse[..., None]).to(value.dtype) @ value, lse


def attend_on_cpu(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention by the processor's fused kernel."""
    found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scale
    )
    return found


def attend_flash(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention by FlashAttention, which takes no mask."""
    if mask is not None:
        raise RuntimeError("FlashAttention takes no mask")
    found = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, False, scale=scale)
    return found[0], found[1][..., : query.shape[2]]


def attend_efficient(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention by the memory-efficient kernel of xFormers."""
    bias = None if mask is None else _aligned_bias(mask, query, key.shape[2])
    found = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, 0.0, causal, scale=scale
    )
    return found[0], found[1][..., : query.shape[2]]  # it rounds the queries up to a multiple of its own


def attend_rows_in_steps(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    asking: Stretches,
    asked: Stretches,
    *,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """One stretch after the other by `attend_in_steps`: what a kernel of variable length is compared with."""
    ends = asked.bounds[1:] if asked.used is None else asked.bounds[:-1] + asked.used
    texts, seen = pairwise(asking.bounds.tolist()), zip(asked.bounds[:-1].tolist(), ends.tolist(), strict=True)
    found = []
    for (first, end), (begin, over) in zip(texts, seen, strict=True):
        q, k, v = (part.transpose(0, 1) for part in (query[first:end], key[begin:over], value[begin:over]))
        of_heads = [part.repeat_interleave(len(q) // len(part), dim=0)[None] for part in (q, k, v)]
        out, lse = attend_in_steps(of_heads[0], of_heads[1], of_heads[2], scale, causal=causal)
        found.append((out[0].transpose(0, 1), lse[0].transpose(0, 1)))
    outs, lses = zip(*found, strict=True)
    return torch.cat(outs), torch.cat(lses)


def attend_rows_flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    asking: Stretches,
    asked: Stretches,
    *,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attention by FlashAttention's kernel of variable length: neither padding nor copies of keys for heads of a group."""
    found = torch.ops.aten._flash_attention_forward(
        *(query, key, value, asking.bounds, asked.bounds, asking.longest, asked.longest, 0.0, causal, False),
        scale=scale,
        seqused_k=asked.used,
    )
    return found[0], found[1].transpose(0, 1)


_HALVES = frozenset({torch.bfloat16, torch.float16})
_ALL = _HALVES | {torch.float32}
IN_STEPS = Kernel("plain steps that hold every score", attend_in_steps, True, _ALL)
ON_CPU = Kernel("fused for processors", attend_on_cpu, True, _ALL)
ON_CUDA = (
    Kernel("FlashAttention", attend_flash, False, _HALVES),
    Kernel("memory-efficient attention", attend_efficient, True, _ALL),
)


def choose_kernels(candidates: Sequence[Kernel], dtype: torch.dtype, agrees: Callable[[Kernel, bool], bool]) -> Kernels:
    """Choose from the candidates, best first, those that take `dtype` and agree; where none does, plain steps.

    Pure: `agrees` says of a kernel whether it is right, and whether it is with a mask.
    """
    able = [kernel for kernel in candidates if dtype in kernel.precisions]
    plain = next((kernel for kernel in able if agrees(kernel, False)), IN_STEPS)
    if plain.masks and plain is not IN_STEPS and agrees(plain, True):
        return Kernels(plain, plain)
    return Kernels(plain, next((kernel for kernel in able if kernel.masks and agrees(kernel, True)), IN_STEPS))


@lru_cache(maxsize=64)
def kernels_for(device: torch.device, dtype: torch.dtype, width: int, heads: int = 4) -> Kernels:
    """What attends on `device` with heads of `width`. A GPU's kernels are tried the first time that this is asked."""
    if device.type == "cpu":
        return Kernels(ON_CPU, ON_CPU)
    if device.type != "cuda":
        return Kernels(IN_STEPS, IN_STEPS)
    found = choose_kernels(ON_CUDA, dtype, lambda kernel, masked: agrees(kernel, masked, device, dtype, width, heads))
    rows = attend_rows_flash if rows_agree(attend_rows_flash, device, dtype, width, heads) else None
    return replace(found, rows=rows)


@torch.no_grad()
def agrees(kernel: Kernel, masked: bool, device: torch.device, dtype: torch.dtype, width: int, heads: int = 4) -> bool:
    """Whether a kernel gives what plain steps give in float32, up to rounding, on lengths as requests have them."""
    cases = ((2, 7, 53), (1, 130, 64), (2, 56, 201)) if masked else ((2, 53, 53), (1, 130, 130), (2, 7, 201), (1, 1, 1))
    try:
        return all(_agrees_on(kernel, masked, size, heads, width, device, dtype) for size in cases)
    except (RuntimeError, NotImplementedError, TypeError):  # not for this device, width or version of torch
        return False


@torch.no_grad()
def rows_agree(attend: AttendRows, device: torch.device, dtype: torch.dtype, width: int, heads: int = 4) -> bool:
    """Whether a kernel for packed rows gives what plain steps give in float32, up to rounding; heads alone and in one group."""
    try:
        # Texts of one token each take a way of their own through the kernel.
        return all(
            _rows_agree(attend, texts, (heads, groups, width), device, dtype)
            for groups in (1, heads)
            for texts in ((7, 56, 1, 130), (1, 1, 1, 1))
        )
    except (RuntimeError, NotImplementedError, TypeError):  # not for this device, width or version of torch
        return False


def join(mine: Tensor, mine_lse: Tensor, theirs: Tensor, theirs_lse: Tensor) -> Tensor:
    """Attention over two parts, (…, D), from the attention over each and its log-sum-exp (…)."""
    share = torch.sigmoid(mine_lse - theirs_lse)[..., None].to(mine.dtype)
    return torch.lerp(theirs, mine, share)


def _agrees_on(
    kernel: Kernel,
    masked: bool,
    size: tuple[int, int, int],
    heads: int,
    width: int,
    device: torch.device,
    dtype: torch.dtype,
) -> bool:
    batch, n, t = size
    random = torch.Generator().manual_seed(n)
    query, key, value = (
        torch.randn(batch, heads, length, width, generator=random).to(dtype).to(device) for length in (n, t, t)
    )
    mask = _half_hidden(batch, t).to(device, dtype) if masked else None
    for causal in (False, True) if n == t and not masked else (False,):
        ours = kernel.attend(query, key, value, width**-0.5, causal=causal, mask=mask)
        right = attend_in_steps(
            *(query.float(), key.float(), value.float(), width**-0.5),
            causal=causal,
            mask=None if mask is None else mask.float(),
        )
        if not all(_near(one, other, dtype) for one, other in zip(ours, right, strict=True)):
            return False
    return True


def _rows_agree(
    attend: AttendRows, texts: Sequence[int], shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype
) -> bool:
    """On four texts: each looks at itself, and then at what went before it, which stands in a grid with a margin."""
    heads, groups, width = shape
    grid, used = 201, (201, 53, 1, 64)
    random = torch.Generator().manual_seed(groups)
    query = torch.randn(sum(texts), heads, width, generator=random).to(dtype).to(device)
    own, before = (
        [torch.randn(count, groups, width, generator=random).to(dtype).to(device) for _ in range(2)]
        for count in (sum(texts), grid * len(texts))
    )
    asking = stretches(texts, device)
    cases = (
        (own, asking, True),
        (before, replace(stretches([grid] * len(texts), device), used=int32_on(device, used)), False),
    )
    for (key, value), asked, causal in cases:
        ours = attend(query, key, value, width**-0.5, asking, asked, causal=causal)
        right = attend_rows_in_steps(
            *(query.float(), key.float(), value.float(), width**-0.5), asking, asked, causal=causal
        )
        if not all(_near(one, other, dtype) for one, other in zip(ours, right, strict=True)):
            return False
    return True


def stretches(lengths: Sequence[int], device: torch.device) -> Stretches:
    """Stretches of these lengths, one after the other."""
    return Stretches(int32_on(device, [0, *accumulate(lengths)]), max(lengths))


def int32_on(device: torch.device, numbers: Sequence[int]) -> Tensor:
    """(n,) int32; nobody waits for the copy."""
    return sent(device, torch.tensor(numbers, dtype=torch.int32))[0]


def _near(ours: Tensor, right: Tensor, dtype: torch.dtype) -> bool:
    same = ours.shape == right.shape and bool(torch.isfinite(ours).all())
    return same and bool(((ours.float() - right).abs() <= _ROUNDING[dtype] * (1.0 + right.abs())).all())


def _half_hidden(batch: int, t: int) -> Tensor:
    """(b, 1, 1, t), of the last text the second half hidden."""
    mask = torch.zeros(batch, 1, 1, t)
    mask[-1, ..., (t + 1) // 2 :] = -torch.inf
    return mask


def _aligned_bias(mask: Tensor, query: Tensor, keys: int) -> Tensor:
    """The mask for every head and query, at an address and with strides that the kernel takes; nothing is copied for them."""
    room = -(-keys // _BIAS_ALIGNMENT) * _BIAS_ALIGNMENT
    padded = mask if room == keys else torch.nn.functional.pad(mask, (0, room - keys))
    return padded.expand(query.shape[0], query.shape[1], query.shape[2], room)[..., :keys]

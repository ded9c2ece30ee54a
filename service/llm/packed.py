"""Texts of different lengths read as one row of tokens, without padding; many of them may go on from one that was read before.

Linear layers act token by token, so only attention must know where a text ends. Here every token attends to its own text's
earlier tokens and to the prefix that its run of texts shares; the two parts are joined by their log-sum-exps, as in cascade
(shared-prefix) attention (Juravsky et al. 2024, "Hydragen"). A prefix's keys are never copied for each text.

Shapes: N tokens of B texts, in R runs of consecutive texts with one prefix each; H heads, G groups of keys and values, heads of
width D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from service.llm.attention import AttendRows, Stretches, int32_on, join, kernels_for, stretches
from service.llm.staging import sent

FORWARD_TOKENS = 2048  # more do not go faster on a processor: what they make on the way falls out of its caches
_NAME = "lethe_packed"
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(frozen=True, slots=True)
class Prefix:
    """What the frozen model made of one context of T tokens: all that a question after it looks at.

    Of a causal model keys and values of every layer in turn; of an encoder its last layer alone, with G = 1.
    """

    states: tuple[Tensor, ...]  # each (G, T, D)
    embedding: Tensor  # (hidden,) float32, unit length: where the context stands

    @property
    def tokens(self) -> int:
        return int(self.states[0].shape[1])

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self.states) + self.embedding.nbytes

    def copy(self) -> Prefix:
        """A copy of the prefix in memory of its own."""
        return Prefix(tuple(state.clone() for state in self.states), self.embedding.clone())


@dataclass(frozen=True, slots=True)
class PrefixGrid:
    """R prefixes side by side, right-padded to the longest: T tokens."""

    states: tuple[Tensor, ...]  # as a prefix has them, each (R, G, T, D); empty: nothing was read before
    tokens: tuple[int, ...]  # of each prefix
    unseen: Tensor | None  # (R, 1, 1, T) −inf where a prefix is padded, else 0; None: nothing is padded

    @classmethod
    def of(cls, prefixes: Sequence[Prefix]) -> PrefixGrid:
        """These. One alone is not copied."""
        if not prefixes:
            return cls((), (), None)
        tokens = tuple(prefix.tokens for prefix in prefixes)
        longest = max(tokens)
        states = tuple(_stacked(parts, longest) for parts in zip(*(prefix.states for prefix in prefixes), strict=True))
        return cls(states, tokens, None if min(tokens) == longest else _unseen(tokens, states[0]))

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self.states)

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer of a causal model, each (R, G, T, D)."""
        return self.states[2 * layer], self.states[2 * layer + 1]

    def rows_of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values as rows of tokens, each (R · T, G, D); those of one prefix alone are not copied."""
        keys, values = (state.transpose(1, 2).flatten(0, 1) for state in self.keys_values(layer))
        return keys, values

    def rows(self, taken: slice) -> PrefixGrid:
        """Some of the prefixes, as they stand: views."""
        unseen = None if self.unseen is None else self.unseen[taken]
        return PrefixGrid(tuple(state[taken] for state in self.states), self.tokens[taken], unseen)


class Runs:
    """N consecutive things in runs of given lengths, and the same things in a grid (runs, longest) with a margin."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = tuple(lengths)
        self.longest = max(lengths)
        self.count = len(lengths)
        self._device = device
        self.even = all(length == self.longest for length in lengths)
        if not self.even:
            starts = torch.tensor([0, *accumulate(lengths)][:-1])
            place = torch.arange(self.longest)
            inside = place[None] < torch.tensor(lengths)[:, None]
            taken = torch.where(inside, starts[:, None] + place[None], 0).flatten()
            self._taken, self._kept = sent(device, taken, inside.flatten().nonzero()[:, 0])

    @cached_property
    def stretches(self) -> Stretches:
        """The runs, as a kernel of variable length is told of them."""
        return stretches(self.lengths, self._device)

    def spread(self, things: Tensor, dim: int) -> Tensor:
        """Dimension `dim` of N -> two dimensions (runs, longest); the margin repeats the first thing."""
        taken = things if self.even else things.index_select(dim, self._taken)
        grid: Tensor = taken.unflatten(dim, (self.count, self.longest))
        return grid

    def join(self, grid: Tensor, dim: int) -> Tensor:
        """Dimensions `dim`, `dim` + 1 of (runs, longest) -> N; the margin is dropped."""
        flat = grid.flatten(dim, dim + 1)
        return flat if self.even else flat.index_select(dim, self._kept)

    def repeat(self, of_runs: Tensor) -> Tensor:
        """What belongs to runs (R, …) -> the same for each of their things (N, …)."""
        [lengths] = sent(of_runs.device, torch.tensor(self.lengths))
        return of_runs.repeat_interleave(lengths, dim=0, output_size=sum(self.lengths))


class EnoughRead(Exception):
    """Ends a forward pass: nothing that comes after would be kept."""


@dataclass(frozen=True)
class Packing:
    """How one row of tokens is divided, and what its runs have read before. Lives for one forward pass.

    Where there is a way back, each text must be a run of its own.
    """

    texts: Runs  # tokens of each text
    runs: Runs  # tokens of each run of texts
    prefixes: PrefixGrid
    recorded: list[tuple[Tensor, Tensor]] | None = None  # takes the texts' keys and values, (G, N, D) a layer
    layers: int | None = None  # nothing is wanted but the keys and values of so many layers

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query (H, N, D), key and value (G, N, D) -> (H, N, D). Raises EnoughRead after the last that was wanted."""
        if self.recorded is not None:
            self.recorded.append((key, value))
            if len(self.recorded) == self.layers:
                raise EnoughRead
        rows = kernels_for(query.device, query.dtype, query.shape[-1]).rows
        if rows is not None and not (self.even or _has_a_way_back(query, key, value)):
            return self.attend_rows(rows, layer, query, key, value, scale)
        return self.attend_in_grid(layer, query, key, value, scale)

    @property
    def even(self) -> bool:
        """Whether nothing is padded: then a grid is a view, and needs no kernel of variable length."""
        return self.texts.even and self.runs.even

    def attend_rows(
        self, attend: AttendRows, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor:
        """What `attend` gives, without a way back, by a kernel that takes texts and prefixes as they stand."""
        q, k, v = (part.transpose(0, 1) for part in (query, key, value))
        out, lse = attend(q, k, v, scale, self.texts.stretches, self.texts.stretches, causal=True)
        if self.prefixes.tokens:
            keys, values = self.prefixes.rows_of(layer)
            seen, seen_lse = attend(q, keys, values, scale, self.runs.stretches, self._before)
            out = join(out, lse, seen, seen_lse)
        return out.transpose(0, 1)

    @cached_property
    def _before(self) -> Stretches:
        """What each run has read before, where prefixes stand as rows."""
        longest, device = max(self.prefixes.tokens), self.prefixes.states[0].device
        used = None if self.prefixes.unseen is None else int32_on(device, self.prefixes.tokens)
        return replace(stretches([longest] * len(self.prefixes.tokens), device), used=used)

    def attend_in_grid(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """What `attend` gives, each text and each run padded to the longest."""
        repeated = query.shape[0] // key.shape[0]
        own = [part.repeat_interleave(repeated, dim=0) if repeated > 1 else part for part in (key, value)]
        q, k, v = (self.texts.spread(part, 1).transpose(0, 1) for part in (query, *own))  # (B, H, n, D)
        if not self.prefixes.tokens:
            alone = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
            return self.texts.join(alone.transpose(0, 1), 1)
        if _has_a_way_back(q, k, v):
            found = attend_both(q, k, v, *self.prefixes.keys_values(layer), scale, self.prefixes.unseen)
            return self.texts.join(found.transpose(0, 1), 1)
        mine, mine_lse = attend(q, k, v, scale, causal=True)
        out, lse = self.texts.join(mine.transpose(0, 1), 1), self.texts.join(mine_lse.transpose(0, 1), 1)
        # Heads of one group look at the same keys, so they stand in line as if they were more tokens.
        wide = self.runs.spread(query, 1).transpose(0, 1)  # (R, H, n, D)
        folded = wide.reshape(wide.shape[0], key.shape[0], -1, wide.shape[3])  # (R, G, H/G · n, D)
        theirs, theirs_lse = attend(folded, *self.prefixes.keys_values(layer), scale, mask=self.prefixes.unseen)
        seen = self.runs.join(theirs.reshape(wide.shape).transpose(0, 1), 1)
        seen_lse = self.runs.join(theirs_lse.reshape(wide.shape[:3]).transpose(0, 1), 1)
        return join(out, lse, seen, seen_lse)


def _has_a_way_back(*parts: Tensor) -> bool:
    return torch.is_grad_enabled() and any(part.requires_grad for part in parts)


def attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention of (b, h, n, D) over (b, h, t, D): values (b, h, n, D) and log-sum-exps (b, h, n) float32."""
    kernels = kernels_for(query.device, query.dtype, query.shape[-1])
    return (kernels.plain if mask is None else kernels.masked).attend(
        query, key, value, scale, causal=causal, mask=mask
    )


def attend_both(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, scale: float, unseen: Tensor | None
) -> Tensor:
    """Attend each text to its own earlier tokens and a prefix of its own (B, G, T, D), differentiably: (B, H, n, D).

    Fused kernels have none through their log-sum-exps.
    """
    batch, heads, n, width = query.shape
    query = query * scale
    folded = query.reshape(batch, keys.shape[1], -1, width)  # heads of one group stand in line
    seen = (folded @ keys.transpose(-1, -2)).reshape(batch, heads, n, -1)
    later = torch.ones(n, n, dtype=torch.bool, device=query.device).triu(1)
    own = (query @ key.transpose(-1, -2)).masked_fill(later, -torch.inf)
    scores = torch.cat([seen if unseen is None else seen + unseen, own], dim=-1)
    shares = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    of_prefix, of_own = shares.split([keys.shape[2], n], dim=-1)
    found: Tensor = (of_prefix.reshape(*folded.shape[:3], -1) @ values).reshape(query.shape) + of_own @ value
    return found


def chunks_of_tokens(lengths: Sequence[int], most: int) -> Iterator[range]:
    """Consecutive texts of at most `most` tokens in all; one that is longer goes alone."""
    first = total = 0
    for place, length in enumerate(lengths):
        if place > first and total + length > most:
            yield range(first, place)
            first, total = place, 0
        total += length
    if first < len(lengths):
        yield range(first, len(lengths))


def _unseen(tokens: Sequence[int], keys: Tensor) -> Tensor:
    longest = max(tokens)
    beyond = torch.arange(longest) >= torch.tensor(tokens)[:, None, None, None]
    mask = torch.zeros(len(tokens), 1, 1, longest).masked_fill_(beyond, -torch.inf)
    return sent(keys.device, mask.to(keys.dtype))[0]


def _stacked(parts: Sequence[Tensor], longest: int) -> Tensor:
    """Tensors (G, T, D) of several T -> (R, G, longest, D); one alone is not copied."""
    if len(parts) == 1:
        return parts[0][None]
    grid = parts[0].new_empty(len(parts), parts[0].shape[0], longest, parts[0].shape[2])
    for row, part in zip(grid, parts, strict=True):
        row[:, : part.shape[1]] = part
        row[:, part.shape[1] :] = 0
    return grid


def same(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Whether two ways of reading came to one answer, up to rounding."""
    return bool(((ours - theirs).abs() <= _TOLERANCE[dtype] * (1.0 + theirs.abs())).all())


_PACKING: ContextVar[Packing | None] = ContextVar("packing", default=None)


def _attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    packing = _PACKING.get()
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    layer: Any = module.layer_idx
    scale = given.get("scaling") or query.shape[-1] ** -0.5
    return packing.attend(layer, query[0], key[0], value[0], scale).transpose(0, 1)[None], None


def _mask(*args: Any, **given: Any) -> Tensor | None:
    mask: Tensor | None = None if _PACKING.get() is not None else sdpa_mask(*args, **given)
    return mask


@contextmanager
def packing(how: Packing) -> Iterator[None]:
    """Within, attention of this thread of control is as `how` says."""
    token = _PACKING.set(how)
    try:
        yield
    finally:
        _PACKING.reset(token)


def install(model: PreTrainedModel) -> None:
    """Let a model's attention be packed, where it is the one that is wrapped here. Until it is, nothing changes."""
    if model.config._attn_implementation == "sdpa":
        model.config._attn_implementation = _NAME


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)

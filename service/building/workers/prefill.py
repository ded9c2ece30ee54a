"""What the frozen model makes of people's contexts, for those who train and those who validate.

A person's contexts are read together, and with nobody else's: a float's last bits depend on what was read beside it, so
what was read of one person is the same whoever else there is. It may be kept as long as that person is (`prefill_cache`).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from service.llm.frozen import FrozenModel
from service.llm.packed import FORWARD_TOKENS, Prefix, chunks_of_tokens

MANNER = "packed, person by person"  # how contexts are read: a part of every digest of what depends on it


@dataclass(frozen=True, slots=True)
class Prefill:
    """What was read of one person's contexts, one after the other: N tokens in all."""

    lengths: tuple[int, ...]  # tokens of each context
    tensors: tuple[Tensor, ...]  # the states of a prefix, each (G, N, D); last the embeddings (contexts, H or 0)

    @classmethod
    def of(cls, prefixes: Sequence[Prefix]) -> Prefill:
        """Copy prefixes into memory of one's own."""
        joined = [torch.cat(parts, dim=1) for parts in zip(*(prefix.states for prefix in prefixes), strict=True)]
        embeddings = torch.stack([prefix.embedding for prefix in prefixes])
        return cls(tuple(prefix.tokens for prefix in prefixes), (*joined, embeddings))

    def prefixes(self) -> list[Prefix]:
        """Views of it, one for each context."""
        *states, embeddings = self.tensors
        return [
            Prefix(tuple(state[:, end - length : end] for state in states), embedding)
            for end, length, embedding in zip(accumulate(self.lengths), self.lengths, embeddings, strict=True)
        ]

    def to(self, device: torch.device) -> Prefill:
        """A copy of it on the device."""
        return Prefill(self.lengths, tuple(tensor.to(device) for tensor in self.tensors))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


def read_together(frozen: FrozenModel, contexts: Sequence[Sequence[int]], embed: bool) -> Prefill:
    """Read these contexts, as a rule one person's; the bits depend on nothing else. Without `embed` no embeddings are made."""
    chunks = chunks_of_tokens([len(context) for context in contexts], FORWARD_TOKENS)
    parts = [frozen.read_prefixes([contexts[number] for number in chunk], embed) for chunk in chunks]
    return Prefill.of([prefix for part in parts for prefix in part])


def once_each(contexts: Sequence[list[int]]) -> tuple[list[list[int]], list[int]]:
    """The distinct ones among a person's contexts, in the order in which they come first, and which of them each one is."""
    numbers: dict[tuple[int, ...], int] = {}
    which = [numbers.setdefault(tuple(context), len(numbers)) for context in contexts]
    return [list(context) for context in numbers], which


def prefill_name(contexts: Sequence[Sequence[int]], embed: bool) -> str:
    """What names the reading of these contexts, under one frozen model."""
    digest = hashlib.blake2b(b"with embeddings" if embed else b"", digest_size=32)
    for context in contexts:
        digest.update(array("q", [len(context), *context]).tobytes())
    return digest.hexdigest()

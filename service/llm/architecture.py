"""What the frozen model must be able to do, whatever its architecture is, and what all architectures have in common.

Shapes: B rows, T context tokens, H hidden size, R runs of consecutive texts with one context each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from service.errors import ModelUnsuitable
from service.llm.packed import Prefix, PrefixGrid, Runs
from service.records import Activation


@dataclass(frozen=True, slots=True)
class PaddedPrefixes:
    """What the frozen model made of B contexts in padded rows: all that a question after one of them looks at."""

    states: tuple[Tensor, ...]  # as a prefix has them, each (B, G, T, D)
    mask: Tensor  # (B, T), True where a token is
    embeddings: Tensor  # (B, H) float32, unit length

    def rows(self, index: Tensor) -> PaddedPrefixes:
        """Those at `index` (R,), in that order; repetition is allowed."""
        return PaddedPrefixes(tuple(state[index] for state in self.states), self.mask[index], self.embeddings[index])

    def prefixes(self) -> list[Prefix]:
        """One for each context, without the padding: views."""
        lengths = self.mask.sum(dim=1).tolist()
        return [
            Prefix(tuple(state[row, :, :length] for state in self.states), self.embeddings[row])
            for row, length in enumerate(lengths)
        ]


@dataclass(frozen=True, slots=True)
class Pass:
    """Consecutive texts that one forward pass answers: of each run that it takes from so many."""

    texts: slice
    runs: slice
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The output layer as far as the two answers need it: logit(Yes) − logit(No) = hidden · weight + bias."""

    weight: Tensor  # (H,) float32
    bias: Tensor | None = None  # () float32

    @classmethod
    def of(cls, model: PreTrainedModel, yes: int, no: int) -> AnswerHead:
        """The head of a model with a plain output layer.

        Raises:
            ModelUnsuitable: there is none, or it has a bias of its own.
        """
        head: Any = model.get_output_embeddings()
        if head is None or getattr(head, "bias", None) is not None:
            raise ModelUnsuitable(
                "the model has no plain output layer; Lethe needs one row of it for 'Yes' and one for 'No'"
            )
        return cls((head.weight[yes].float() - head.weight[no].float()).detach())

    def difference(self, hidden: Tensor) -> Tensor:
        """(B, H) at the answer's position -> (B,) float32."""
        found = hidden.float() @ self.weight
        return found if self.bias is None else found + self.bias


class Architecture(Protocol):
    """One kind of language model. Adapters are none of its business: whatever is attached to its layers takes part."""

    @property
    def task_type(self) -> str:
        """What PEFT calls models of this kind."""

    @property
    def layers(self) -> int:
        """How many layers there are where questions are answered."""

    @property
    def head(self) -> AnswerHead: ...

    @property
    def packs(self) -> bool:
        """Whether texts are read as one packed row of tokens, and not in rows."""

    def without_adapters(self, activation: Activation) -> str | None:
        """The name of the submodule that has no adapters under an activation; None: they may be on every layer."""

    def library_logits(self, prompt: Sequence[int]) -> Tensor:
        """The logits of every token (vocabulary,) float32 where the answer to a whole prompt stands, as transformers says."""

    def read_padded_prefixes(self, contexts: Sequence[Sequence[int]]) -> PaddedPrefixes:
        """Read B contexts in padded rows; no gradient."""

    def yes_no_logits(self, questions: Sequence[Sequence[int]], prefixes: PaddedPrefixes) -> Tensor:
        """(B,) after each question and its context, in padded rows."""

    def yes_no_logits_whole(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """(B,) after each whole prompt, in padded rows."""

    def embed(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Where texts stand: (B, H) float32, rows of unit length; no gradient."""

    def read_prefixes(self, contexts: Sequence[Sequence[int]], embed: bool) -> list[Prefix]:
        """Read contexts; no gradient. Without `embed` nothing is read beyond what an answer needs."""

    def passes(self, texts: Sequence[Sequence[int]], runs: Sequence[int]) -> list[Pass]:
        """How texts in runs are divided among forward passes, in order."""

    def spread(
        self, weights: Tensor, texts: Sequence[Sequence[int]], runs: Sequence[int]
    ) -> tuple[Tensor, Runs | None]:
        """What belongs to the runs of one pass, as its layers meet it.

        `weights` (R, K) and the tokens of each run, where a pass is one packed row; else, without runs, (rows or 1, K).
        """

    def answer(self, texts: Sequence[Sequence[int]], runs: Sequence[int], prefixes: PrefixGrid) -> Tensor:
        """(B,) of the texts of one pass; without any prefix each of them is a whole prompt."""


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (B, T), padded on the right, and a mask of the same shape that is True where a token is."""
    # With a causal mask no real token ever sees a pad on its right, and no query row is empty.
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    ids = pad_sequence(tensors, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
    return ids.to(device), mask.to(device)


def at_last_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """(B, T, H) -> (B, H): of each row the last one that the mask (B, T) leaves."""
    last = mask.sum(dim=1) - 1
    return hidden[torch.arange(len(last), device=hidden.device), last]


def chunks_of_rows(lengths: Sequence[int], most: int) -> Iterator[range]:
    """Consecutive texts that take at most `most` tokens as rows of the longest of them; one that is longer goes alone."""
    first = longest = 0
    for place, length in enumerate(lengths):
        longest = max(longest, length)
        if place > first and longest * (place + 1 - first) > most:
            yield range(first, place)
            first, longest = place, length
    if first < len(lengths):
        yield range(first, len(lengths))

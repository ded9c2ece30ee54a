"""How a language model reads lessons: the port between what is taught and the architecture that learns it.

Shapes: B rows, Q questions each, T tokens of the longest row, H hidden size, M tokens to predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from research.pretraining.lessons import PeopleLesson, TextLesson


class LessonReader(Protocol):
    """A model in training. Its logits are its output layer's of what these functions return, unscaled."""

    model: Any

    def at_answers(self, lesson: PeopleLesson) -> Tensor:
        """(B, Q, H): the last hidden state where the answer to each question stands."""

    def before_wanted(self, lesson: TextLesson) -> tuple[Tensor, Tensor]:
        """(M, H), the last hidden state before each token that is to be predicted, and these tokens (M,)."""


@dataclass(frozen=True, slots=True)
class PackedQuestions:
    """B contexts, each followed in one row by its questions: every question sees the context and itself only.

    So one reading of a context serves many answers, as it does in a request.
    """

    ids: Tensor  # (B, T)
    positions: Tensor  # (B, T); every question starts where the context ended
    mask: Tensor  # (B, 1, T, T) bool, True where a row may look
    ends: Tensor  # (B, Q): the last token of each question

    @classmethod
    def of(
        cls, contexts: Sequence[Sequence[int]], questions: Sequence[Sequence[Sequence[int]]], pad: int
    ) -> PackedQuestions:
        """Contexts may be empty; each has equally many questions, of any length."""
        rows = [_Row.of(context, asked) for context, asked in zip(contexts, questions, strict=True)]
        owners = padded([row.owners for row in rows], -1)
        seen, by = owners[:, None, :], owners[:, :, None]
        causal = torch.ones((owners.shape[1], owners.shape[1]), dtype=torch.bool).tril()
        return cls(
            ids=padded([row.ids for row in rows], pad),
            positions=padded([row.positions for row in rows], 0),
            mask=(causal & ((seen == 0) | (seen == by)))[:, None],
            ends=torch.tensor([row.ends for row in rows]),
        )

    def at_ends(self, hidden: Tensor) -> Tensor:
        """(B, T, H) -> (B, Q, H)."""
        ends = self.ends.to(hidden.device)
        return hidden.gather(1, ends[:, :, None].expand(-1, -1, hidden.shape[-1]))


def padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """(B, T), filled up on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def flat_places(firsts: Sequence[int], counts: Sequence[int], width: int) -> Tensor:
    """(M,): in flattened rows (B, `width`), of the n-th row the `counts[n]` places from `firsts[n]` on."""
    spans = zip(range(0, width * len(counts), width), firsts, counts, strict=True)
    return torch.cat([torch.arange(row + first, row + first + count) for row, first, count in spans])


@dataclass(frozen=True, slots=True)
class _Row:
    ids: list[int]
    positions: list[int]
    owners: list[int]  # 0 for the context, n for the n-th question
    ends: list[int]

    @classmethod
    def of(cls, context: Sequence[int], questions: Sequence[Sequence[int]]) -> _Row:
        ids, owners = list(context), [0] * len(context)
        positions, ends = list(range(len(context))), []
        for number, question in enumerate(questions, start=1):
            ids += question
            positions += range(len(context), len(context) + len(question))
            owners += [number] * len(question)
            ends.append(len(ids) - 1)
        return cls(ids, positions, owners, ends)

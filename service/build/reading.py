"""Many contexts read without much padding: neighbours in length together, and put back into the order that was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from service.llm.frozen import Contexts, FrozenModel

_ROWS = 8  # read at once; of fewer rows a processor multiplies more slowly, of more the padding grows


def read_keys_values(frozen: FrozenModel, contexts: Sequence[Sequence[int]]) -> Contexts:
    """As FrozenModel.read_keys_values, up to rounding. The bits depend on these contexts alone."""
    order = sorted(range(len(contexts)), key=lambda number: len(contexts[number]))
    parts = [
        frozen.read_keys_values([contexts[number] for number in order[i : i + _ROWS]])
        for i in range(0, len(order), _ROWS)
    ]
    back = torch.tensor(order, device=frozen.device).argsort()
    return _joined(parts).rows(back)


def _joined(parts: Sequence[Contexts]) -> Contexts:
    width = max(part.mask.shape[1] for part in parts)
    keys_values = tuple(
        (_wide([keys for keys, _ in layer], width), _wide([values for _, values in layer], width))
        for layer in zip(*(part.keys_values for part in parts), strict=True)
    )
    mask = torch.cat([pad(part.mask, (0, width - part.mask.shape[1])) for part in parts])
    return Contexts(keys_values, mask, torch.cat([part.embeddings for part in parts]))


def _wide(parts: Sequence[Tensor], width: int) -> Tensor:
    """(B, heads, T, head_dim) each -> (all B, heads, width, head_dim). Masked tokens are zeros, which nobody reads."""
    return torch.cat([pad(part, (0, 0, 0, width - part.shape[2])) for part in parts])

"""SASRec (Kang and McAuley 2018): a small transformer that reads a person's likes in order and says which comes next.

Trained with the cross-entropy over all items, which makes it much better than the published loss with one negative an item
(Klenitskiy and Vasilev 2023).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from research.evaluation.ranking.knowledge import History, Knowledge
from research.evaluation.ranking.peers.co_occurrence import MOST_ITEMS
from research.evaluation.ranking.peers.peer import (
    Doubles,
    Model,
    Options,
    Peer,
    grid,
)

_LENGTH = 50  # likes that are read, the newest
_WIDTH = 64
_LAYERS, _HEADS = 2, 2
_BATCH = 64
_RATE = 1e-3
_SEED = 0
_NO_TARGET = -100  # what cross-entropy ignores


class NextLike(nn.Module):
    """Likes by their numbers (B, T) -> what speaks for every item coming next, at each place (B, T, N)."""

    def __init__(self, items: int, dropout: float) -> None:
        super().__init__()
        self.items = nn.Embedding(items + 1, _WIDTH, padding_idx=items)  # the last one is padding
        self.places = nn.Embedding(_LENGTH, _WIDTH)
        nn.init.normal_(self.items.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            _WIDTH, _HEADS, 4 * _WIDTH, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _LAYERS, nn.LayerNorm(_WIDTH), enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, likes: Tensor) -> Tensor:
        """Padding stands behind the likes, where no earlier place looks."""
        length = likes.shape[1]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        read: Tensor = self.layers(self.dropout(self.items(likes) + self.places.weight[:length]), mask=later)
        return read @ self.items.weight[:-1].T


def fit(knowledge: Knowledge, options: Options) -> Model:
    """Trains for `epochs` with `dropout`. Whoever likes nothing gets what is popular."""
    counts = np.asarray(knowledge.counts, np.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = NextLike(knowledge.items, options["dropout"])
        _train(model, _windows(knowledge), int(options["epochs"]))
    model.eval()

    def scores(history: History, _options: Options) -> Doubles:
        if not len(history.likes):
            return counts
        with torch.no_grad():
            found: Tensor = model(torch.from_numpy(history.likes[-_LENGTH:])[None])
        return np.asarray(found[0, -1].numpy(), np.float64)

    return scores


def _train(model: NextLike, windows: Tensor, epochs: int) -> None:
    """`windows` (W, LENGTH + 1) are likes and, behind them, padding."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    padding = model.items.num_embeddings - 1
    for _ in range(epochs if len(windows) else 0):
        order = torch.randperm(len(windows))
        for first in range(0, len(windows), _BATCH):
            likes = windows[order[first : first + _BATCH]]
            likes = likes[:, : int((likes != padding).sum(dim=1).max())]
            targets = likes[:, 1:].masked_fill(likes[:, 1:] == padding, _NO_TARGET)
            loss = nn.functional.cross_entropy(model(likes[:, :-1]).flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _windows(knowledge: Knowledge) -> Tensor:
    """Everybody's likes, cut from the newest on into windows that overlap by one like."""
    found = []
    for history in knowledge.histories.values():
        for end in range(len(history.likes), 1, -_LENGTH):
            own = history.likes[max(0, end - _LENGTH - 1) : end]
            found.append(np.pad(own, (0, _LENGTH + 1 - len(own)), constant_values=knowledge.items))
    return torch.from_numpy(np.array(found, np.int64).reshape(-1, _LENGTH + 1))


PEER = Peer("sasrec", fit, grid(dropout=(0.2, 0.5), epochs=(20, 50)), needs_order=True, most_items=MOST_ITEMS)

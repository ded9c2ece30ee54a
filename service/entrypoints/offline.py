"""Wires recommendations without a server: the parts of an API replica, and a queue that scores one request at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from service.entrypoints.bootstrap import Home
from service.entrypoints.devices import served_model
from service.entrypoints.generations import snapshots_of
from service.llm.frozen import FrozenModel
from service.scoring.offline import OneByOne
from service.scoring.prefix_cache import PrefixCache
from service.scoring.recommender import Recommender
from service.scoring.scorer import Scorer, Untimed
from service.scoring.shelf import Shelves


@contextmanager
def offline_recommender(home: Home) -> Iterator[Recommender]:
    """A recommender that answers as a server of this installation does, for as long as the block lasts.

    Raises NotReady where nothing is published, and what loading the model raises.
    """
    settings = home.settings
    torch.set_num_threads(settings.scoring_threads())
    frozen = FrozenModel.load(served_model(home))
    snapshots, most = snapshots_of(home, frozen), settings.max_batch_tokens
    snapshots.served(home.ledger)
    scorer = Scorer(home.ledger, snapshots, frozen, Untimed(), PrefixCache(settings.context_cache_bytes), most)
    with OneByOne(scorer, most) as queue:
        shelves = Shelves(home.ledger)
        yield Recommender(
            home.ledger, snapshots, frozen, queue, settings.request_timeout, shelves, settings.max_request_tokens
        )

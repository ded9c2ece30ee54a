from __future__ import annotations

import threading

import torch

from service.llm.packed import Prefix
from service.scoring.prefix_cache import PrefixCache
from service.scoring.refresher import Refresher
from tests.scoring.conftest import World


def test_a_deletion_empties_what_is_remembered_even_if_nobody_asks_for_anything(world: World) -> None:
    world.publish()
    contexts, rounds = PrefixCache(2**20), threading.Semaphore(0)
    looked = threading.Event()

    def wait(_seconds: float) -> bool:
        looked.set()
        return rounds.acquire()

    refresher = Refresher(world, world.snapshots, contexts, wait)
    refresher.start()
    assert looked.wait(60)
    contexts.put([1, 2], Prefix((torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)), torch.zeros(4)), fence=0)
    assert contexts.nbytes
    looked.clear()
    world.change(fence=1)
    rounds.release()
    assert looked.wait(60)
    assert contexts.nbytes == 0
    refresher.stop()
    rounds.release()

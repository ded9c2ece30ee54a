"""The installation's generations, as whoever answers holds them."""

from __future__ import annotations

from service.entrypoints.bootstrap import Home
from service.entrypoints.devices import computing_of
from service.llm.frozen import FrozenModel
from service.routing.neighbors import index_place
from service.scoring.snapshot import Snapshots


def snapshots_of(home: Home, frozen: FrozenModel) -> Snapshots:
    """The generations where the model computes. Raises InvalidSetting for a GPU that torch does not see."""
    device = computing_of(home.settings).device
    room = 0 if device == "cpu" else home.settings.adapter_bytes
    return Snapshots(home.store, frozen, index_place(device), room)

"""Settings and this machine -> which frozen model computes where. Asks torch, so only those import it who compute."""

from __future__ import annotations

from dataclasses import replace

from service.config import Settings
from service.entrypoints.bootstrap import Home
from service.llm.devices import Computing, SeenDevices, choose_computing
from service.llm.spec import ModelSpec


def computing_of(settings: Settings, seen: SeenDevices | None = None) -> Computing:
    """What the settings come to here, or on a machine like `seen`.

    Raises:
        InvalidSetting: a GPU is named that torch does not see.
    """
    return choose_computing(settings.device, settings.dtype, settings.train_device, seen or SeenDevices.look())


def model_of(settings: Settings) -> ModelSpec:
    """The frozen model as it serves. Raises as `computing_of`."""
    chosen = computing_of(settings)
    return ModelSpec(settings.model, settings.model_revision, chosen.dtype, chosen.device)


def served_model(home: Home) -> ModelSpec:
    """The installation's frozen model as it serves. Raises as `computing_of`."""
    return model_of(home.settings)


def trained_model(home: Home) -> ModelSpec:
    """The frozen model where builds compute. Raises what `computing_of` raises."""
    return replace(served_model(home), device=computing_of(home.settings).train_device)

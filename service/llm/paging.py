"""More adapters than a GPU has room for: all lie in the host's pinned memory, those that answer now in slots on the device.

An adapter is one row of numbers, so it comes in one copy that nobody waits for. What was used longest ago makes room. Where one
batch needs more adapters than there are slots, they are brought for that batch alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack

# Module -> of one A (r, d_in) and one B (r, d_out), and of one gate (2, d_out) where there is any.
Shapes = Mapping[str, tuple[torch.Size, ...]]


@dataclass(slots=True)
class Slots:
    """S places on a device, each for one adapter of P numbers. For one thread at a time."""

    numbers: Tensor  # (S, P)
    held: OrderedDict[int, int] = field(default_factory=OrderedDict)  # adapter -> slot, used longest ago first
    brought: int = 0  # adapters that were copied so far

    def hold(self, wanted: Sequence[int], host: Tensor) -> list[int]:
        """The slots of these adapters, which are brought from `host` (K, P) where they are missing."""
        for adapter in wanted:
            if adapter in self.held:
                self.held.move_to_end(adapter)
        missing = [adapter for adapter in wanted if adapter not in self.held]
        for adapter in missing:
            free = len(self.held) < len(self.numbers)
            slot = len(self.held) if free else self.held.popitem(last=False)[1]
            # On the stream of the passes: whatever still reads this slot is done before.
            self.numbers[slot].copy_(host[adapter], non_blocking=True)
            self.held[adapter] = slot
        self.brought += len(missing)
        return [self.held[adapter] for adapter in wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedStack(AdapterStack):
    """K adapters of which S fit on the device. `modules` is empty: `placed` gives a stack that can be multiplied."""

    host: Tensor  # (K, P), pinned where the device is a GPU
    shapes: Shapes
    slots: Slots
    in_slots: AdapterStack  # what the slots hold, whatever that is

    @classmethod
    def paged(
        cls, adapters: Mapping[str, Mapping[str, Tensor]], scaling: float, frozen: FrozenModel, room: int
    ) -> PagedStack:
        """Page adapters given as PEFT state dicts; `room` is in bytes, and at least one adapter gets a slot."""
        singles = {digest: AdapterStack.of({digest: one}, scaling, frozen, "cpu") for digest, one in adapters.items()}
        rows = {digest: _numbers(single) for digest, single in singles.items()}
        first = next(iter(singles.values()))
        shapes = {name: tuple(part.shape[1:] for part in _parts(first, name)) for name in first.modules}
        size = next(iter(rows.values())).numel()
        pinned = frozen.device.type == "cuda"
        host = torch.empty(len(rows), size, dtype=frozen.model.dtype, pin_memory=pinned)
        for number, row in enumerate(rows.values()):
            host[number] = row
        count = min(len(rows), max(1, room // max(1, size * host.element_size())))
        slots = Slots(torch.zeros(count, size, dtype=host.dtype, device=frozen.device))
        in_slots = _stack_of(slots.numbers, scaling, shapes)
        return cls(tuple(adapters), scaling, {}, host=host, shapes=shapes, slots=slots, in_slots=in_slots)

    def placed(self, weights: Tensor) -> tuple[AdapterStack, Tensor]:
        """The adapters that `weights` (R, K) of the host's memory want, on the device, and weights (R, S) over their slots."""
        wanted = weights.any(dim=0).nonzero()[:, 0].tolist()
        if len(wanted) <= len(self.slots.numbers):
            held, stack = self.slots.hold(wanted, self.host), self.in_slots
        else:
            held, stack = list(range(len(wanted))), _stack_of(self._brought(wanted), self.scaling, self.shapes)
        of_slots = torch.zeros(len(weights), len(stack.digests), dtype=weights.dtype)
        of_slots[:, held] = weights[:, wanted]
        return stack, of_slots

    def _brought(self, wanted: Sequence[int]) -> Tensor:
        numbers = torch.empty(len(wanted), self.host.shape[1], dtype=self.host.dtype, device=self.slots.numbers.device)
        for place, adapter in enumerate(wanted):
            numbers[place].copy_(self.host[adapter], non_blocking=True)
        return numbers


def adapter_bytes(adapters: Mapping[str, Mapping[str, Tensor]], frozen: FrozenModel) -> int:
    """What all of these, of one shape, take on the device."""
    size = torch.empty(0, dtype=frozen.model.dtype).element_size()
    of_one = AdapterStack.of(dict(list(adapters.items())[:1]), 1.0, frozen, "cpu")
    return len(adapters) * _numbers(of_one).numel() * size if adapters else 0


def _stack_of(numbers: Tensor, scaling: float, shapes: Shapes) -> AdapterStack:
    """A stack of views of (S, P)."""
    sizes = [size for own in shapes.values() for size in own]
    views = iter(numbers.split([size.numel() for size in sizes], dim=1))
    parts = {name: [next(views).unflatten(1, size) for size in own] for name, own in shapes.items()}
    modules = {name: (own[0], own[1]) for name, own in parts.items()}
    gates = {name: own[2] for name, own in parts.items() if len(own) > 2}
    return AdapterStack(tuple(f"slot {slot}" for slot in range(len(numbers))), scaling, modules, gates)


def _parts(stack: AdapterStack, module: str) -> list[Tensor]:
    gate = stack.gates.get(module)
    return [*stack.modules[module], *([] if gate is None else [gate])]


def _numbers(single: AdapterStack) -> Tensor:
    return torch.cat([part.flatten() for name in single.modules for part in _parts(single, name)])

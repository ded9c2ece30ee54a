"""What was read of people's contexts, kept from one build to the next: a deletion retrains without reading again.

It is derived from people's histories, so it is in memory only, and whatever is kept of somebody is wiped once a deletion of
theirs is seen. A reading depends on its own contexts alone, so whether it was kept changes no bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.building.workers.prefill import Prefill, prefill_name, read_together
from service.building.workers.shared_memory import (
    AVAILABLE,
    Block,
    SharedMemory,
    whole_pages,
)
from service.llm.frozen import FrozenModel


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a reading lies, and how its tokens are divided."""

    block: Block
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Loan:
    """To a task: prefills that are kept (by name), and room to leave its own in. By default nothing."""

    memory: SharedMemory | None = None
    kept: Mapping[str, Kept] = field(default_factory=dict)
    offset: int = 0
    size: int = 0


class Reader:
    """Reads, in a task, what is not kept, and leaves it for later builds as long as there is room."""

    def __init__(self, frozen: FrozenModel, loan: Loan, embed: bool) -> None:
        self.left: dict[str, Kept] = {}
        self._frozen = frozen
        self._loan = loan
        self._embed = embed
        self._offset = loan.offset  # where the room begins that is still free

    def read(self, contexts: Sequence[Sequence[int]]) -> Prefill:
        """One person's contexts."""
        name = prefill_name(contexts, self._embed)
        found = self._find(name)
        if found is None:
            found = read_together(self._frozen, contexts, self._embed)
            self._leave(name, found)
        return found.to(self._frozen.device)

    def _find(self, name: str) -> Prefill | None:
        kept = self._loan.kept.get(name)
        if kept is None or self._loan.memory is None:
            return None
        return Prefill(kept.lengths, tuple(self._loan.memory.read(kept.block)))

    def _leave(self, name: str, prefill: Prefill) -> None:
        memory, block = self._loan.memory, Block.of(prefill.tensors, self._offset)
        if memory is not None and block.end <= self._loan.offset + self._loan.size and name not in self.left:
            memory.write(block, prefill.tensors)
            self.left[name] = Kept(block, prefill.lengths)
            self._offset = block.end


class PrefillCache:
    """At most `room` bytes, and as much again while tasks run; what was used longest ago goes first.

    Of one frozen model, for one builder. Where memory cannot be shared without a name, nothing is kept.
    """

    def __init__(self, room: int) -> None:
        self.nbytes = 0
        self._room = room if AVAILABLE else 0
        self._memory = SharedMemory() if self._room else None
        self._kept: OrderedDict[str, tuple[str, Kept]] = OrderedDict()  # name -> whose it is, where it is

    def lacking(self, names: Collection[str]) -> list[str]:
        """Those of these prefills that are not kept; none where nothing can be."""
        return [] if self._memory is None else [name for name in names if name not in self._kept]

    @contextmanager
    def lend(self, wanted: Sequence[Mapping[str, str]]) -> Iterator[Lending]:
        """To tasks that run together, each of which wants prefills (name -> whose)."""
        lending = Lending([self._loan(names, self._room // len(wanted)) for names in wanted])
        try:
            yield lending
        finally:
            for names, loan, left in zip(wanted, lending.loans, lending.left, strict=True):
                self._take(loan, left, names)
            while self.nbytes > self._room:
                self._wipe(next(iter(self._kept)))

    @property
    def people(self) -> frozenset[str]:
        """The ids of those of whom anything is kept."""
        return frozenset(whose for whose, _ in self._kept.values())

    def forget(self, users: Collection[str]) -> None:
        """Wipe what is kept of these."""
        for name in [name for name, (whose, _) in self._kept.items() if whose in users]:
            self._wipe(name)

    def _loan(self, names: Mapping[str, str], share: int) -> Loan:
        if self._memory is None:
            return Loan()
        kept = {name: self._kept[name][1] for name in names if name in self._kept}
        for name in kept:
            self._kept.move_to_end(name)
        size = whole_pages(share)
        return Loan(self._memory, kept, self._memory.reserve(size), size)

    def _take(self, loan: Loan, left: Mapping[str, Kept] | None, names: Mapping[str, str]) -> None:
        if loan.memory is None:
            return
        if left is None:  # the task failed, wherever it was
            loan.memory.wipe(loan.offset, loan.size)
            return
        for name, kept in left.items():
            if name in self._kept:  # two people may have said the same
                loan.memory.wipe(kept.block.offset, kept.block.size)
            else:
                self._kept[name] = (names[name], kept)
                self.nbytes += kept.block.size

    def _wipe(self, name: str) -> None:
        _, kept = self._kept.pop(name)
        self.nbytes -= kept.block.size
        if self._memory is not None:
            self._memory.wipe(kept.block.offset, kept.block.size)


class Lending:
    """The loans of tasks that run together, and what each of them left; None until it has ended."""

    def __init__(self, loans: Sequence[Loan]) -> None:
        self.loans = loans
        self.left: list[Mapping[str, Kept] | None] = [None] * len(loans)

"""People's contexts read in several processes, before one of them trains: what each leaves is found there to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.building.workers.prefill_cache import Kept, Loan, Reader
from service.building.workers.process_pool import Report
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class PrefillTask:
    """The contexts of some people, each person's as token ids, that a loan has room for."""

    model: ModelSpec
    people: tuple[list[list[int]], ...]
    loan: Loan = field(default_factory=Loan)


def read_contexts(task: PrefillTask, report: Report) -> Mapping[str, Kept]:
    """What was left of them, up to the first for whom there was no room. Reports one step a person."""
    reader = Reader(FrozenModel.load(task.model), task.loan, embed=False)
    for number, contexts in enumerate(task.people):
        reader.read(contexts)
        if len(reader.left) <= number:
            break  # whoever trains reads these again
        report(1)
    return reader.left

"""Who takes part in a ranking, on what, and where it is noted what each of them answered."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import service
from research.evaluation.comparison.notebook import Notebook
from research.evaluation.ranking.knowledge import Knowledge, facts_of, numbers_of
from research.evaluation.ranking.lethe import Workshop
from research.evaluation.ranking.metrics import Facts
from research.evaluation.ranking.protocols import HeldOut, Ratings, keyed_hash
from service.building.progress import Progress

Thing = TypeVar("Thing")
Value = TypeVar("Value")

_RANKING = Path(__file__).parent
_SERVICE = Path(service.__file__).parent
_UNSERVED = {"entrypoints", "forgetting"}  # rooms that answer no query


@dataclass(frozen=True)
class Contest:
    """One split of one data set, with what is known of it and the notebook that all results go into."""

    ratings: Ratings  # before the cut, for experiments that cut otherwise
    split: HeldOut
    workshop: Workshop
    notebook: Notebook
    progress: Progress

    @cached_property
    def knowledge(self) -> Knowledge:
        """All that may be learned from."""
        return Knowledge.of(self.split)

    @cached_property
    def facts(self) -> Facts:
        """Facts about the tested people, and what is relevant to them."""
        return facts_of(self.split, self.knowledge)

    @cached_property
    def number(self) -> dict[str, int]:
        """Item id -> its number in the catalog."""
        return numbers_of(self.split)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the split."""
        return self.split.digest

    @cached_property
    def peers_code(self) -> str:
        """SHA-256 of the sources that decide what a peer answers."""
        return _digest_of_sources(
            [*sorted((_RANKING / "peers").glob("*.py")), *_deciding("rivals", "knowledge", "metrics")]
        )

    @cached_property
    def served(self) -> dict[str, Any]:
        """What an answer of Lethe depends on beside the split: sources, settings, frozen model and environment."""
        sources = [
            path for path in sorted(_SERVICE.rglob("*.py")) if path.relative_to(_SERVICE).parts[0] not in _UNSERVED
        ]
        frozen = self.workshop.frozen
        return {
            "code": _digest_of_sources([*sources, *_deciding("served", "lethe")]),
            "config": asdict(self.workshop.config),
            "frozen": {"digest": frozen.tokenizer.digest, "dtype": frozen.spec.dtype},
            "environment": dict(self.workshop.environment),
        }

    @property
    def forgotten(self) -> str:
        """The person whose forgetting is timed: of everybody known, that of smallest keyed hash."""
        return min(self.knowledge.histories, key=lambda user: keyed_hash("forgotten", user))

    def numbers(self, names: Sequence[str]) -> list[int]:
        """The catalog numbers of items."""
        return [self.number[name] for name in names]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a method recommended to each tested person, and what it took."""

    lists: list[list[int]]
    options: dict[str, float]
    build_seconds: float
    answer_seconds: float
    forget_seconds: float
    holds: dict[str, int] = field(default_factory=dict)  # what it is made of, where that can be counted


def timed_each(
    things: Iterable[Thing], ask: Callable[[Thing], Value], progress: Progress
) -> Iterator[tuple[Value, float]]:
    """What each gives and the seconds it took, while the progress advances."""
    for thing in things:
        began = time.perf_counter()
        value = ask(thing)
        yield value, time.perf_counter() - began
        progress.advance(1)


def in_parts(people: Sequence[str], size: int) -> list[Sequence[str]]:
    """The people, so many at a time: what of an interrupted ranking is lost at most."""
    return [people[first : first + size] for first in range(0, len(people), size)]


def by_method(parts: Sequence[Mapping[str, list[Any]]]) -> dict[str, list[Any]]:
    """The lists of each method, over all parts in their order."""
    return {method: [own for part in parts for own in part[method]] for method in (parts[0] if parts else {})}


def _deciding(*names: str) -> list[Path]:
    """Sources of a ranking that decide an answer, beside those that decide what is asked."""
    return [_RANKING / f"{name}.py" for name in (*names, "protocols", "new_items", "strangers")]


def _digest_of_sources(paths: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        place = _SERVICE if path.is_relative_to(_SERVICE) else _RANKING
        found.update(f"{path.relative_to(place).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()

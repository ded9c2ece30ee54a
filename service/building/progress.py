"""What a build tells whoever waits for it, and where it lets what is more urgent go first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from service.errors import LetheError


class Progress(Protocol):
    """Phases one after another, each of a known number of steps."""

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, steps: int) -> None: ...


class Silent:
    """A progress that nobody watches."""

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, steps: int) -> None: ...


class GaveWay(LetheError):
    """A build ended for something more urgent; what it had made by then is kept."""


def go_on() -> None:
    """The checkpoint of what gives way to nothing."""


class Checkpoint:
    """To be called wherever a build has just made something that is kept, so that to begin again is to go on."""

    def __init__(self) -> None:
        self._is_urgent: Callable[[], bool] | None = None

    def __call__(self) -> None:
        """Raises GaveWay."""
        if self._is_urgent is not None and self._is_urgent():
            raise GaveWay("something more urgent came")

    @contextmanager
    def giving_way(self, is_urgent: Callable[[], bool]) -> Iterator[None]:
        """Give way, within the block, as soon as `is_urgent` says so."""
        self._is_urgent = is_urgent
        try:
            yield
        finally:
            self._is_urgent = None

"""What a build tells whoever waits for it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Phases one after another, each of a known number of steps."""

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, steps: int) -> None: ...


class Silent:
    """A progress that nobody watches."""

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, steps: int) -> None: ...

"""Requests -> token ids, before they wait: the scoring thread meets numbers only.

What is remembered is public: questions about items of the catalogue. A history is a person's, and a candidate that no
catalogue states may be; neither is ever kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from service.records import Item, Opinion
from service.scoring.requests import EncodedRequest, ScoreRequest

REMEMBERED = 16_384  # questions; of fifty tokens each, these take about 30 MB

Ids = tuple[int, ...]


class Wording(Protocol):
    """The encoder of the frozen model."""

    def context(self, history: Sequence[Opinion], noun: str) -> list[int]: ...

    def question(self, target: Item, noun: str) -> list[int]: ...


class RequestEncoder:
    """Encodes requests for one frozen model. Any thread may call it."""

    def __init__(self, wording: Wording, remembered: int = REMEMBERED) -> None:
        self._wording = wording
        # An item of the catalogue is its public facts: where these change, it is another key.
        self._of_catalogue: Callable[[Item, str], Ids] = lru_cache(maxsize=remembered)(self._ask)

    def encode(self, request: ScoreRequest, noun: str) -> EncodedRequest:
        """The token ids of its context, and of a question for every candidate."""
        questions = tuple(self._question(candidate, noun) for candidate in request.candidates)
        return EncodedRequest(tuple(self._wording.context(request.history, noun)), questions, request.fence)

    def _question(self, item: Item, noun: str) -> Ids:
        return self._of_catalogue(item, noun) if item.item_id and not item.created else self._ask(item, noun)

    def _ask(self, item: Item, noun: str) -> Ids:
        return tuple(self._wording.question(item, noun))

"""Requests -> token ids, before they wait: the scoring thread meets numbers only.

What is remembered is public: questions about items of the catalog. A history is a person's, and a candidate that no
catalog states may be; neither is ever kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from service.records import Item, RatedItem
from service.scoring.requests import EncodedRequest, ScoreRequest

REMEMBERED = 16_384  # questions; of fifty tokens each, these take about 30 MB

Ids = tuple[int, ...]


class Wording(Protocol):
    """The encoder of the frozen model."""

    def context(self, history: Sequence[RatedItem], item_type: str) -> list[int]: ...

    def question(self, target: Item, item_type: str) -> list[int]: ...


class RequestEncoder:
    """Encodes requests for one frozen model. Any thread may call it."""

    def __init__(self, wording: Wording, remembered: int = REMEMBERED) -> None:
        self._wording = wording
        # An item of the catalog is its public facts: where these change, it is another key.
        self._of_catalog: Callable[[Item, str], Ids] = lru_cache(maxsize=remembered)(self._ask)

    def encode(self, request: ScoreRequest, item_type: str) -> EncodedRequest:
        """The token ids of its context, and of a question for every candidate."""
        questions = tuple(self._question(candidate, item_type) for candidate in request.candidates)
        return EncodedRequest(tuple(self._wording.context(request.history, item_type)), questions, request.fence)

    def _question(self, item: Item, item_type: str) -> Ids:
        return self._of_catalog(item, item_type) if item.item_id and not item.created else self._ask(item, item_type)

    def _ask(self, item: Item, item_type: str) -> Ids:
        return tuple(self._wording.question(item, item_type))

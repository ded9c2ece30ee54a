"""What an event says: a rating or a kind of event -> whether the item was liked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class UnknownEvent(ValueError):
    """No setting says what an event of this kind means."""


@dataclass(frozen=True, slots=True)
class EventMeanings:
    """What an installation takes kinds of events and ratings for. Kinds are compared without case."""

    liked_above: float
    liked: frozenset[str]
    disliked: frozenset[str]
    ignored: frozenset[str]

    @classmethod
    def of(
        cls, liked_above: float, liked: Iterable[str], disliked: Iterable[str], ignored: Iterable[str]
    ) -> EventMeanings:
        """The meanings of kinds as settings list them."""
        return cls(liked_above, *(frozenset(map(str.casefold, kinds)) for kinds in (liked, disliked, ignored)))

    def of_rating(self, rating: float) -> bool:
        """Whether who gives this rating likes the item."""
        return rating > self.liked_above

    def word_for(self, kind: str | None, rating: float | None) -> str:
        """One of a closed set: the kind as settings name it, or `unknown`; without a kind `rating`, or `opinion`."""
        if kind is None:
            return "opinion" if rating is None else "rating"
        word = kind.casefold()
        return word if word in self.liked or word in self.disliked or word in self.ignored else "unknown"

    def of_kind(self, kind: str) -> bool | None:
        """Whether who does this likes the item; None: it says nothing of that. Raises UnknownEvent."""
        word = kind.casefold()
        if word in self.ignored:
            return None
        if word in self.liked or word in self.disliked:
            return word in self.liked
        raise UnknownEvent

"""Simulated people over a public catalog: for the demo and for pretraining the bundled model. No real person's data.

A person has a general generosity, tastes in genres, an opinion of what the public thinks, of fame and of old things, and of
single authors: all drawn from normal distributions. They live until some year, meet well-known and recent items more often,
and like one with the probability that the logistic of its appeal gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_PRIOR_VOTES = 50.0  # an average vote counts as much as this many further votes at the mean
_MEMORY_YEARS = 12.0  # items this much older are met e times less often
FIRST_YEAR, LAST_YEAR = 1985, 2018  # until when simulated people live
_FAITH = 30.0  # how much more often a person meets what an author of theirs made
_AUTHORS_FOLLOWED = 3
_TASTED = ("generosity", "quality", "fame", "decade")  # what the features before the genres meet, in their order


@dataclass(frozen=True, slots=True)
class PublicFacts:
    """What the public knows of one item. `vote_average` is on any one scale, the same for the whole catalog."""

    title: str
    year: int
    genres: tuple[str, ...]
    vote_average: float
    vote_count: float
    author: str | None = None


@dataclass(frozen=True, slots=True)
class Tastes:
    """How people differ: mean and spread (standard deviation) of each taste, in logits."""

    generosity: tuple[float, float] = (0.2, 1.2)
    quality: tuple[float, float] = (0.8, 0.5)
    fame: tuple[float, float] = (0.0, 0.3)
    decade: tuple[float, float] = (-0.1, 0.3)
    genre_spread: float = 0.7
    author_spread: float = 0.0
    seeking: float = (
        0.0  # how much more often a person meets what is to their taste, in logits a logit of taste in genres
    )

    def mean(self, genres: int) -> FloatArray:
        plain = [getattr(self, name)[0] for name in _TASTED]
        return np.array(plain + [0.0] * genres)

    def spread(self, genres: int) -> FloatArray:
        plain = [getattr(self, name)[1] for name in _TASTED]
        return np.array(plain + [self.genre_spread] * genres)


FILM_TASTES = Tastes()
BOOK_TASTES = Tastes(
    generosity=(-0.3, 1.1),
    quality=(0.2, 0.25),
    fame=(0.0, 0.2),
    decade=(0.0, 0.2),
    genre_spread=0.4,
    author_spread=0.7,
)


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """The catalog as arrays over N items and F = 4 + G features (`_TASTED`, then one per genre).

    `values` (N, F): 1, public vote and ln(votes) (both standardized), decades since 1990, genres as a vector of unit length.
    """

    values: FloatArray
    years: IntArray  # (N,)
    authors: IntArray  # (N,), -1 where there is none
    popularity: FloatArray  # (N,), relative chance of being met
    unexplained: FloatArray  # (N,), variance of the appeal that the features leave open

    @property
    def genres(self) -> int:
        return int(self.values.shape[1]) - len(_TASTED)

    @classmethod
    def of(cls, items: Sequence[PublicFacts]) -> ItemFeatures:
        counts = np.array([item.vote_count for item in items])
        popularity = np.sqrt(counts + 10.0)
        votes = np.array([item.vote_average for item in items])
        usual = float(np.average(votes, weights=popularity))
        shrunk = (votes * counts + usual * _PRIOR_VOTES) / (counts + _PRIOR_VOTES)
        years = np.array([item.year for item in items])
        plain = (
            np.ones(len(items)),
            _standardized(shrunk, popularity),
            _standardized(np.log(counts + 10.0), popularity),
            np.clip((years - 1990) / 10.0, -6.0, 6.0),
        )
        numbers = {name: n for n, name in enumerate(sorted({item.author for item in items if item.author}))}
        return cls(
            values=np.column_stack((*plain, _genre_vectors(items))),
            years=years,
            authors=np.array([numbers[item.author] if item.author else -1 for item in items]),
            popularity=popularity,
            unexplained=np.zeros(len(items)),
        )


def simulate_person(
    items: ItemFeatures, tastes: Tastes, seen: int, rng: np.random.Generator
) -> tuple[IntArray, NDArray[np.bool_]]:
    """One person's life: at most `seen` distinct item numbers in the order met, and whether each was liked."""
    taste = tastes.mean(items.genres) + tastes.spread(items.genres) * rng.standard_normal(items.values.shape[1])
    met = _meet(items, tastes, taste, seen, rng)
    return met, rng.random(len(met)) < 1.0 / (1.0 + np.exp(-_appeal(items, tastes, taste, met, rng)))


def _meet(items: ItemFeatures, tastes: Tastes, taste: FloatArray, seen: int, rng: np.random.Generator) -> IntArray:
    lives_until = rng.uniform(FIRST_YEAR, LAST_YEAR)
    age = lives_until - items.years
    chance = items.popularity * np.exp(-np.maximum(age, 0.0) / _MEMORY_YEARS) * np.where(age >= 0.0, 1.0, 1e-6)
    chance = chance * np.exp(tastes.seeking * (items.values[:, len(_TASTED) :] @ taste[len(_TASTED) :]))
    if tastes.author_spread:
        followed = items.authors[_sample_without_replacement(chance, min(_AUTHORS_FOLLOWED, len(chance)), rng)]
        chance = chance * np.where(np.isin(items.authors, followed[followed >= 0]), _FAITH, 1.0)
    return _sample_without_replacement(chance, min(seen, len(chance)), rng)


def _appeal(
    items: ItemFeatures, tastes: Tastes, taste: FloatArray, met: IntArray, rng: np.random.Generator
) -> FloatArray:
    appeal: FloatArray = items.values[met] @ taste
    if tastes.author_spread:
        authors, places = np.unique(items.authors[met], return_inverse=True)
        appeal += (tastes.author_spread * rng.standard_normal(len(authors)) * (authors >= 0))[places]
    return appeal


def _genre_vectors(items: Sequence[PublicFacts]) -> FloatArray:
    names = sorted({genre for item in items for genre in item.genres})
    column = {genre: n for n, genre in enumerate(names)}
    vectors = np.zeros((len(items), len(names)))
    for row, item in enumerate(items):
        for genre in item.genres:
            vectors[row, column[genre]] = len(item.genres) ** -0.5
    return vectors


def _standardized(values: FloatArray, weights: FloatArray) -> FloatArray:
    mean = np.average(values, weights=weights)
    deviation = np.sqrt(np.average((values - mean) ** 2, weights=weights))
    return np.asarray((values - mean) / max(float(deviation), 1e-9), dtype=np.float64)


def _sample_without_replacement(weights: FloatArray, count: int, rng: np.random.Generator) -> IntArray:
    # Exponential race (Efraimidis and Spirakis 2006): the `count` smallest arrival times, in order of arrival.
    arrival = -np.log1p(-rng.random(len(weights))) / weights
    first = np.argpartition(arrival, count - 1)[:count]
    return np.asarray(first[np.argsort(arrival[first])], dtype=np.int64)

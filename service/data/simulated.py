"""Simulated people over a public catalogue: for the demo and for pretraining the bundled model. No real person's data.

A person has a general generosity, tastes in genres, a weight for what the public thinks of a film, and a favourite era.
They meet well-known films more often, and like one with the probability that a logistic of all of it gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PublicFacts:
    """What the public knows of one film. `vote_average` is on a scale of 0 to 10."""

    title: str
    year: int
    genres: tuple[str, ...]
    vote_average: float
    vote_count: float


@dataclass(frozen=True, slots=True)
class FilmFeatures:
    """The catalogue as arrays over N films and G genres."""

    genre_share: FloatArray  # (N, G), each row sums to 1 (or 0 for a film of no known genre)
    quality: FloatArray  # (N,), standardized public vote, shrunk to the mean where few voted
    decades: FloatArray  # (N,), years since 1980, in decades
    popularity: FloatArray  # (N,), probability of being met, sums to 1

    @classmethod
    def of(cls, films: list[PublicFacts]) -> FilmFeatures:
        genres = sorted({genre for film in films for genre in film.genres})
        column = {genre: i for i, genre in enumerate(genres)}
        share = np.zeros((len(films), len(genres)))
        for row, film in enumerate(films):
            for genre in film.genres:
                share[row, column[genre]] = 1.0 / len(film.genres)
        votes = np.array([film.vote_average for film in films])
        counts = np.array([film.vote_count for film in films])
        prior = 50.0
        shrunk = (votes * counts + votes.mean() * prior) / (counts + prior)
        met = np.sqrt(counts + 10.0)
        return cls(
            genre_share=share,
            quality=(shrunk - shrunk.mean()) / max(shrunk.std(), 1e-9),
            decades=(np.array([film.year for film in films]) - 1980) / 10.0,
            popularity=met / met.sum(),
        )


def simulate_person(films: FilmFeatures, seen: int, rng: np.random.Generator) -> tuple[IntArray, NDArray[np.bool_]]:
    """One person's life: `seen` distinct film numbers in order of time, and whether each was liked."""
    met = films.popularity * np.exp(-0.15 * np.abs(films.decades - rng.normal(1.0, 1.2)))
    order = _sample_without_replacement(met, min(seen, len(met)), rng)
    return order, rng.random(len(order)) < _like_probability(films, order, rng)


def _like_probability(films: FilmFeatures, chosen: IntArray, rng: np.random.Generator) -> FloatArray:
    generosity = rng.normal(0.2, 1.6)
    taste = rng.normal(0.0, 2.2, films.genre_share.shape[1])
    quality_weight = abs(rng.normal(1.0, 0.4))
    era_weight = rng.normal(0.0, 0.25)
    appeal = (
        generosity
        + films.genre_share[chosen] @ taste
        + quality_weight * films.quality[chosen]
        + era_weight * (films.decades[chosen] - 1.0)
    )
    return np.asarray(1.0 / (1.0 + np.exp(-appeal)), dtype=np.float64)


def _sample_without_replacement(weights: FloatArray, count: int, rng: np.random.Generator) -> IntArray:
    # Exponential race (Efraimidis and Spirakis 2006): the `count` smallest arrival times, in order of arrival.
    arrival = -np.log1p(-rng.random(len(weights))) / weights
    first = np.argpartition(arrival, count - 1)[:count]
    return np.asarray(first[np.argsort(arrival[first])], dtype=np.int64)

"""The partitions that are compared: training samples -> shards. Every shard number depends on the seed and on nothing random.

Sources: Bourtoule et al. 2021 (SISA), Chen et al. 2022 "Recommendation Unlearning" (RecEraser), Chen et al. 2022 "Graph
Unlearning" (GraphEraser), Hu et al. 2024 (APA). RecEraser and GraphEraser cluster embeddings of a recommender and of a
graph network; here, as in the APA paper, everybody stands where the frozen model places their prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.building.planning import partition

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_ROUNDS = 25


@dataclass(frozen=True, slots=True)
class Pool:
    """The S training samples as partitions see them."""

    users: tuple[str, ...]  # of each sample
    embeddings: Floats  # (S, H), rows of unit length; (0, 0) for a partition that reads no prompts


@dataclass(frozen=True, slots=True)
class Partitioning:
    """One way to make `count` shards. `shard_numbers`: pool, count, seed -> shard number of each sample."""

    name: str
    reads_prompts: bool
    shard_numbers: Callable[[Pool, int, int], list[int]]

    def shards(self, pool: Pool, count: int, seed: int) -> tuple[tuple[int, ...], ...]:
        """Numbers of the samples of each shard, in ascending order; shards that stay empty are left out."""
        members: dict[int, list[int]] = {}
        for sample, number in enumerate(self.shard_numbers(pool, count, seed)):
            members.setdefault(number, []).append(sample)
        return tuple(tuple(members[number]) for number in sorted(members))


def _all_in_one(pool: Pool, _count: int, _seed: int) -> list[int]:
    return [0] * len(pool.users)


def _at_random(pool: Pool, count: int, seed: int) -> list[int]:
    return [int(rank) % count for rank in np.random.default_rng(seed).permutation(len(pool.users))]


def _semantic(pool: Pool, count: int, seed: int) -> list[int]:
    samples = len(pool.users)
    return partition.algorithm1(pool.embeddings, [1] * samples, math.ceil(samples / count), seed)


def _embedding_kmeans(pool: Pool, count: int, seed: int) -> list[int]:
    return _balanced_kmeans(pool.embeddings, count, seed)


def _user_based(pool: Pool, count: int, seed: int) -> list[int]:
    users = sorted(set(pool.users))
    owner = np.array([users.index(user) for user in pool.users])
    means = np.array([pool.embeddings[owner == number].mean(axis=0) for number in range(len(users))])
    shard_of_user = _balanced_kmeans(means, count, seed)
    return [shard_of_user[number] for number in owner]


def _balanced_kmeans(points: Floats, count: int, seed: int) -> list[int]:
    """k-means whose every assignment is a greedy filling, nearest pairs first, of at most ⌈points / count⌉ each.

    Algorithm BEKM of GraphEraser and, over users, UBP of RecEraser; with the cosine distance, as in Algorithm 1.
    """
    exact = points.astype(np.float64)
    count = min(count, len(points))
    centers = exact[np.random.default_rng(seed).permutation(len(exact))[:count]]
    numbers: list[int] = []
    for _ in range(_ROUNDS):
        before = numbers
        numbers = partition.fill(points, [1] * len(points), centers, [0] * count, math.ceil(len(points) / count))
        if numbers == before:
            break
        centers = _means(exact, numbers, centers)
    return numbers


def _means(points: Doubles, numbers: list[int], centers: Doubles) -> Doubles:
    # A center that got nothing keeps its place.
    own = [points[np.array(numbers) == k] for k in range(len(centers))]
    return np.array([rows.mean(axis=0) if len(rows) else center for rows, center in zip(own, centers, strict=True)])


WHOLE = Partitioning("whole", False, _all_in_one)
RANDOM = Partitioning("random", False, _at_random)  # of samples
SEMANTIC = Partitioning("semantic", True, _semantic)  # Algorithm 1 of the APA paper, units are samples
USER_BASED = Partitioning("user", True, _user_based)  # UBP: balanced in users, not in samples
BEKM = Partitioning("bekm", True, _embedding_kmeans)

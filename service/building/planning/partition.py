"""Units (users or samples) -> shards.

`tree`: a public tree that no user shaped. Its first levels are hyperplanes through the embeddings of anchor prompts, which
are made from the catalog alone; below, the bits of a keyed hash of the unit. A shard is the shallowest node that holds at
most `t` samples. A unit's path depends on that unit and on public constants only, so removing one changes nothing else.

`random`: the same tree without its semantic levels.

`algorithm1`: Hu et al. 2024, Algorithm 1. k-means on the embeddings, then greedy filling under the cap `t` in order of
distance. It looks at everybody, so membership is recorded at the first build and kept.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.records import Item, RatedItem

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

HASH_BITS = 64
MEMORY_DEPTH = 4
ANCHORS = 256
_ANCHOR_POOL = 512
_KMEANS_ROUNDS = 25


@dataclass(frozen=True, slots=True)
class Plane:
    """One split of the public tree: an embedding x goes right when direction · x > threshold."""

    direction: Doubles  # (H,)
    threshold: float


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the tree, and the units below it: those from `first` on, before `end`, in order of their paths."""

    path: str
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class PublicTree:
    """The semantic levels: a node's path (a string of 0 and 1) -> its plane."""

    planes: dict[str, Plane]

    @classmethod
    def through(cls, anchors: Floats, depth: int) -> PublicTree:
        """Planes across the axis between two far anchors, at the anchors' median, so that each halves its anchors."""
        planes: dict[str, Plane] = {}
        cells = {"": anchors.astype(np.float64)}
        for _ in range(depth):
            cells = {path: rows for node, rows in cells.items() for path, rows in _halve(node, rows, planes).items()}
        return cls(planes)

    def digest(self) -> str:
        """What names the planes."""
        named = hashlib.sha256()
        for path, plane in sorted(self.planes.items()):
            named.update(f"{path} {plane.threshold!r} ".encode() + plane.direction.tobytes())
        return named.hexdigest()

    def path(self, embedding: Floats) -> str:
        """The semantic part of a unit's path; it ends early where there were too few anchors to split."""
        path = ""
        while path in self.planes:
            plane = self.planes[path]
            path += "1" if _dot(plane.direction, embedding) > plane.threshold else "0"
        return path


def hash_path(key: str, seed: int) -> str:
    """The lower levels of a unit's path: 64 bits of a keyed hash of its key."""
    return f"{_hash(seed, 'path', key):0{HASH_BITS}b}"


def shards_of_paths(paths: Mapping[str, str], sizes: Mapping[str, int], cap: int) -> dict[str, str]:
    """unit key -> node: the shallowest node above it that holds at most `cap` samples (a leaf may hold one big unit)."""
    keys = sorted(paths, key=lambda key: (paths[key], key))
    nodes = nodes_of_paths([paths[key] for key in keys], [sizes[key] for key in keys], cap)
    return {key: node.path for node in nodes for key in keys[node.first : node.end]}


def nodes_of_paths(paths: Sequence[str], sizes: Sequence[int], cap: int) -> list[Node]:
    """The nodes that are shards, in order, of units whose `paths` are given in order; a cost per node, not per unit."""
    before = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])  # samples before each unit
    return list(_split(Node("", 0, len(paths)), paths, before, cap)) if paths else []


def memory_nodes(paths: Sequence[str], sizes: Sequence[int], cap: int) -> list[Node]:
    """The nodes that are memories, of users whose `paths` (a letter and bits) are given in order.

    Never above a depth of `MEMORY_DEPTH`, however few people there are: a deletion masks a sixteenth of the counts at most, or
    about as much.
    """
    before = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    found: list[Node] = []
    first = 0
    while first < len(paths):
        root = paths[first][: 1 + MEMORY_DEPTH]
        end = bisect_left(paths, root + "2", first)
        found += _split(Node(root, first, end), paths, before, cap)
        first = end
    return found


def anchor_pool(items: Sequence[Item], seed: int) -> list[Item]:
    """The items of which anchors are made, chosen by keyed hashes of item ids.

    Created items are none of them: they go with the last row that names them, and no deletion may move the planes.
    """
    return sorted((item for item in items if not item.created), key=lambda item: _hash(seed, "pool", item.item_id))[
        :_ANCHOR_POOL
    ]


def anchor_histories(items: Sequence[Item], length: int, seed: int) -> list[list[RatedItem]]:
    """Simulated histories over the catalog, chosen by keyed hashes of item ids; no interaction is read.

    Anchors differ in what they hold and in how much of it they like, so that the planes through them split both.
    """
    pool = anchor_pool(items, seed)
    return [_anchor(number, pool, length, seed) for number in range(ANCHORS if pool else 0)]


def algorithm1(embeddings: Floats, sizes: Sequence[int], cap: int, seed: int) -> list[int]:
    """Shard number of each of U units: K = ⌈samples / cap⌉ centers, nearest pairs first, never more than `cap` samples.

    A unit that fits nowhere any more (units of several samples) opens a further shard.
    """
    centers = _kmeans(embeddings.astype(np.float64), math.ceil(sum(sizes) / cap), seed)
    return fill(embeddings, sizes, centers, [0] * len(centers), cap)


def fill(embeddings: Floats, sizes: Sequence[int], centers: Doubles, loads: Sequence[int], cap: int) -> list[int]:
    """Greedy filling: (unit, center) pairs by cosine distance, nearest first; `loads` are samples already there."""
    load = list(loads)
    shard = [-1] * len(sizes)
    distance = 1.0 - embeddings.astype(np.float64) @ _unit_rows(centers).T  # (U, K)
    for pair in np.argsort(distance, axis=None, kind="stable"):
        unit, center = divmod(int(pair), len(centers))
        if shard[unit] < 0 and load[center] + sizes[unit] <= cap:
            shard[unit] = center
            load[center] += sizes[unit]
    for unit, size in enumerate(sizes):
        if shard[unit] < 0:
            shard[unit] = next((k for k in range(len(centers), len(load)) if load[k] + size <= cap), len(load))
            load.extend([0] * (shard[unit] + 1 - len(load)))
            load[shard[unit]] += size
    return shard


def _split(node: Node, paths: Sequence[str], before: NDArray[np.int64], cap: int) -> Iterator[Node]:
    together = before[node.end] - before[node.first] <= cap
    if together or paths[node.end - 1] == node.path:  # the last of them in order: then all of them end here
        yield node
        return
    middle = bisect_left(paths, node.path + "1", node.first, node.end)
    if node.first < middle:
        yield from _split(Node(node.path + "0", node.first, middle), paths, before, cap)
    if middle < node.end:
        yield from _split(Node(node.path + "1", middle, node.end), paths, before, cap)


def _halve(node: str, rows: Doubles, planes: dict[str, Plane]) -> dict[str, Doubles]:
    if len(rows) < 2:
        return {}
    # The far pair of a double sweep: deterministic, and close to the longest axis of the cell.
    first = rows[int(np.argmax(_distances(rows, rows[0])))]
    second = rows[int(np.argmax(_distances(rows, first)))]
    direction = second - first
    projections = np.array([_dot(direction, row) for row in rows])
    threshold = float(np.median(projections))
    right = projections > threshold
    if not right.any():
        return {}
    planes[node] = Plane(direction, threshold)
    return {node + "0": rows[~right], node + "1": rows[right]}


def _anchor(number: int, pool: Sequence[Item], length: int, seed: int) -> list[RatedItem]:
    chosen = sorted(pool, key=lambda item: _hash(seed, f"anchor {number}", item.item_id))[:length]
    likes_of_ten = number % 11
    return [RatedItem(item, _hash(seed, f"liked {number}", item.item_id) % 10 < likes_of_ten) for item in chosen]


def _kmeans(points: Doubles, count: int, seed: int) -> Doubles:
    # Lloyd's algorithm from seeded points; an emptied center keeps its place.
    random = np.random.default_rng(seed)
    centers = points[random.permutation(len(points))[:count]]
    for _ in range(_KMEANS_ROUNDS):
        nearest = np.argmax(points @ _unit_rows(centers).T, axis=1)
        moved = [points[nearest == k].mean(axis=0) if (nearest == k).any() else centers[k] for k in range(len(centers))]
        if np.array_equal(moved, centers):
            break
        centers = np.array(moved)
    return centers


def _unit_rows(rows: Doubles) -> Doubles:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def _dot(a: Doubles, b: Doubles | Floats) -> float:
    # A plain ordered sum: a BLAS dot product may add in another order on another number of threads.
    return math.fsum((a * b.astype(np.float64)).tolist())


def _distances(rows: Doubles, point: Doubles) -> Doubles:
    return np.asarray(((rows - point) ** 2).sum(axis=1))


def _hash(seed: int, purpose: str, key: str) -> int:
    salted = hashlib.blake2b(key.encode(), digest_size=HASH_BITS // 8, key=f"lethe {seed} {purpose}".encode()[:64])
    return int.from_bytes(salted.digest(), "big")

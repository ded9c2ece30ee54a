"""Merkle trees over a list that only grows, as RFC 9162 (and RFC 6962) has them: hashes, proofs, and how proofs are checked.

A tree of n leaves is made of perfect subtrees, and those never change once they are full. So whoever keeps the hashes of all
full ones, named by level and position, finds head and proofs of any earlier size with few of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

HASH_BYTES = 32

Node = Callable[[int, int], bytes]
"""Level (0: leaves) and position -> the hash of a full subtree: over 2^level leaves, from leaf position * 2^level on."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf (RFC 9162, 2.1.1). Its prefix keeps leaves and nodes apart, or one could be shown as the other."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over its two subtrees (RFC 9162, 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_hash(node: Node, size: int) -> bytes:
    """The tree head over the first `size` leaves: MTH(D_n) of RFC 9162, 2.1.1."""
    return _subtree(node, 0, size) if size else hashlib.sha256().digest()


def filled_by(node: Node, index: int) -> list[tuple[int, int, bytes]]:
    """Level, position and hash of the subtrees that leaf `index` (which `node` knows already) makes full, from below."""
    full, level, position, made = [], 0, index, node(0, index)
    while position % 2:
        made = node_hash(node(level, position - 1), made)
        level, position = level + 1, position // 2
        full.append((level, position, made))
    return full


def inclusion_path(node: Node, index: int, size: int) -> list[bytes]:
    """PATH(m, D_n) of RFC 9162, 2.1.3.1: what leads from leaf `index` to the head over `size` leaves."""
    start, end, path = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_subtree(node, middle, end))
            end = middle
        else:
            path.append(_subtree(node, start, middle))
            start = middle
    return path[::-1]


def consistency_path(node: Node, first: int, second: int) -> list[bytes]:
    """PROOF(m, D_n) of RFC 9162, 2.1.4.1: that the head over `second` leaves goes on from that over `first` of them.

    Empty where they are one, and where `first` is 0: anything goes on from nothing.
    """
    start, end, path = 0, second, []
    whole = True  # the first tree itself is a subtree here, so its head is known already
    while 0 < first < end:
        middle = start + _split(end - start)
        if first <= middle:
            path.append(_subtree(node, middle, end))
            end = middle
        else:
            path.append(_subtree(node, start, middle))
            start, whole = middle, False
    if not whole:
        path.append(_subtree(node, start, end))
    return path[::-1]


def proves_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a path shows that the leaf with this hash is number `index` of the `size` under `root` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, made = index, size - 1, leaf
    for hashed in path:
        if last == 0:
            return False
        if at % 2 or at == last:
            made = node_hash(hashed, made)
            while at and not at % 2:
                at, last = at >> 1, last >> 1
        else:
            made = node_hash(made, hashed)
        at, last = at >> 1, last >> 1
    return last == 0 and made == root


def proves_consistency(first: int, second: int, first_root: bytes, second_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether a path shows that the second tree begins with all leaves of the first, in their order (RFC 9162, 2.1.4.2)."""
    if not 0 <= first <= second:
        return False
    if first in (0, second):
        same = first_root == (second_root if first else root_hash(_no_node, 0))
        return same and not path
    # A first tree that is full is a subtree of the second, and the path leaves it out.
    steps = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not path:
        return False
    at, last = first - 1, second - 1
    while at % 2:
        at, last = at >> 1, last >> 1
    old = new = steps[0]
    for hashed in steps[1:]:
        if last == 0:
            return False
        if at % 2 or at == last:
            old, new = node_hash(hashed, old), node_hash(hashed, new)
            while at and not at % 2:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, hashed)
        at, last = at >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _subtree(node: Node, start: int, end: int) -> bytes:
    """The hash over leaves `start` to `end`, where `start` is where such a subtree begins."""
    size = end - start
    if size & (size - 1) == 0:
        return node(size.bit_length() - 1, start // size)
    middle = start + _split(size)
    return node_hash(_subtree(node, start, middle), _subtree(node, middle, end))


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _no_node(level: int, position: int) -> bytes:
    raise LookupError((level, position))

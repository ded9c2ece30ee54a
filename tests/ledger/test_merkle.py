"""Merkle trees, pinned to what RFC 9162 defines by recursion, and to published vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest

from service.ledger.merkle import (
    consistency_path,
    filled_by,
    inclusion_path,
    leaf_hash,
    node_hash,
    proves_consistency,
    proves_inclusion,
    root_hash,
)

SIZES = range(71)
LEAVES = [leaf_hash(bytes([number])) for number in range(70)]

# Those of the reference tests of transparency-dev/merkle (testonly/reference_test.go), which follow RFC 6962.
ENTRIES = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
LEAF_0 = ROOTS[1]
LEAF_1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
LEAF_4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
OVER_0_1, OVER_0_3 = ROOTS[2], ROOTS[4]
OVER_2_3 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
OVER_4_5 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
OVER_4_7 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
OVER_6_7 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"


class Tree:
    """Keeps the hashes of full subtrees, as the ledger does."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.full: dict[tuple[int, int], bytes] = {}
        for index, leaf in enumerate(leaves):
            self.full[0, index] = leaf
            for level, position, made in filled_by(self.node, index):
                self.full[level, position] = made

    def node(self, level: int, position: int) -> bytes:
        return self.full[level, position]


TREE = Tree(LEAVES)
PUBLISHED = Tree([leaf_hash(bytes.fromhex(entry)) for entry in ENTRIES])


# RFC 9162, word for word: slow and obvious


def mth(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = largest_power_below(len(leaves))
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = largest_power_below(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = largest_power_below(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def largest_power_below(n: int) -> int:
    return max(1 << exponent for exponent in range(n) if 1 << exponent < n)


@pytest.fixture(scope="module")
def roots() -> list[bytes]:
    return [mth(LEAVES[:size]) for size in SIZES]


def test_the_head_of_every_size_is_the_recursive_one(roots: list[bytes]) -> None:
    assert [root_hash(TREE.node, size) for size in SIZES] == roots


def test_every_inclusion_path_is_the_recursive_one_and_proves_its_leaf_alone(roots: list[bytes]) -> None:
    for size in SIZES:
        for index in range(size):
            found = inclusion_path(TREE.node, index, size)
            assert found == path(index, LEAVES[:size])
            held = [at for at in range(-1, size + 1) if proves_inclusion(LEAVES[index], at, size, found, roots[size])]
            assert held == [index]


def test_every_consistency_path_is_the_recursive_one_and_proves_it(roots: list[bytes]) -> None:
    for second in SIZES:
        assert consistency_path(TREE.node, 0, second) == []
        assert proves_consistency(0, second, roots[0], roots[second], [])
        for first in range(1, second + 1):
            found = consistency_path(TREE.node, first, second)
            assert found == subproof(first, LEAVES[:second], True)
            assert proves_consistency(first, second, roots[first], roots[second], found)


def test_no_proof_holds_after_a_change_of_it() -> None:
    root, first = mth(LEAVES[:13]), mth(LEAVES[:6])
    inclusion, consistency = path(5, LEAVES[:13]), subproof(6, LEAVES[:13], True)
    for changed in changes(inclusion):
        assert not proves_inclusion(LEAVES[5], 5, 13, changed, root)
    for changed in changes(consistency):
        assert not proves_consistency(6, 13, first, root, changed)
    assert not proves_inclusion(LEAVES[4], 5, 13, inclusion, root)
    assert not proves_inclusion(LEAVES[5], 5, 13, inclusion, first)
    assert not proves_consistency(6, 13, root, root, consistency)
    assert not proves_consistency(6, 13, first, first, consistency)
    assert not proves_consistency(13, 6, root, first, consistency)
    assert not proves_consistency(-1, 13, first, root, consistency)
    assert not proves_consistency(13, 13, first, root, [])
    assert not proves_consistency(0, 13, first, root, [])


def changes(given: Sequence[bytes]) -> list[list[bytes]]:
    other = bytes(32)
    replaced = [[*given[:at], other, *given[at + 1 :]] for at in range(len(given))]
    removed = [[*given[:at], *given[at + 1 :]] for at in range(len(given))]
    return [*replaced, *removed, [*given, other], list(given[::-1])]


@pytest.mark.parametrize("forged", ["removed", "altered", "reordered"])
def test_a_tree_with_a_forged_entry_goes_on_from_no_earlier_head(forged: str) -> None:
    leaves = list(LEAVES[:13])
    if forged == "removed":
        del leaves[4]
    elif forged == "altered":
        leaves[4] = leaf_hash(b"another")
    else:
        leaves[4], leaves[5] = leaves[5], leaves[4]
    tree, size = Tree(leaves), len(leaves)
    found = consistency_path(tree.node, 6, size)
    assert proves_consistency(6, size, root_hash(tree.node, 6), root_hash(tree.node, size), found)
    assert not proves_consistency(6, size, mth(LEAVES[:6]), root_hash(tree.node, size), found)


# Published vectors


def test_heads_are_the_published_ones() -> None:
    assert [root_hash(PUBLISHED.node, size).hex() for size in range(len(ROOTS))] == list(ROOTS)


@pytest.mark.parametrize(
    ("index", "size", "expected"),
    [
        (0, 1, []),
        (0, 2, [LEAF_1]),
        (1, 2, [LEAF_0]),
        (2, 3, [OVER_0_1]),
        (1, 5, [LEAF_0, OVER_2_3, LEAF_4]),
        (0, 8, [LEAF_1, OVER_2_3, OVER_4_7]),
        (5, 8, [LEAF_4, OVER_6_7, OVER_0_3]),
    ],
)
def test_inclusion_paths_are_the_published_ones(index: int, size: int, expected: list[str]) -> None:
    assert [hashed.hex() for hashed in inclusion_path(PUBLISHED.node, index, size)] == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (1, 1, []),
        (1, 8, [LEAF_1, OVER_2_3, OVER_4_7]),
        (2, 5, [OVER_2_3, LEAF_4]),
        (6, 8, [OVER_4_5, OVER_6_7, OVER_0_3]),
    ],
)
def test_consistency_paths_are_the_published_ones(first: int, second: int, expected: list[str]) -> None:
    assert [hashed.hex() for hashed in consistency_path(PUBLISHED.node, first, second)] == expected

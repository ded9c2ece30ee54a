"""Peers on a tiny example, against obvious loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from research.evaluation.ranking.knowledge import NOBODY, History, Knowledge
from research.evaluation.ranking.peers.literature import PEERS
from research.evaluation.ranking.peers.peer import Peer, best, grid
from research.evaluation.ranking.peers.sasrec import NextLike
from research.evaluation.ranking.protocols import LAST_TENTH, Ratings, cut


@pytest.fixture(scope="module")
def known(ratings: Ratings) -> Knowledge:
    return Knowledge.of(cut(ratings, LAST_TENTH))


@pytest.fixture(scope="module")
def liked(known: Knowledge) -> list[set[int]]:
    return [set(history.likes.tolist()) for history in known.histories.values()]


@pytest.fixture
def asking(known: Knowledge) -> History:
    return known.history("p3")


def test_likes_are_counted_once_a_person(known: Knowledge, liked: list[set[int]]) -> None:
    assert known.counts.tolist() == [sum(item in own for own in liked) for item in range(known.items)]


def test_popularity_says_the_same_to_everybody(known: Knowledge, asking: History) -> None:
    scores = PEERS["popularity"].fit(known, {})
    assert scores(asking, {}).tolist() == scores(NOBODY, {}).tolist() == known.counts.tolist()


@pytest.mark.parametrize("neighbors", [3, 400])
def test_item_knn_adds_the_cosines_of_each_item_to_its_nearest_likes(
    known: Knowledge, liked: list[set[int]], asking: History, neighbors: int
) -> None:
    def cosine(one: int, other: int) -> float:
        both = sum(one in own and other in own for own in liked)
        sizes = [max(1, sum(item in own for own in liked)) for item in (one, other)]
        return 0.0 if one == other else both / math.sqrt(sizes[0] * sizes[1])

    wanted = []
    for item in range(known.items):
        near = [cosine(other, item) for other in range(known.items)]
        least = sorted(near)[-min(neighbors, known.items - 1)]
        wanted.append(sum(near[other] for other in asking.likes if near[other] >= least - 1e-6))
    found = PEERS["itemknn"].fit(known, {"neighbors": neighbors})(asking, {})
    assert found == pytest.approx(wanted, abs=1e-5)


def test_ease_is_a_ridge_regression_of_each_item_on_all_others(
    known: Knowledge, liked: list[set[int]], asking: History
) -> None:
    likes = np.array([[item in own for item in range(known.items)] for own in liked], float)
    wanted = []
    for item in range(known.items):
        others = [other for other in range(known.items) if other != item]
        gram = likes[:, others].T @ likes[:, others] + 7.0 * np.eye(len(others))
        weights = np.linalg.solve(gram, likes[:, others].T @ likes[:, item])
        wanted.append(sum(weights[others.index(own)] for own in asking.likes if own != item))
    found = PEERS["ease"].fit(known, {"penalty": 7.0})(asking, {})
    assert found == pytest.approx(wanted)


def test_with_fading_a_like_counts_that_much_of_the_next_newer_one(known: Knowledge, asking: History) -> None:
    scores = PEERS["ease-recent"].fit(known, {"penalty": 7.0})
    newest = [History(asking.likes[place : place + 1], np.ones(1, bool)) for place in range(len(asking.likes))][::-1]
    wanted = sum(0.5**age * scores(one, {"fading": 1.0}) for age, one in enumerate(newest))
    assert scores(asking, {"fading": 0.5}) == pytest.approx(wanted)


def test_session_knn_adds_up_what_the_nearest_people_like(
    known: Knowledge, liked: list[set[int]], asking: History
) -> None:
    weight = {item: 0.9**age for age, item in enumerate(asking.likes[::-1].tolist())}
    near = [sum(weight.get(item, 0.0) for item in own) / math.sqrt(max(1, len(own))) for own in liked]
    least = sorted(near)[-5]
    wanted = [
        sum(close for close, own in zip(near, liked, strict=True) if close >= least and item in own)
        for item in range(known.items)
    ]
    found = PEERS["session-knn"].fit(known, {})(asking, {"neighbors": 5, "fading": 0.9})
    assert found == pytest.approx(wanted)


def test_ials_is_deterministic_and_prefers_what_is_liked_together(known: Knowledge, asking: History) -> None:
    options = {"factors": 8, "regularization": 0.1, "alpha": 1.0}
    found = PEERS["ials"].fit(known, options)(asking, {})
    assert found.tolist() == PEERS["ials"].fit(known, options)(asking, {}).tolist()
    assert found[asking.likes].mean() > np.delete(found, asking.likes).mean()  # it was fitted to these


def test_sasrec_at_each_place_sees_nothing_that_comes_later() -> None:
    torch.manual_seed(0)
    model = NextLike(9, 0.0).eval()
    likes = torch.tensor([[3, 1, 4, 0, 5]])
    read = model(likes)
    for length in range(1, 5):
        assert torch.allclose(model(likes[:, :length]), read[:, :length], atol=1e-5)
    assert read.shape == (1, 5, 9)


def test_sasrec_learns_what_always_comes_next() -> None:
    steps = [History(np.roll(np.arange(6), turn), np.ones(6, bool)) for turn in range(6)]
    known = Knowledge(6, {f"p{number}": history for number, history in enumerate(steps)}, ordered=True)
    scores = PEERS["sasrec"].fit(known, {"dropout": 0.0, "epochs": 200})
    assert [int(scores(steps[turn], {}).argmax()) for turn in range(6)] == [steps[turn].items[0] for turn in range(6)]


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_whoever_liked_nothing_gets_what_is_popular(known: Knowledge, peer: Peer) -> None:
    dislikes = History(np.array([1, 2]), np.zeros(2, bool))
    for history in (NOBODY, dislikes):
        scores = peer.fit(known, peer.fitting[0])(history, peer.asking[0])
        assert scores.tolist() == known.counts.tolist()


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_to_learn_without_somebody_is_to_have_never_seen_them(
    ratings: Ratings, known: Knowledge, asking: History, peer: Peer
) -> None:
    split = cut(ratings, LAST_TENTH)
    unseen = type(split)(
        **{
            **{name: getattr(split, name) for name in split.__slots__},
            "train": tuple(row for row in split.train if row.user_id != "p7"),
        }
    )
    ways = [known.without(["p7"]), Knowledge.of(unseen)]
    first, second = (peer.fit(way, peer.fitting[0])(asking, peer.asking[0]).tolist() for way in ways)
    assert first == second


def test_the_best_items_are_not_hidden_ones_and_ties_go_by_number() -> None:
    assert best(np.array([1.0, 3.0, 3.0, 0.0, 2.0]), np.array([4]), 3) == [1, 2, 0]
    assert best(np.array([1.0, 3.0]), np.array([0, 1]), 3) == []


def test_a_grid_holds_every_combination() -> None:
    assert grid(a=(1, 2), b=(3,)) == ({"a": 1, "b": 3}, {"a": 2, "b": 3})

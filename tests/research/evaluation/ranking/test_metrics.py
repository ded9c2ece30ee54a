"""Figures against plain loops over one person's list at a time."""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from research.evaluation.ranking.intervals import paired_interval
from research.evaluation.ranking.metrics import (
    LENGTH,
    Facts,
    figures,
    groups_of_items,
    groups_of_people,
    judge,
    tail_of,
)

ITEMS, PEOPLE = 300, 25

Asked = tuple[list[list[int]], Facts]  # a list for each person, and what is known of them all


@pytest.fixture(scope="module")
def asked() -> Asked:
    """Lists of all lengths up to 100, and what is relevant: sometimes nothing of it is on the list."""
    chance = random.Random(3)
    lists = [chance.sample(range(ITEMS), chance.choice([0, 3, 12, LENGTH])) for _ in range(PEOPLE)]
    relevant = tuple(np.array(chance.sample(range(ITEMS), chance.randint(1, 12))) for _ in range(PEOPLE))
    likes = np.array([chance.randrange(40) if chance.random() < 0.8 else 0 for _ in range(ITEMS)])
    return lists, Facts(likes, 50, np.array([chance.randrange(150) for _ in range(PEOPLE)]), relevant)


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def test_every_figure_is_what_a_plain_loop_finds(asked: Asked) -> None:
    lists, facts = asked
    found = figures(lists, facts)
    pairs = [(own, set(wanted.tolist())) for own, wanted in zip(lists, facts.relevant, strict=True)]
    for cut in (10, 20):
        gains = [sum(1 / math.log2(place + 2) for place, item in enumerate(own[:cut]) if item in w) for own, w in pairs]
        bests = [sum(1 / math.log2(place + 2) for place in range(min(cut, len(w)))) for _, w in pairs]
        ranks = [next((1 / (n + 1) for n, item in enumerate(own[:cut]) if item in w), 0) for own, w in pairs]
        assert found[f"ndcg@{cut}"] == pytest.approx(mean(g / b for g, b in zip(gains, bests, strict=True)))
        assert found[f"hr@{cut}"] == pytest.approx(mean(any(item in w for item in own[:cut]) for own, w in pairs))
        assert found[f"recall@{cut}"] == pytest.approx(mean(len(w & set(own[:cut])) / len(w) for own, w in pairs))
        assert found[f"mrr@{cut}"] == pytest.approx(mean(ranks))
    assert found["recall@100"] == pytest.approx(mean(len(w & set(own)) / len(w) for own, w in pairs))
    assert found["coverage@10"] == len({item for own, _ in pairs for item in own[:10]}) / ITEMS
    bits = [-math.log2(max(1, count) / 50) for count in facts.likes.tolist()]
    assert found["novelty@10"] == pytest.approx(mean(mean(bits[i] for i in own[:10]) for own, _ in pairs if own))


def test_tail_recall_asks_for_the_four_fifths_that_fewest_like(asked: Asked) -> None:
    lists, facts = asked
    order = sorted(range(ITEMS), key=lambda item: (facts.likes[item], item))
    tail = set(order[: 4 * ITEMS // 5])
    wanted = [set(own.tolist()) & tail for own in facts.relevant]
    shares = [len(w & set(own[:20])) / len(w) for own, w in zip(lists, wanted, strict=True) if w]
    assert figures(lists, facts)["tail_recall@20"] == pytest.approx(mean(shares))
    assert set(np.flatnonzero(tail_of(facts.likes)).tolist()) == tail


def test_figures_are_those_of_the_script_that_asks_a_running_server(shared_data: Path, asked: Asked) -> None:
    script = shared_data.parent / "measure" / "ranking.py"
    if not script.is_file():
        pytest.skip("the script is not here")
    specification = importlib.util.spec_from_file_location("their_ranking", script)
    assert specification is not None
    assert specification.loader is not None
    theirs = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(theirs)
    lists, facts = asked
    wanted = {user: set(own.tolist()) for user, own in enumerate(facts.relevant)}
    stated = theirs.measure(dict(enumerate(lists)), wanted, ITEMS)
    found = figures(lists, facts)
    names = {"ndcg10": "ndcg@10", "hr10": "hr@10", "recall20": "recall@20", "recall100": "recall@100"}
    assert {name: found[ours] for name, ours in {**names, "cov10": "coverage@10"}.items()} == pytest.approx(stated)


def test_groups_hold_everybody_and_every_item_once(asked: Asked) -> None:
    _, facts = asked
    assert (np.sum([*groups_of_people(facts.rows).values()], axis=0) == 1).all()
    assert (np.sum([*groups_of_items(facts.likes).values()], axis=0) == 1).all()
    assert set(groups_of_items(np.array([0, 2, 500]))) == {"0 likes", "1–4 likes", "100+ likes"}


def test_among_some_items_nothing_else_is_relevant(asked: Asked) -> None:
    lists, facts = asked
    among = facts.likes < 5
    judged = judge(lists, facts.relevant, among)
    wanted = [own[among[own]] for own in facts.relevant]
    assert judged.relevant.tolist() == [len(own) for own in wanted]
    assert (judged.hits == judge(lists, wanted).hits).all()


# Intervals


def test_an_interval_is_what_a_plain_loop_over_draws_finds() -> None:
    chance = np.random.default_rng(5)
    first, second = chance.random(60), chance.random(60)
    found = paired_interval(first, second, draws=300, seed=9)
    again = np.random.default_rng(9)
    means = sorted(float(np.mean((first - second)[again.integers(0, 60, 60)])) for _ in range(300))
    assert found.mean == pytest.approx(float(np.mean(first - second)))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_equal_methods_are_equal_for_sure_and_seeds_say_the_same() -> None:
    values = np.random.default_rng(1).random(30)
    assert paired_interval(values, values) == paired_interval(values, values)
    assert (paired_interval(values, values).low, paired_interval(values, values).high) == (0.0, 0.0)


def test_many_people_are_drawn_as_few_are() -> None:
    first, second = np.random.default_rng(2).random((2, 40))
    whole = paired_interval(first, second, draws=50)
    assert paired_interval(first, second, draws=50, at_once=100) == whole


def test_of_nobody_nothing_is_known() -> None:
    assert math.isnan(paired_interval(np.empty(0), np.empty(0)).mean)

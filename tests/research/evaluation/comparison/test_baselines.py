"""The two rows without a language model: their features by hand, and the regression against its definition."""

from __future__ import annotations

import lzma
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.evaluation.comparison.baselines import (
    RIDGE,
    Logistic,
    features,
    like_share,
    logistic,
    newton,
)
from research.evaluation.comparison.facts import (
    FILM_FACTS,
    PublicItemFacts,
    PublicOpinion,
    public_facts,
)
from research.evaluation.comparison.splits import bookcrossing, movielens_100k
from research.evaluation.metrics import auc, log_loss
from service.errors import ImportRefused
from service.records import Item, RatedItem, Sample

NO_FACTS: PublicItemFacts = {}
HEAT = Item("heat", "Heat (1995)", 1995, ("Action", "Crime"))
RONIN = Item("ronin", "Ronin (1998)", 1998, ("Action",))
EMMA = Item("emma", "Emma", author="Jane Austen")
SANDITON = Item("sanditon", "Sanditon", author="JANE AUSTEN")
DUNE = Item("dune", "Dune", author="Frank Herbert")


def sample(history: list[tuple[Item, bool]], target: Item = HEAT, liked: bool = True) -> Sample:
    return Sample("u", tuple(RatedItem(item, yes) for item, yes in history), target, liked)


# Like-share


def test_like_share_is_the_share_of_likes_and_a_half_for_no_history() -> None:
    tested = [sample([(RONIN, True), (HEAT, True), (EMMA, False)]), sample([(EMMA, False)]), sample([])]
    assert like_share([], tested, NO_FACTS) == pytest.approx([2 / 3, 0.0, 0.5])


# Features


def test_features_of_a_film() -> None:
    facts = {"heat": PublicOpinion(7.7, 1886.0)}
    found = features(sample([(RONIN, True), (HEAT, False), (EMMA, True)]), facts)
    agreement = (1 / 2 - 1 + 0) / 3  # one genre of two, both genres disliked, none
    assert found == pytest.approx([2 / 3, 3, agreement, 0, 0, 7.7, math.log(1887.0), 1995])


def test_features_of_a_book_know_its_author_in_any_spelling() -> None:
    found = features(sample([(EMMA, True), (DUNE, False), (EMMA, False)], SANDITON), NO_FACTS)
    assert found[:5] == pytest.approx([1 / 3, 3, 0, 1, 1])
    assert all(map(math.isnan, found[5:]))


def test_films_without_authors_are_not_by_one_author() -> None:
    assert features(sample([(RONIN, True)]), NO_FACTS)[3:5] == [0, 0]


# The regression


designs = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.tuples(st.lists(st.floats(-4, 4, width=16), min_size=width, max_size=width), st.booleans()),
        min_size=1,
        max_size=25,
    )
)


@given(designs)
def test_newton_ends_where_the_penalized_loss_has_no_slope(rows: list[tuple[list[float], bool]]) -> None:
    design = np.array([[1.0, *values] for values, _ in rows])
    liked = np.array([float(yes) for _, yes in rows])
    weights = newton(design, liked)
    slope = design.T @ (1 / (1 + np.exp(-design @ weights)) - liked)
    assert slope[1:] + RIDGE * weights[1:] == pytest.approx(np.zeros(design.shape[1] - 1), abs=1e-6)
    assert slope[0] == pytest.approx(0.0, abs=1e-3)


def world(count: int, seed: int) -> tuple[list[Sample], PublicItemFacts]:
    """People who like what the public likes; of every fourth item nobody knows what the public thinks."""
    rng = np.random.default_rng(seed)
    train, facts = [], {}
    for n, vote in enumerate(rng.uniform(3, 9, count).tolist()):
        liked = rng.random() < 1 / (1 + math.exp(-2 * (vote - 6)))
        train.append(sample([(HEAT, True)], Item(f"{seed}-{n}", "Item"), liked))
        if n % 4:
            facts[f"{seed}-{n}"] = PublicOpinion(vote, 100.0)
    return train, facts


def test_logistic_learns_what_decides_and_gives_probabilities() -> None:
    train, known = world(400, seed=1)
    test, asked = world(400, seed=2)
    liked = [one.liked for one in test]
    scores = logistic(train, test, {**known, **asked})
    assert auc(scores, liked) > 0.8
    assert log_loss(scores, liked) < 0.55
    assert auc(logistic(train, test, NO_FACTS), liked) == 0.5


def test_what_training_does_not_tell_apart_has_no_weight() -> None:
    train, facts = world(200, seed=1)
    fitted = Logistic.fit(train, facts)
    assert fitted.coefficients == 3  # bias, vote, and the absence of a vote
    strange = sample([(RONIN, False), (HEAT, False)], Item("new", "New", 2020))
    usual = sample([(HEAT, True)], Item("new", "New"))
    assert fitted.scores([strange], facts) == fitted.scores([usual], facts)


@pytest.mark.parametrize("liked", [True, False])
def test_one_class_alone_is_learned_without_overflow(liked: bool) -> None:
    train = [sample([(HEAT, n % 2 > 0)], liked=liked) for n in range(20)]
    (score,) = logistic(train, train[:1], NO_FACTS)
    assert 0 < score < 1
    assert (score > 0.99) == liked


@pytest.mark.thorough
def test_the_rows_on_films(shared_data: Path) -> None:
    split = movielens_100k(shared_data / "ml-100k")
    liked = [one.liked for one in split.valid]
    facts = public_facts(shared_data, split.items)
    assert auc(like_share([], split.valid, facts), liked) == pytest.approx(0.689, abs=0.001)
    assert auc(logistic(split.drawn(1024, 0), split.valid, facts), liked) == pytest.approx(0.723, abs=0.002)
    assert auc(logistic(split.drawn(1024, 0), split.valid, NO_FACTS), liked) == pytest.approx(0.706, abs=0.002)


@pytest.mark.thorough
def test_the_rows_on_books(shared_data: Path) -> None:
    split = bookcrossing(shared_data / "tallrec" / "book")
    liked = [one.liked for one in split.valid]
    assert auc(like_share([], split.valid, NO_FACTS), liked) == pytest.approx(0.708, abs=0.001)
    assert auc(logistic(split.drawn(1024, 0), split.valid, NO_FACTS), liked) == pytest.approx(0.715, abs=0.002)


# Public facts


def film_facts(folder: Path, rows: str) -> Path:
    path = folder / f"{FILM_FACTS}.xz"
    path.parent.mkdir(parents=True)
    path.write_bytes(lzma.compress(("title,genres,runtime,vote_average,vote_count,year\n" + rows).encode()))
    return folder


def test_films_are_found_under_the_spellings_of_catalogs(tmp_path: Path) -> None:
    rows = "The Matrix,[],1,8.0,900.0,1999\nIl postino,[],1,7.0,90.0,1994\nAmélie & Me,[],1,6.0,9.0,2001\n"
    items = [
        Item("matrix", "Matrix, The (1999)", 1999),
        Item("translated", "Postman, The (Postino, Il) (1995)", 1995),
        Item("accents", "Amelie and Me (2001)", 2001),
        Item("remake", "Matrix, The (2021)", 2021),
        Item("undated", "Matrix, The"),
    ]
    found = public_facts(film_facts(tmp_path, rows), items)
    assert found == {
        "matrix": PublicOpinion(8.0, 900.0),
        "translated": PublicOpinion(7.0, 90.0),
        "accents": PublicOpinion(6.0, 9.0),
    }


def test_the_year_itself_goes_before_its_neighbours_and_many_votes_before_few(tmp_path: Path) -> None:
    rows = "Heat,[],1,1.0,9.0,1994\nHeat,[],1,7.7,99.0,1995\nHeat,[],1,2.0,3.0,1995\nHeat,[],1,,,1995\n,[],1,3.0,500.0,1995\n"
    assert public_facts(film_facts(tmp_path, rows), [HEAT]) == {"heat": PublicOpinion(7.7, 99.0)}


def test_without_a_folder_nothing_is_known_and_a_folder_without_films_is_refused(tmp_path: Path) -> None:
    assert public_facts(None, [HEAT]) == {}
    with pytest.raises(ImportRefused, match="movies_metadata"):
        public_facts(tmp_path, [HEAT])

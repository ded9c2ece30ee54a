"""Membership inference on losses made by hand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from research.evaluation.membership import chance_error, membership_auc


def test_whoever_always_has_the_smaller_loss_is_found_out() -> None:
    assert membership_auc([0.1, 0.2], [0.3, 0.9, 0.4]) == 1.0


def test_losses_that_say_nothing_give_one_half() -> None:
    assert membership_auc([0.5, 0.7], [0.7, 0.5]) == 0.5


def test_members_that_are_harder_than_others_give_less_than_one_half() -> None:
    assert membership_auc([0.9, 0.3], [0.1, 0.2]) == 0.0


def test_it_is_the_share_of_pairs_in_which_the_member_has_the_smaller_loss() -> None:
    members, others = [0.1, 0.6, 0.4, 0.4], [0.5, 0.4, 0.7]
    slow = [(member < other) + 0.5 * (member == other) for member, other in product(members, others)]
    assert membership_auc(members, others) == pytest.approx(sum(slow) / len(slow))


def test_the_error_of_chance_is_the_spread_of_guesses() -> None:
    random = np.random.default_rng(0)
    guesses = [membership_auc(random.random(12).tolist(), random.random(20).tolist()) for _ in range(2000)]
    assert chance_error(12, 20) == pytest.approx(float(np.std(guesses)), rel=0.1)


def test_there_is_no_error_of_chance_without_people() -> None:
    assert math.isnan(chance_error(0, 5))

"""How the parts of an order are weighed."""

from __future__ import annotations

import numpy as np
import pytest

from service.scoring.ranking import Reasons, values

NOTHING = np.zeros(4)
LOGITS = np.array([-1.0, 1.0])


def known(likes: int) -> Reasons:
    """Of four items of which nothing is known but how many liked each."""
    return Reasons(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, np.full(4, 1 / (1 + likes)))


@pytest.mark.parametrize(("likes", "share"), [(0, 1.0), (1, 1 / 4), (3, 1 / 16), (99, 1e-4)])
def test_the_language_models_say_fades_with_the_square_of_what_is_known(likes: int, share: float) -> None:
    np.testing.assert_allclose(values(known(likes), [0, 1], LOGITS), 0.1 * share * LOGITS)


def test_a_title_that_no_catalog_knows_is_ordered_by_the_language_model_alone() -> None:
    np.testing.assert_allclose(values(known(99), [None, None], LOGITS), 0.1 * LOGITS)

"""Two ids that are one person: what is built is what a clean ledger makes in which there was one id from the start.

And what people were shown is in nothing that is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from service.data.samples import is_validation_user
from service.ledger import Event
from service.records import Citation, Impression, Interaction
from tests.exactness.homes import Home
from tests.exactness.test_restraints import CONFIG, ITEMS, ROWS, TRAINS, USERS, VALIDATES, homes, without

__all__ = ["homes"]  # a fixture

pytestmark = pytest.mark.thorough

OTHER = next(u for u in reversed(USERS) if not is_validation_user(u, CONFIG.validation_percent, CONFIG.seed))


def merged(rows: list[Interaction], user: str, into: str) -> list[Interaction]:
    """The newest of each pair, the one user's as the other's."""
    newest: dict[tuple[str, str], Interaction] = {}
    for row in (replace(row, user_id=into) if row.user_id == user else row for row in rows):
        held = newest.get((row.user_id, row.item_id))
        if held is None or row.timestamp > held.timestamp:
            newest[row.user_id, row.item_id] = row
    return list(newest.values())


@pytest.mark.parametrize(
    ("user", "into"), [(TRAINS, OTHER), (TRAINS, VALIDATES), (VALIDATES, OTHER), (TRAINS, "a new account")]
)
def test_what_is_built_after_a_merge_is_what_one_id_would_have_made(
    homes: Callable[..., Home], user: str, into: str
) -> None:
    home, clean = homes(), homes(rows=merged(ROWS, user, into))
    request = home.intake.merge(user, into, None)
    assert not home.ledger.mask().empty
    assert home.reconcile_once()
    assert (home.ledger.generation(), home.files()) == (clean.ledger.generation(), clean.files())
    assert home.ledger.mask().empty
    done = home.ledger.request(request.request_id)
    assert (done.state, done.receipt is not None) == ("completed", True)
    assert not any(user.encode() in path.read_bytes() for path in home.folder.iterdir() if path.is_file())
    home.forget(into)
    assert home.reconcile_once()
    neither = homes(rows=[row for row in without(user) if row.user_id != into])
    assert (home.ledger.generation(), home.files()) == (neither.ledger.generation(), neither.files())


def test_rows_beyond_the_horizon_stay_there_until_a_full_build(homes: Callable[..., Home]) -> None:
    home = homes()
    later = [Interaction(user, ITEMS[9].item_id, True, time) for user, time in ((TRAINS, 20_000), (OTHER, 10_000))]
    home.ledger.take_events([Event(row) for row in later])
    home.intake.merge(TRAINS, OTHER, None)
    assert home.reconcile_once()
    clean = homes(rows=merged(ROWS, TRAINS, OTHER))
    assert (home.ledger.generation(), home.files()) == (clean.ledger.generation(), clean.files())
    home.build()
    clean = homes(rows=merged([*ROWS, *later], TRAINS, OTHER))
    assert (home.ledger.generation(), home.files()) == (clean.ledger.generation(), clean.files())


def test_what_people_were_shown_is_in_no_generation(homes: Callable[..., Home]) -> None:
    home = homes()
    before = home.ledger.generation(), home.files()
    shown = [Impression(f"r-{user}", user, (ITEMS[0].item_id,), before[0] or "", 0, 1.0) for user in USERS]
    assert home.ledger.impressions.record(shown) == len(USERS)
    home.ledger.impressions.attribute([Citation(user, ITEMS[0].item_id, f"r-{user}", liked=True) for user in USERS])
    assert not home.reconcile_once()
    home.build()
    assert (home.ledger.generation(), home.files()) == before

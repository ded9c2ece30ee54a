"""TALLRec's windows and split of MovieLens-100K (Bao et al. 2023), as its authors released them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from service.data.samples import windows
from service.records import Interaction, Item, Sample

TALLREC_HISTORY = 10
TALLREC_WINDOWS = 10_000
TALLREC_TRAIN = 8_000
TALLREC_VALID = 1_000


@dataclass(frozen=True, slots=True)
class TallrecSplit:
    """The released split of MovieLens-100K: 8,000, 1,000 and 1,000 windows."""

    train: tuple[Sample, ...]
    valid: tuple[Sample, ...]
    test: tuple[Sample, ...]


def tallrec_windows(interactions: Sequence[Interaction], items: Mapping[str, Item]) -> Iterator[Sample]:
    """TALLRec's windows: users in order of first appearance, each one's rows by time, targets with a full history.

    `interactions` must be in the order of `u.data`: rows of one second stay in that order (a stable sort by time).
    """
    by_user: dict[str, list[Interaction]] = {}
    for row in interactions:
        by_user.setdefault(row.user_id, []).append(row)
    for rows in by_user.values():
        rows.sort(key=lambda row: row.timestamp)
        yield from windows(rows, items, TALLREC_HISTORY, TALLREC_HISTORY)


def tallrec_split(interactions: Sequence[Interaction], items: Mapping[str, Item]) -> TallrecSplit:
    """TALLRec's split (Bao et al. 2023): the last 10,000 of all windows, cut 80/10/10 in their order.

    Users, not times, are in order, so the cuts fall inside a user: one user may be in two parts.
    """
    last = tuple(deque(tallrec_windows(interactions, items), maxlen=TALLREC_WINDOWS))
    test_start = TALLREC_TRAIN + TALLREC_VALID
    return TallrecSplit(last[:TALLREC_TRAIN], last[TALLREC_TRAIN:test_start], last[test_start:])

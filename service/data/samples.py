"""Pure: interactions -> samples and their split. Every decision about a user is a function of that user's rows alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from service.data import prompts
from service.records import Interaction, Item, RatedItem, Sample

_KEY_BYTES = 16
_PARTS_OF_A_PERCENT = 1_000_000


def user_samples(
    interactions: Sequence[Interaction], items: Mapping[str, Item], history_length: int, limit: int
) -> tuple[Sample, ...]:
    """The last `limit` windows of one user, oldest first, each with up to `history_length` opinions before its target.

    The order of the given rows does not matter: they are sorted by time, then item id.
    """
    if limit < 1:
        return ()
    rows = sorted(interactions, key=lambda row: (row.timestamp, row.item_id))
    return tuple(windows(rows, items, max(1, len(rows) - limit), history_length))


def is_validation_user(user_id: str, percent: float, seed: int) -> bool:
    """Whether this user's samples validate instead of train: a keyed hash of the id alone, for `percent` % of all ids.

    A larger share holds everybody of a smaller one. Shares are told apart to a millionth of a percent.
    """
    rest, whole = divmod(int.from_bytes(_public_hash(seed, "validation", user_id)), 100)
    stands_at = whole * _PARTS_OF_A_PERCENT + rest % _PARTS_OF_A_PERCENT
    return stands_at < round(percent * _PARTS_OF_A_PERCENT)


def canonical(sample: Sample, item_type: str) -> dict[str, Any]:
    """What training sees of a sample, for digests: its prompt and label. It holds no user id."""
    read = prompts.prompt(sample, item_type)
    seen = {"context": read.context, "question": read.question, "liked": sample.liked}
    # Earlier versions read such marks as what they mean to the model, and so trained on something else.
    special = prompts.may_hold_special_tokens(read.context + read.question)
    return {**seen, "special_tokens": "text"} if special else seen


def sample_order_key(sample: Sample, seed: int) -> bytes:
    """Sorts samples into canonical order: a keyed hash of the sample's own identity, never of its position."""
    like = () if sample.negative_of is None else (sample.negative_of,)
    return _public_hash(seed, "order", sample.user_id, sample.target.item_id, *like)


def canonical_order(samples: Iterable[Sample], seed: int) -> tuple[Sample, ...]:
    """A shard's or a user's samples in the one order in which they are named and trained on."""
    return tuple(sorted(samples, key=lambda sample: sample_order_key(sample, seed)))


def windows(
    rows: Sequence[Interaction], items: Mapping[str, Item], first_target: int, history_length: int
) -> Iterator[Sample]:
    """One user's windows, from the row numbered `first_target` on: each row is a target, up to `history_length` before it are
    its history. `rows` are one user's, oldest first."""
    opinions = [RatedItem(items[row.item_id], row.liked) for row in rows]
    for i in range(first_target, len(rows)):
        history = tuple(opinions[max(0, i - history_length) : i])
        yield Sample(rows[i].user_id, history, opinions[i].item, opinions[i].liked)


def _public_hash(seed: int, *parts: str) -> bytes:
    message = json.dumps(parts).encode()
    return hashlib.blake2b(message, key=str(seed).encode(), digest_size=_KEY_BYTES).digest()

"""Everybody's samples, already split: what a generation is made from when nothing is remembered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from service.data.negatives import NegativePool
from service.data.samples import is_validation_user, user_samples
from service.records import BuildConfig, Interaction, Item, LedgerView, Sample


@dataclass(frozen=True, slots=True)
class Corpus:
    """Samples and interactions by user. Who has no interactions here is in no memory."""

    item_type: str
    items: tuple[Item, ...]
    training: dict[str, tuple[Sample, ...]]
    validation: dict[str, tuple[Sample, ...]]
    interactions: Mapping[str, tuple[Interaction, ...]] = field(default_factory=dict)
    catalog: tuple[Item, ...] | None = None  # what is served; None: the items that samples are made of
    horizon: int = 0
    catalog_revision: int = 0


def corpus_of(view: LedgerView, config: BuildConfig) -> Corpus:
    """Split the users of a view of everybody by keyed hash, and cut each user's windows from their own rows alone."""
    return corpus_of_some(view, negative_pool(view.items, config), config)


def corpus_of_some(view: LedgerView, pool: NegativePool | None, config: BuildConfig) -> Corpus:
    """The corpus of a view of some users, which holds only the items that they have met: `pool` is that of all items."""
    items = {item.item_id: item for item in view.items}
    training: dict[str, tuple[Sample, ...]] = {}
    validation: dict[str, tuple[Sample, ...]] = {}
    for user_id, interactions in view.interactions.items():
        samples = user_samples(interactions, items, config.history_length, config.samples_per_user)
        if pool is not None:
            samples = pool.with_negatives(samples, [row.item_id for row in interactions], config.negatives)
        if samples:
            held_out = is_validation_user(user_id, config.validation_percent, config.seed)
            (validation if held_out else training)[user_id] = samples
    return Corpus(
        view.item_type,
        view.items,
        training,
        validation,
        view.interactions,
        view.catalog,
        view.horizon,
        view.catalog_revision,
    )


def negative_pool(items: Iterable[Item], config: BuildConfig) -> NegativePool | None:
    """All items up to the horizon, as likes are set against them; None where the configuration wants no negatives."""
    return NegativePool.of(items, config.seed) if config.negatives else None

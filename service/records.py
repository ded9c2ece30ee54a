"""Frozen records shared by every room. They hold values only: no I/O, no tensors, no behavior beyond their own fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Item:
    """A thing of the catalogue. Catalogue facts are public; they say nothing about any person.

    Only a created item does: no catalogue stated it, an import made it because somebody's row named it. It lives as long as
    a row does.
    """

    item_id: str
    title: str
    year: int | None = None
    genres: tuple[str, ...] = ()
    author: str | None = None
    created: bool = False


@dataclass(frozen=True, slots=True)
class Interaction:
    """One row of the ledger. `timestamp` is in seconds; ties are broken by `item_id`.

    `rating` decides between two rows of one time and nothing else: nothing that is built depends on it.
    """

    user_id: str
    item_id: str
    liked: bool
    timestamp: int
    rating: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Opinion:
    """An item and whether its reader liked it: one entry of a history."""

    item: Item
    liked: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """The paper's (x, y): a user's window of past opinions (oldest first), a target, and whether it was liked.

    `(user_id, target.item_id)` identifies a sample, because the ledger holds at most one interaction per pair.
    """

    user_id: str
    history: tuple[Opinion, ...]
    target: Item
    liked: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads. The context is the same for all candidates of a request; the question names the target."""

    context: str
    question: str


@dataclass(frozen=True, slots=True)
class Mask:
    """What may not be used any more, as the ledger knows it at `fence`.

    `revision` grows with every change of mask, fence or published generation, so it is a sound cache key.
    """

    revision: int
    fence: int
    generation: str | None
    adapters: frozenset[str]
    rows: frozenset[str]
    memories: frozenset[str] = frozenset()

    @property
    def empty(self) -> bool:
        """Whether everything may be used."""
        return not (self.adapters or self.rows or self.memories)


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """All that decides a generation beside the ledger and the frozen model. It is written into the manifest."""

    max_shard_size: int = 2048  # t: training samples per shard, at most
    partition: str = "tree"  # tree | algorithm1 | random
    unit: str = "user"  # user | sample
    tree_depth: int = 3  # semantic levels of the public tree
    activation: str = "question"  # question | prompt
    level: str = "ND"  # ND (eq. 6) | D (eq. 5)
    samples_per_user: int = 16
    history_length: int = 10
    validation_percent: float = 10.0  # of users, by keyed hash
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    adapt_from_layer: int = 0  # the first layer that adapters are on, counted from 0
    epochs: int = 2
    learning_rate: float = 3e-3
    batch_size: int = 32
    seed: int = 0
    top_n: int = 100  # n: neighbours among the validation samples
    tau: float = 100.0
    top_m: int = 16  # m: adapters that answer a request, at most
    memory_shard_size: int = 8192  # interactions per memory, at most
    min_people: int = 2  # distinct people behind a pair of items, or it counts for nothing

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> Self:
        """The configuration that a manifest or the ledger states as JSON."""
        return cls(**{**stated, "lora_targets": tuple(stated["lora_targets"])})


@dataclass(frozen=True, slots=True)
class Shard:
    """D_k: the samples behind one adapter, in canonical order."""

    name: str  # where it stands in the partition: a tree node or a recorded number
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """What a build remembers of one unit (a user or a sample), or of a user's part in a memory, so as not to read it again."""

    unit_key: str
    user_id: str
    path: str  # in the public tree; empty: its samples validate
    samples: int  # of a memory: interactions
    digest: str  # of their content and order


@dataclass(frozen=True, slots=True)
class LedgerView:
    """One consistent reading of the ledger, as a build wants it. `interactions` are by user, each in order of time."""

    fence: int
    noun: str
    items: tuple[Item, ...]
    interactions: dict[str, tuple[Interaction, ...]]


@dataclass(frozen=True, slots=True)
class Published:
    """What the ledger knows of the served generation; `fence` is that of the view from which it was built."""

    generation: str
    fence: int
    config: BuildConfig
    frozen: Mapping[str, str]  # what identifies the frozen model
    environment: Mapping[str, str]  # platform and library versions


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What stays of a deletion, so that a stale import or a restored ledger cannot bring back what was forgotten.

    `grave` is a keyed hash of the user and one item, or empty for everything of the user.
    """

    subject: str
    grave: str
    request_id: str
    fence: int


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """One deletion, as the ledger knows it. Times are seconds since the epoch; it holds no user id."""

    request_id: str
    subject: str  # keyed hash of the user id
    scope: str  # user | interactions
    state: str  # accepted | retraining | completed | failed
    fence: int
    affected_shards: tuple[str, ...]  # digests of the adapters that were masked
    erased_interactions: int
    masked_rows: int
    masked_samples: int  # of the person, that the masked adapters had been trained on
    accepted_at: float
    masked_at: float
    retraining_at: float | None = None
    completed_at: float | None = None
    attempts: int = 0
    error: str | None = None
    receipt: str | None = None  # the signed document, as JSON
    shard_names: tuple[str | None, ...] = ()  # of the affected shards, in the same order
    generation_before: str | None = None  # what was served when it was accepted

"""Frozen records shared by every room. They hold values only: no I/O, no tensors, no behavior beyond their own fields."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, NewType, Self
from uuid import UUID

LONGEST_KEY = 256  # characters (code points) of a key
LONGEST_KEY_AS_GIVEN = (
    1024  # of the text that a key is made from: decomposed, 256 characters may take several times as many
)
_EXACT_FLOATS = 2**53  # from here on, neighboring whole numbers share one float
_LONGEST_NUMBER = 10**LONGEST_KEY

Key = NewType("Key", str)
"""The id of a user or an item, as `key_of` makes it."""


SOURCE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"
"""What the source of a row may be: a short label of the file or the client that it came from, never of a person."""


class KeyRefused(ValueError):
    """What was given is no id. `str()` goes on after the field's name ("user_id is empty ...") and quotes nothing of it."""


def key_of(value: object) -> Key:
    """The one form of an id, at every door: import, HTTP, command line, receipts, searches. `key_of(key)` is `key`.

    Text is normalized to NFC, so that canonically equivalent spellings are one id, and white space is cut off both ends:
    what `str.strip` cuts, which is Unicode's White_Space and the separators U+001C to U+001F. Everything else counts as it
    stands: case, leading zeros, control characters and white space inside, zero-width and directional marks.

    A whole number (int, or a float or Decimal without a fraction, as `1.0` in a column that once had gaps) becomes its
    decimal digits, bytes are read as UTF-8, and a UUID becomes its usual text.

    Raises:
        KeyRefused: nothing is left; more than 256 characters are left (or more than 1,024 are given); NUL or a lone
            surrogate, which databases cannot store; bytes that are not UTF-8; a number that is not whole or, as a float,
            not exact (2**53 and beyond); truth values and anything else.
    """
    text = value if isinstance(value, str) else _text_of(value)
    # Most ids are plain, and there may be millions.
    if text.isascii() and text.isprintable() and len(text) <= LONGEST_KEY and text and " " not in (text[0], text[-1]):
        return Key(text)
    if len(text) > LONGEST_KEY_AS_GIVEN:
        raise KeyRefused(f"is longer than {LONGEST_KEY} characters")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise KeyRefused("holds characters that are not text (NUL, or bytes that are not UTF-8)")
    normal = unicodedata.normalize("NFC", text).strip()
    if not normal:
        raise KeyRefused("is empty, or white space alone")
    if len(normal) > LONGEST_KEY:
        raise KeyRefused(f"is longer than {LONGEST_KEY} characters")
    return Key(normal)


def _text_of(value: object) -> str:
    match value:
        case bool() | None:
            raise KeyRefused("is neither text nor a number")
        case int() if abs(value) < _LONGEST_NUMBER:
            return str(value)
        case float() if value.is_integer() and abs(value) < _EXACT_FLOATS:
            return str(int(value))
        case Decimal() if value.is_finite() and abs(value) < _LONGEST_NUMBER and value == int(value):
            return str(int(value))
        case int() | float() | Decimal():
            raise KeyRefused("is a number, but no whole one that is exact")
        case bytes():
            return _decoded(value)
        case UUID():
            return str(value)
        case _:
            raise KeyRefused("is neither text nor a number")


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise KeyRefused("holds characters that are not text (NUL, or bytes that are not UTF-8)") from None


Partition = Literal["tree", "algorithm1", "random"]
"""How units fall into shards: by the public tree, by the paper's Algorithm 1 (recorded), or by hashes alone."""

UnitKind = Literal["user", "sample"]
"""What a shard never splits."""

Activation = Literal["question", "prompt"]
"""Which tokens meet the adapters: the question's (activated LoRA), or all."""

AdapterKind = Literal["lora", "rslora", "dora", "vera", "ia3"]
"""What every adapter is: LoRA, rank-stabilized LoRA, DoRA, VeRA, or (IA)³."""

Level = Literal["ND", "D"]
"""How adapters blend: at non-decomposition level (eq. 6), or at decomposition level (eq. 5)."""

Scope = Literal["user", "interactions"]
"""What a deletion erases: everything of a user, or single interactions."""

RequestState = Literal["accepted", "held", "retraining", "completed", "failed"]
"""Where a deletion stands; one that failed is tried again, and one that is held waits until the legal hold is released."""

RestraintKind = Literal["restriction", "hold"]
"""What may not be done with somebody's data: use it (Art. 18, 21 of the GDPR), or erase it (a legal hold)."""

RestrictionGround = Literal["restriction", "objection"]
"""Why somebody's data may not be used: they asked for restriction (Art. 18), or they object (Art. 21)."""


@dataclass(frozen=True, slots=True)
class Item:
    """A thing of the catalog. Catalog facts are public; they say nothing about any person.

    Only a created item does: no catalog stated it, an import made it because somebody's row named it. It lives as long as
    a row does.
    """

    item_id: str
    title: str
    year: int | None = None
    genres: tuple[str, ...] = ()
    author: str | None = None
    created: bool = False


Attribute = str | float | bool
"""A value of an item's attributes."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """An item with what only serving looks at: no sample and no count depends on it. Times are seconds since the epoch."""

    item: Item
    description: str | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    hidden: bool = False
    available_from: float | None = None
    available_until: float | None = None
    deleted: bool = False

    def shown_at(self, now: float) -> bool:
        """Whether it may be recommended now."""
        if self.hidden or self.deleted:
            return False
        begun = self.available_from is None or self.available_from <= now
        return begun and (self.available_until is None or now < self.available_until)


@dataclass(frozen=True, slots=True)
class ById:
    """An item as a caller names it, by its id alone."""

    item_id: str


@dataclass(frozen=True, slots=True)
class ByTitle:
    """An item as a caller names it, by its exact title alone."""

    title: str


ItemName = str | ById | ByTitle
"""How a caller names an item. Plain text is that item's id (as `key_of` reads it), or if no item has it, its exact title."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """One row of the ledger. `timestamp` is in seconds; ties are broken by `item_id`.

    `rating` decides between two rows of one time and nothing else: nothing that is built depends on it. Nothing at all depends
    on `source`, by which rows are found that came from one file or client.
    """

    user_id: str
    item_id: str
    liked: bool
    timestamp: int
    rating: float | None = field(default=None, compare=False)
    source: str | None = field(default=None, compare=False)


WantedForget = tuple[str, tuple[ItemName, ...] | None]
"""A user, and which of their items are to be forgotten; None: all that is held of them."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What a person says of an item instead of what is held of it."""

    item_id: str
    liked: bool
    rating: float | None = None


@dataclass(frozen=True, slots=True)
class Impression:
    """What somebody was shown in one answer, as of a generation and a fence, and when: seconds since the epoch."""

    recommendation_id: str
    user_id: str
    item_ids: tuple[str, ...]
    generation: str
    fence: int
    shown_at: float


@dataclass(frozen=True, slots=True)
class Citation:
    """An event that names the answer which it came of, and whether it says that the item is liked."""

    user_id: str
    item_id: str
    recommendation_id: str
    liked: bool


@dataclass(frozen=True, slots=True)
class RatedItem:
    """An item and whether its reader liked it: one entry of a history."""

    item: Item
    liked: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """The paper's (x, y): a user's window of past opinions (oldest first), a target, and whether it was liked.

    `(user_id, target.item_id)` identifies a sample, because the ledger holds at most one interaction per pair; a negative is
    identified by the like that it was made for, too.
    """

    user_id: str
    history: tuple[RatedItem, ...]
    target: Item
    liked: bool
    negative_of: str | None = None  # id of the liked item; None: the target was met


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

    max_shard_size: int = 512  # t: training samples per shard, at most
    partition: Partition = "tree"
    unit: UnitKind = "user"
    tree_depth: int = 3  # semantic levels of the public tree
    activation: Activation = "question"
    level: Level = "ND"
    samples_per_user: int = 16
    history_length: int = 10
    validation_percent: float = 10.0  # of users, by keyed hash
    adapter: AdapterKind = "lora"
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    adapt_from_layer: int = 0  # the first layer that adapters are on, counted from 0
    epochs: int = 2
    learning_rate: float = 3e-3
    batch_size: int = 32
    seed: int = 0
    top_n: int = 100  # n: neighbors among the validation samples
    tau: float = 100.0
    top_m: int = 16  # m: adapters that answer a request, at most
    memory_shard_size: int = 8192  # interactions per memory, at most
    min_people: int = 2  # distinct people behind a pair of items, or it counts for nothing
    negatives: int = 0  # items that were not met, for each like; 0: the papers' setting

    def stated(self) -> dict[str, Any]:
        """The configuration as JSON, under the keys that digests depend on.

        What came after the first release is not stated at the value that says "as before": what was built without it keeps
        its name.
        """
        stated = asdict(self) | {"lora_targets": list(self.lora_targets)}
        if not self.negatives:
            del stated["negatives"]
        if self.adapter == "lora":
            del stated["adapter"]
        return stated

    @property
    def adapter_scaling(self) -> float:
        """s: what an adapter's factors are multiplied by."""
        if self.adapter in ("vera", "ia3"):
            return 1.0
        return self.lora_alpha / (math.sqrt(self.lora_rank) if self.adapter == "rslora" else self.lora_rank)

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
class ShardAssignment:
    """What a build remembers of one unit (a user or a sample), or of a user's part in a memory, so as not to read it again."""

    unit_key: str
    user_id: str
    path: str  # in the public tree; empty: its samples validate
    samples: int  # of a memory: interactions
    digest: str  # of their content and order


@dataclass(frozen=True, slots=True)
class LedgerView:
    """One consistent reading of the ledger, as a build wants it. `interactions` are by user, each in order of time.

    Interactions and `items` are those up to the horizon, of which samples and counts are made. `catalog` is what is served
    (None: the same items), as of `catalog_revision`.
    """

    fence: int
    item_type: str
    items: tuple[Item, ...]
    interactions: dict[str, tuple[Interaction, ...]]
    catalog: tuple[Item, ...] | None = None
    horizon: int = 0
    catalog_revision: int = 0


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What identifies a frozen model: the digest of its tokenizer, weights and configuration, and the type it computes in."""

    digest: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Published:
    """What the ledger knows of the served generation; `fence` is that of the view from which it was built."""

    generation: str
    fence: int
    config: BuildConfig
    frozen: ModelIdentity
    environment: Mapping[str, str]  # platform and library versions
    horizon: int = 0  # up to which rows and items make its samples and counts
    catalog: int = 0  # revision of the catalog that it serves


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What stays of a deletion, so that a stale import or a restored ledger cannot bring back what was forgotten.

    `scope_hash` is a keyed hash of the user and one item, or empty for everything of the user. Times are in seconds since the
    epoch.
    """

    subject: str
    scope_hash: str
    request_id: str
    fence: int
    expires_at: float | None = None  # None: never
    accepted_at: float | None = None  # of the request, if it found nothing; None: what was held lies here

    def covers(self, timestamp: float, now: float) -> bool:
        """Whether a row of this time must not come in. One that expires stands for rows older than the request alone."""
        if self.expires_at is None:
            return True
        return now < self.expires_at and (self.accepted_at is None or timestamp <= self.accepted_at)

    def adds_to(self, standing: Tombstone | None) -> bool:
        """Whether it stands for longer than the one (if any) that stands over this scope."""
        if standing is None or standing.expires_at is None:
            return standing is None
        return self.expires_at is None or self.expires_at > standing.expires_at


@dataclass(frozen=True, slots=True)
class Restraint:
    """What may not be done with a person's data until it is lifted. `subject` is the keyed hash of the user id.

    The ground of a restriction is a `RestrictionGround`, that of a hold a text; None: it was lost with a ledger that was not
    restored. `since` is in seconds since the epoch. `fence` is that from which on builds are made without the person.
    """

    subject: str
    kind: RestraintKind
    restraint_id: str
    ground: str | None
    since: float
    fence: int = 0


class Outcome(StrEnum):
    """What a deletion found when it was accepted."""

    ERASED = "erased"  # something was held, and is gone
    ALREADY_ERASED = "already_erased"  # nothing any more: an earlier deletion has erased it
    MERGED = "merged"  # what was held is another user's, from now on or since an earlier merge
    NOTHING_HELD = "nothing_held"  # nothing, and no earlier deletion has found anything either


@dataclass(frozen=True, slots=True)
class NamedItems:
    """How many of the items that a deletion names were found; the names themselves would be personal data."""

    named: int
    erased: int
    already_erased: int
    not_held: int  # items of the catalog, but nothing of this user's
    unknown: int  # neither the id nor the title of any item


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks for a deletion: what the audit trail calls them, their API key, and from where.

    `may_know` is whether they may learn of whom anything was held. Whoever may not gets a request of their own each time, and
    shares no idempotency keys with others.
    """

    actor: str
    key_id: str | None = None
    address: str | None = None
    may_know: bool = True


COMMAND_LINE = Requester("command line")  # whoever may run commands on the machine


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """One deletion, as the ledger knows it. Times are seconds since the epoch; it holds no user id."""

    request_id: str
    subject: str  # keyed hash of the user id
    scope: Scope
    state: RequestState
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
    outcome: Outcome | None = None  # None: accepted by a version that did not note it
    items: NamedItems | None = None  # None: everything of the user
    requested_by: str | None = None  # id of the API key that asked for it, if one did
    released_at: float | None = None  # when the legal hold ended that it waited for
    erased_impressions: int = 0  # also those that an item was taken out of

    @property
    def owed_since(self) -> float:
        """When it was accepted, or released from the hold that it waited for."""
        return self.accepted_at if self.released_at is None else self.released_at

    @property
    def held(self) -> bool:
        """Whether anything of what was asked for was held when it was accepted."""
        return self.found is Outcome.ERASED or (self.found is Outcome.MERGED and self._found_any)

    @property
    def found(self) -> Outcome:
        """`outcome`, and where it was not noted what the counts say."""
        if self.outcome is not None:
            return self.outcome
        return Outcome.ERASED if self._found_any else Outcome.NOTHING_HELD

    @property
    def _found_any(self) -> bool:
        found = self.erased_interactions or self.erased_impressions or self.masked_rows or self.affected_shards
        return bool(found)

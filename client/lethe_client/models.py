"""The models of Lethe's HTTP API. Made from its OpenAPI document by `make client-models`: do not edit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from lethe_client.shapes import Answer, Body, Open, OpenAnswer


class BatchBody(Body):
    """Many people, each of whom gets an answer of their own."""

    user_ids: list[str]
    top_k: int = 10
    exclude: list[str | ItemById | ItemByTitle] = Field(default_factory=list)
    filter: Filter | None = None
    diversity: float = 0.0


class BatchForgetAnswer(Answer):
    """The deletions, one a user, in their order. One build carries all of them out."""

    held: int
    requests: list[BatchForgotten]


class BatchForgetSelection(Body):
    """Users to be forgotten, each as a whole; or a previewed selection of rows. Users who are owed keep their
    requests.
    """

    selection: PreviewedSelection
    remember: bool = False


class BatchForgetUsers(Body):
    """Users to be forgotten, each as a whole; or a previewed selection of rows. Users who are owed keep their
    requests.
    """

    user_ids: list[str]
    remember: bool = False


class BatchForgotten(Answer):
    """One deletion of a batch, in the place of its user."""

    request_id: str
    state: str
    held: bool


class BatchLine(Answer):
    """One line of the answer: a person's place in the request, and their answer or what stood in its way."""

    index: int
    answer: RecommendAnswer | None = None
    error: str | None = None


class Because(Answer):
    """An item of the history that speaks for an item of the answer: people liked both."""

    item_id: str
    title: str


class ConsistencyProof(Answer):
    """RFC 9162, 2.1.4: that the log goes on from its first `first_size` entries. The path in hex digits."""

    first_size: int
    path: list[str]


class Document(Body):
    """A text to be ranked."""

    text: str


class Envelope(Answer):
    """A DSSE envelope: `payload` is JSON in base64, `payloadType` says what it is; both are under the signature."""

    payload: str
    payload_type: str = Field(alias="payloadType")
    signatures: list[EnvelopeSignature]


class EnvelopeSignature(Answer):
    """One signature of an envelope, base64, and the id of the key that made it."""

    keyid: str
    sig: str


class EventRow(Body):
    """What somebody did with an item: `liked`, a `rating`, or an `event` (play, purchase, ...) that settings give a
    meaning.

    `timestamp` is in seconds since the epoch; left out, it is the time of arrival. An event whose `event_id` was
    taken before of this user changes nothing. `recommendation_id` is that of the answer which it came of: if the
    user was shown the item there, it is attributed to it, also where events of its kind say nothing else
    (`ignored`). `source` is a label of where the row comes from (a client, a feed; never a person), by which a
    selection finds rows that are to be forgotten.
    """

    user_id: str
    item_id: str
    liked: bool | None = None
    rating: float | None = None
    event: str | None = None
    timestamp: int | None = None
    event_id: str | None = None
    recommendation_id: str | None = None
    source: str | None = None


class EventsAnswer(Answer):
    """What became of each row, in their order, and how many had each outcome.

    Present where a row has a `recommendation_id`: `attributed`, whether each was attributed to an answer. Answers
    are remembered only if `LETHE_IMPRESSIONS_DAYS` says so, and what is not known is passed over.
    """

    taken: int
    counts: dict[
        Annotated[
            Literal[
                "new",
                "changed",
                "unchanged",
                "outdated",
                "duplicate",
                "ignored",
                "forgotten",
                "restricted",
                "unknown_item",
                "unknown_event",
            ],
            Open,
        ],
        int,
    ]
    outcomes: list[
        Annotated[
            Literal[
                "new",
                "changed",
                "unchanged",
                "outdated",
                "duplicate",
                "ignored",
                "forgotten",
                "restricted",
                "unknown_item",
                "unknown_event",
            ],
            Open,
        ]
    ]
    attributed: list[bool] | None = None


class EventsBody(Body):
    """Rows of any number of people, taken in one transaction: all of them, or (where the answer is an error) none."""

    interactions: list[EventRow]
    allow_returning: bool = False


class ExportAnswer(Answer):
    """All that is held of one person (Articles 15 and 20 of the GDPR), and where it counts."""

    user_id: str
    interactions: list[ExportedRow]
    used_by: list[ExportedUse]
    known_event_ids: int
    deletions: list[ForgetStatus]
    restraints: list[ExportedRestraint]
    impressions: list[ExportedImpression]


class ExportedImpression(Answer):
    """What an answer has shown the person, by which generation, and when."""

    recommendation_id: str
    generation: str
    shown_at: datetime
    items: list[ExportedItem]


class ExportedItem(Answer):
    """An item that the person was shown: whether an event of theirs was attributed to that, and whether one liked
    it.
    """

    item_id: str
    attributed: bool
    liked: bool
    set_aside: Annotated[Literal["restriction", "hold"], Open] | None


class ExportedRestraint(Answer):
    """What may not be done with the person's data: use it (`restriction`), or erase it (`hold`), and since when and
    why.
    """

    kind: Annotated[Literal["restriction", "hold"], Open]
    ground: str | None
    since: datetime


class ExportedRow(Answer):
    """One interaction. `counted`: the served model knows it as it is; else it does from the next full build on.

    Not what is `set_aside`, of which nothing is made: the person is restricted, or a hold keeps it from a
    deletion.
    """

    item_id: str
    title: str
    liked: bool
    rating: float | None
    timestamp: int
    counted: bool
    set_aside: Annotated[Literal["restriction", "hold"], Open] | None
    source: str | None


class ExportedUse(Answer):
    """A part of the model that has seen the person. Of a `row`, they validate: their samples decide weights."""

    kind: Annotated[Literal["adapter", "memory", "row"], Open]
    key: str
    shard: str | None
    samples: int


class Fault(Answer):
    """One place of a request that is wrong, and why."""

    location: str
    message: str


class Filter(Body):
    """Conditions, all of which an item must meet. A plain value of an attribute means that it equals this."""

    categories: Words | None = None
    year: Range | None = None
    author: Words | None = None
    attributes: dict[str, bool | float | str | Values] = Field(default_factory=dict)


class ForgetAcknowledged(Answer):
    """What a key without the scope `rights` is told of a deletion: one and the same whether or not anything was
    held.
    """

    request_id: str
    state: Literal["accepted"]
    accepted_at: datetime


class ForgetAnswer(Answer):
    """A deletion as it was accepted: already effective, by masks, when this is read.

    `held` says whether there was anything to erase. A deletion that found nothing is `completed` at once, with
    `held` false. The state `held` is another thing: a legal hold stands over the person, and what is masked is
    erased when it is released.
    """

    request_id: str
    state: str
    held: bool
    outcome: Annotated[Literal["erased", "already_erased", "merged", "nothing_held"], Open]
    counts: FoundCounts
    items: FoundItems | None
    affected_shards: list[str]
    fence: int


class ForgetBody(Body):
    """Without `item_ids`, everything of the user is forgotten.

    `item_ids` takes ids and exact titles; a title stands for every item that has it. What is held is erased and
    kept out for ever. What is not held is remembered for `LETHE_REMEMBER_DAYS`, and only rows older than the
    request are kept out meanwhile: they may still be under way. With `remember` it is kept out for ever, too.
    """

    user_id: str
    item_ids: list[str | ItemById | ItemByTitle] | None = None
    remember: bool = False


class ForgetInteractionsBody(Body):
    """Single interactions of one user, to be forgotten: the items that they name, by id or exact title."""

    user_id: str
    item_ids: list[str | ItemById | ItemByTitle]
    remember: bool = False


class ForgetPage(Answer):
    """Deletions, the oldest first, and the cursor of the next page (null: there is none)."""

    requests: list[ForgetStatus]
    cursor: str | None


class ForgetStatus(Answer):
    """Where a deletion stands: accepted, retraining, completed or failed (and then tried again); and until when it
    is due.

    One that is `held` is in force, and erases what it has to when the legal hold is released; it is due from then
    on.
    """

    request_id: str
    state: str
    scope: str
    held: bool
    outcome: Annotated[Literal["erased", "already_erased", "merged", "nothing_held"], Open]
    counts: FoundCounts
    items: FoundItems | None
    fence: int
    affected_shards: list[str]
    accepted_at: datetime
    masked_at: datetime
    retraining_at: datetime | None
    completed_at: datetime | None
    due_at: datetime
    attempts: int
    error: str | None


class FoundCounts(Answer):
    """How much was held when the deletion was accepted. `impressions`: answers that were erased, or had an item
    taken out.
    """

    interactions: int
    impressions: int
    training_samples: int
    validation_rows: int
    shards: int


class FoundItems(Answer):
    """How many of the distinct items that were named were erased now, erased before, not this user's, and no items
    at all.
    """

    named: int
    erased: int
    already_erased: int
    not_held: int
    unknown: int


class GenerationAnswer(Answer):
    """The generation that this process serves, and what it was built from."""

    generation: str
    fence: int
    partition: str
    unit: str
    activation: str
    level: str
    frozen_digest: str
    shards: list[ServedShard]
    validation_rows: int
    computing: ServedComputing | None = None


class GenerationQuality(Answer):
    """How one generation did. All figures are null where it was shown to fewer people than `smallest_group`.

    `hit_rate`: share of impressions of which somebody liked an item. `click_through`: share of shown items to
    which an event was attributed.
    """

    generation: str
    served: bool
    people: int | None
    impressions: int | None
    hit_rate: float | None
    click_through: float | None


class Health(Answer):
    """One word."""

    status: str


class History(Body):
    """Item ids or titles, oldest first.

    `opinions` keeps the order in which likes and dislikes came; the shorter form, `liked` and `disliked`, counts
    dislikes as newer than all likes. An empty history is that of a stranger.
    """

    liked: list[str | ItemById | ItemByTitle] = Field(default_factory=list)
    disliked: list[str | ItemById | ItemByTitle] = Field(default_factory=list)
    opinions: list[Opinion] = Field(default_factory=list)


class HoldAnswer(Answer):
    """A hold that stands, and how many interactions deletions would have erased since.

    The ground is null where it was lost with a ledger of which a backup had to be restored.
    """

    ground: str | None
    since: datetime
    interactions: int


class HoldBody(Body):
    """Why nothing of a person may be erased. Only keys with the scope `rights` are told; it goes when the hold is
    released.
    """

    ground: str


class HoldReleased(Answer):
    """What the end of a hold did. `released` is false if there was none; `deletions` were held, and are carried out
    now.
    """

    released: bool
    deletions: list[str]


class InclusionProof(Answer):
    """RFC 9162, 2.1.3: that entry number `leaf_index` is SHA-256(salt, SHA-256(receipt)). All in hex digits."""

    leaf_index: int
    salt: str
    path: list[str]


class ItemAnswer(Answer):
    """An item as it is held."""

    item_id: str
    title: str
    description: str | None
    categories: list[str]
    year: int | None
    author: str | None
    attributes: dict[str, bool | float | str]
    hidden: bool
    available_from: datetime | None
    available_until: datetime | None


class ItemBody(Body):
    """An item as it is from now on; what is left out, it has not. It is shown while it is not hidden, between its
    times.
    """

    title: str
    description: str | None = None
    categories: list[str] = Field(default_factory=list)
    year: int | None = None
    author: str | None = None
    attributes: dict[str, bool | float | str] = Field(default_factory=dict)
    hidden: bool = False
    available_from: datetime | None = None
    available_until: datetime | None = None


class ItemById(Body):
    """The item with this id."""

    item_id: str


class ItemByTitle(Body):
    """The item with exactly this title; of several that with the smallest id."""

    title: str


class ItemPatch(Body):
    """What changes of an item; what is left out stays. Null takes a value away, where there may be none.

    `attributes` are merged: null takes one away.
    """

    title: str | None = None
    description: str | None = None
    categories: list[str] | None = None
    year: int | None = None
    author: str | None = None
    attributes: dict[str, bool | float | str | None] | None = None
    hidden: bool | None = None
    available_from: datetime | None = None
    available_until: datetime | None = None


class ItemsAnswer(Answer):
    """How many items were created, changed, and held as they were given."""

    created: int
    changed: int
    unchanged: int


class ItemsBody(Body):
    """Items that are taken all, or (where the answer is an error) none."""

    items: list[NamedItemBody]


class ItemsPage(Answer):
    """Items in order of their ids, and the cursor of the next page (null: there is none)."""

    items: list[ItemAnswer]
    cursor: str | None


class LogProof(Answer):
    """Proofs under one signed tree head: `lethe receipts log verify` checks them, on any machine."""

    format: str
    tree_head: Envelope
    inclusion: InclusionProof | None
    consistency: ConsistencyProof | None


class MergeBody(Body):
    """The user into whom the one of the path is merged: both ids are one person, and this one stays."""

    into: str


class NamedItemBody(Body):
    """An item with its id."""

    title: str
    description: str | None = None
    categories: list[str] = Field(default_factory=list)
    year: int | None = None
    author: str | None = None
    attributes: dict[str, bool | float | str] = Field(default_factory=dict)
    hidden: bool = False
    available_from: datetime | None = None
    available_until: datetime | None = None
    item_id: str


class Opinion(Body):
    """An item, by its id or title, and whether it was liked."""

    item: str | ItemById | ItemByTitle
    liked: bool = True


class PreviewAnswer(Answer):
    """What the deletion would find and mask; nothing was changed.

    `expected_seconds` is the median of the last deletions until they were completed; null where none has been.
    """

    outcome: Annotated[Literal["erased", "already_erased", "merged", "nothing_held"], Open]
    interactions: int
    impressions: int
    masked: list[ExportedUse]
    expected_seconds: float | None


class PreviewBody(Body):
    """A deletion as `POST /forget` takes it."""

    user_id: str
    item_ids: list[str | ItemById | ItemByTitle] | None = None
    remember: bool = False


class PreviewedSelection(Body):
    """A selection, and the digest that its preview gave: this is erased, or nothing."""

    item_ids: list[str] | None = None
    user_ids: list[str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    sources: list[str] | None = None
    digest: str


class Problem(Answer):
    """RFC 9457. `errors` says, for an invalid request, where it is wrong; it never repeats what was sent."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[Fault] | None = None


class QualityAnswer(Answer):
    """The generations that impressions are held of, the latest shown first."""

    smallest_group: int
    generations: list[GenerationQuality]


class Range(Body):
    """A number from `min` to `max`, both included; either may be left out."""

    min: float | None = None
    max: float | None = None


class RankedItem(Answer):
    """`score` is P(Yes) / (P(Yes) + P(No)), what the language model and the adapters expect: the chance of a like.

    With `explain`, for items of the catalog: `parts` (of the value that `rank_by: model` orders by, beside what
    the language model adds) and `because` (the items of the history that speak most for this one). `weights` are
    the answer's, until 1.0.
    """

    item_id: str | None
    title: str
    score: float
    rank: int
    weights: dict[str, float] | None = None
    parts: dict[str, float] | None = None
    because: list[Because] | None = None


class RecommendAnswer(Answer):
    """The served generation's ranking, as of `fence`. `degraded`: every adapter is masked, the frozen model answered
    alone.

    `recommendation_id` is random; an event that cites it is attributed to this answer (`POST /interactions`).
    Present with `explain`: `weights`, of each adapter by its digest, which the context decides and all candidates
    share; `neighbors`, the validation rows that decided them, nearest first (a row is known by a keyed hash,
    which tells nothing about any person to whoever does not hold the installation's secret; `neighbours` is the
    same, until 1.0); `memories`, the digests of the memories whose counts were summed; and `item_model`, whether
    it answered too: under any mask it does not. Present for a user of whom nothing is held: `cold`. Present where
    a `cursor` was given: the next page's, null where there is none.
    """

    recommendation_id: str
    generation: str
    fence: int
    degraded: bool
    ranked_by: Annotated[Literal["score", "model"], Open]
    items: list[RankedItem]
    weights: dict[str, float] | None = None
    neighbors: list[str] | None = None
    neighbours: list[str] | None = None
    memories: list[str] | None = None
    item_model: bool | None = None
    cold: bool | None = None
    cursor: str | None = None


class RecommendForHistory(Body):
    """Exactly one of `user_id` and `history`. Without `candidates`, they are retrieved from the catalog.

    Titles need not be exact here: `the matrix` is `Matrix, The (1999)`, and of several items that say the same
    the one is meant that most people have met. An item that `candidates` names more than once, in whatever way,
    is answered once.

    `rank_by` decides the order: `model` (what people like together, content and the score; the default without
    `candidates`) or `score` (the default with them). Whichever it is, a title that no catalog knows stands behind
    the better half of the candidates that one knows.

    A user of whom nothing is held is answered as a stranger (`cold` in the answer), unless `strict` asks for a
    404. `exclude` and `filter` count before candidates are retrieved, so that a narrow filter still fills
    `top_k`. `offset` leaves out the beginning of the order. `cursor`, empty at first and then that of the answer
    before, gives the next page without a repeat, whatever changed meanwhile.
    """

    history: History
    candidates: list[str | ItemById | ItemByTitle] | None = None
    top_k: int = 10
    rank_by: Literal["score", "model"] | None = None
    explain: bool = False
    strict: bool = False
    exclude: list[str | ItemById | ItemByTitle] = Field(default_factory=list)
    filter: Filter | None = None
    offset: int = 0
    cursor: str | None = None
    diversity: float = 0.0


class RecommendForUser(Body):
    """Exactly one of `user_id` and `history`. Without `candidates`, they are retrieved from the catalog.

    Titles need not be exact here: `the matrix` is `Matrix, The (1999)`, and of several items that say the same
    the one is meant that most people have met. An item that `candidates` names more than once, in whatever way,
    is answered once.

    `rank_by` decides the order: `model` (what people like together, content and the score; the default without
    `candidates`) or `score` (the default with them). Whichever it is, a title that no catalog knows stands behind
    the better half of the candidates that one knows.

    A user of whom nothing is held is answered as a stranger (`cold` in the answer), unless `strict` asks for a
    404. `exclude` and `filter` count before candidates are retrieved, so that a narrow filter still fills
    `top_k`. `offset` leaves out the beginning of the order. `cursor`, empty at first and then that of the answer
    before, gives the next page without a repeat, whatever changed meanwhile.
    """

    user_id: str
    candidates: list[str | ItemById | ItemByTitle] | None = None
    top_k: int = 10
    rank_by: Literal["score", "model"] | None = None
    explain: bool = False
    strict: bool = False
    exclude: list[str | ItemById | ItemByTitle] = Field(default_factory=list)
    filter: Filter | None = None
    offset: int = 0
    cursor: str | None = None
    diversity: float = 0.0


class RectifyBody(Body):
    """What a person says of an item instead of what is held: `liked`, a `rating`, or both.

    Where `liked` is left out, the rating decides.
    """

    user_id: str
    item_id: str
    liked: bool | None = None
    rating: float | None = None


class RerankAnswer(Answer):
    """The documents, best first; those that may not be shown now are left out."""

    model: str
    object: Literal["list"] = "list"
    results: list[RerankResult]


class RerankBody(Answer):
    """A request as clients of Jina's and Cohere's rerankers send it.

    Each line of `query` is the title or id of an item that somebody likes, the newest last; or `user_id` names a
    person, whose history is read beside it. Documents are ids or titles of items, or any other texts, of which
    the first 500 characters count. Unknown fields are passed over, as these clients send some of their own.
    """

    model: str = "lethe"
    query: str = ""
    user_id: str | None = None
    documents: list[str | Document]
    top_n: int | None = None
    return_documents: bool = False


class RerankResult(Answer):
    """A document by its place in the request, and its score."""

    index: int
    relevance_score: float
    document: Document | None = None


class RestrictionAnswer(Answer):
    """A restriction that stands: in force since `since`, by masks; `left_out` once what is served was built without
    the person.

    `interactions` are kept, and nothing is made of them.
    """

    ground: Annotated[Literal["restriction", "objection"], Open]
    since: datetime
    interactions: int
    left_out: bool


class RestrictionBody(Body):
    """Why a person's data may not be used: they asked for `restriction` (Article 18), or it is an `objection`
    (Article 21).
    """

    ground: Literal["restriction", "objection"]


class RestrictionLifted(Answer):
    """What the end of a restriction did. `lifted` is false if there was none; `interactions` count again."""

    lifted: bool
    interactions: int


class SelectionBody(Body):
    """Rows that meet all conditions that are given, one at least: of these items, users, sources, within this time."""

    item_ids: list[str] | None = None
    user_ids: list[str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    sources: list[str] | None = None


class SelectionPreview(Answer):
    """What the selection holds now. `digest` goes with it to `POST /forget/batch`, which erases this or nothing."""

    users: int
    interactions: int
    items: int
    digest: str


class ServedComputing(Answer):
    """On what this process computes: device and precision of the frozen model and why, its attention, the neighbor
    index.
    """

    device: str
    dtype: str
    why: str
    attention: str
    neighbors: str


class ServedShard(Answer):
    """One adapter of the served generation; `masked` while it may not be used."""

    digest: str
    name: str
    samples: int
    masked: bool


class SignedReceipt(OpenAnswer):
    """What the server signed of a deletion: `lethe receipts verify` checks it, byte for byte as it was downloaded."""

    algorithm: str
    public_key: str
    key_id: str | None = None
    receipt: dict[str, Any]
    signature: str


class SimilarBody(Body):
    """How many items, and which."""

    top_k: int = 10
    exclude: list[str | ItemById | ItemByTitle] = Field(default_factory=list)
    filter: Filter | None = None
    diversity: float = 0.0


class Values(Body):
    """What one attribute must be: among `any`, none of `none`, from `min` to `max`."""

    any: list[bool | float | str] | None = None
    none: list[bool | float | str] = Field(default_factory=list)
    min: float | None = None
    max: float | None = None


class Words(Body):
    """Values of which any, all, or none are wanted."""

    any: list[str] | None = None
    all: list[str] = Field(default_factory=list)
    none: list[str] = Field(default_factory=list)


BatchForgetBody = BatchForgetUsers | BatchForgetSelection
RecommendBody = RecommendForUser | RecommendForHistory

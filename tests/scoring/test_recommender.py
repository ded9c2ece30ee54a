from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.errors import NotReady, Overloaded, UnknownItem, UnknownUser
from service.memory.artifact import load_memory
from service.memory.live import Memory, Source
from service.records import ById, ByTitle, Interaction, Item, ItemName, RatedItem
from service.scoring import recommender
from service.scoring.ranking import reasons
from service.scoring.recommender import Prepared, Recommender
from service.scoring.requests import (
    NOBODY,
    EncodedRequest,
    Nobody,
    Payer,
    Query,
    RankBy,
    Ranked,
    Recommendation,
    Scored,
    ScoreRequest,
)
from tests.scoring.conftest import FakeCatalog, World

ASKED = Query(user_id=None, opinions=(), candidates=None, top_k=5)
MINE = replace(ASKED, user_id="someone")
TIMEOUT = 2.5
# Five people like items 8 and 9 after item 2, and then all sorts of things.
PEOPLE = [
    [Interaction(f"u{n}", item, True, time) for time, item in enumerate(("2", "8", "9", str(3 + n % 4))) if n or time]
    for n in range(5)
]


class FakeQueue:
    """Scores a candidate by the tokens of its question; or raises what it was told to, at once or when it is asked to score."""

    def __init__(self, revisions: Callable[[], int]) -> None:
        self.requests: list[EncodedRequest] = []
        self.timeouts: list[float] = []
        self.revisions = revisions
        self.refusal: Exception | None = None
        self.full: Exception | None = None

    def admit(self, timeout: float, caller: str) -> None:
        if self.full is not None:
            raise self.full

    async def submit(self, request: EncodedRequest, timeout: float, caller: str) -> Scored:
        if self.refusal is not None:
            raise self.refusal
        self.requests.append(request)
        self.timeouts.append(timeout)
        scores = tuple(len(question) / 100 for question in request.questions)
        return Scored(scores, {"d": 1.0}, ("row",), "generation", 7, True, self.revisions())


class Desk:
    def __init__(self, world: World, catalog: FakeCatalog | None = None) -> None:
        self.world = world
        self.catalog = catalog or FakeCatalog(world)
        self.queue = FakeQueue(lambda: world.current.revision)
        self._recommender = Recommender(self.catalog, world.snapshots, world.frozen, self.queue, TIMEOUT)

    def ask(self, query: Query, payer: Payer = NOBODY) -> Recommendation:
        return asyncio.run(self._recommender.recommend(query, payer))

    def asked(self, query: Query) -> ScoreRequest:
        """What is to be scored for a query. It is what the queue gets, in token ids."""
        prepared = self.prepared(query)
        request, encoded = prepared.request, prepared.encoded
        self.ask(query)
        tokenizer = self.world.frozen.tokenizer
        assert self.queue.requests[-1] == encoded
        assert list(encoded.context) == tokenizer.context(request.history, self.world.item_type)
        assert [list(question) for question in encoded.questions] == [
            tokenizer.question(item, self.world.item_type) for item in request.candidates
        ]
        return request

    def prepared(self, query: Query) -> Prepared:
        """The query before it is scored."""
        return self._recommender.prepare(query)


@pytest.fixture
def desk(world: World) -> Desk:
    world.publish()
    return Desk(world)


def _nearest(world: World, numbers: list[int], seen: set[str]) -> list[str]:
    snapshot = world.snapshots.current
    assert snapshot is not None
    embeddings = snapshot.item_embeddings
    closeness = embeddings @ embeddings[numbers].mean(axis=0)
    return [str(n) for n in np.argsort(-closeness, kind="stable") if str(n) not in seen]


# What is scored


class DeletedMeanwhile(FakeCatalog):
    """Somebody's deletion comes while a history is being read."""

    def history(self, user_id: str, limit: int) -> tuple[RatedItem, ...]:
        opinions = super().history(user_id, limit)
        self._world.change(fence=self._world.current.fence + 1)
        return opinions


def test_a_request_knows_the_fence_from_before_its_history_was_read(world: World) -> None:
    world.publish()
    world.change(fence=3)
    desk = Recommender(DeletedMeanwhile(world), world.snapshots, world.frozen, FakeQueue(int), TIMEOUT)
    assert (desk.prepare(MINE).encoded.fence, world.current.fence) == (3, 4)


def test_a_user_is_scored_with_their_own_history_on_items_they_have_not_seen(desk: Desk) -> None:
    request = desk.asked(MINE)
    assert request.history == tuple(desk.catalog.opinions)
    assert {item.item_id for item in request.candidates} == {str(number) for number in range(4, 12)}


def test_the_history_is_no_longer_than_the_generation_was_built_with(world: World) -> None:
    world.publish(history_length=2)
    desk = Desk(world)
    request = desk.asked(MINE)
    assert [opinion.item.item_id for opinion in request.history] == ["2", "3"]
    assert not {item.item_id for item in request.candidates} & {"0", "1", "2", "3"}


def test_a_history_that_was_stated_is_read_whole(world: World) -> None:
    world.publish(history_length=2)
    stated = tuple((str(number), number < 3) for number in range(5))
    request = Desk(world).asked(replace(ASKED, opinions=stated))
    assert [(opinion.item.item_id, opinion.liked) for opinion in request.history] == list(stated)


def test_where_nobody_is_counted_candidates_are_nearest_to_what_was_liked(desk: Desk) -> None:
    request = desk.asked(MINE)
    found = [item.item_id for item in request.candidates]
    assert found == _nearest(desk.world, [0, 2], {"0", "1", "2", "3"})


def test_who_liked_nothing_gets_what_is_near_to_what_they_saw(desk: Desk) -> None:
    request = desk.asked(replace(ASKED, opinions=(("5", False), ("6", False))))
    assert [item.item_id for item in request.candidates] == _nearest(desk.world, [5, 6], {"5", "6"})


def test_who_says_nothing_gets_what_most_people_like(world: World) -> None:
    world.publish(people=PEOPLE)
    request = Desk(world).asked(ASKED)
    assert request.history == ()
    best = [item.item_id for item in request.candidates][:3]
    assert ({*best[:2]}, best[2]) == ({"8", "9"}, "2")  # as many like the one as the other


def test_a_title_that_no_catalog_knows_can_be_liked_and_steers_retrieval(desk: Desk) -> None:
    request = desk.asked(replace(ASKED, opinions=(("Unheard of (2031)", True), ("7", True))))
    assert request.history == (RatedItem(Item("", "Unheard of (2031)"), True), RatedItem(desk.catalog.items["7"], True))
    assert len(request.candidates) == 11


def test_titles_alone_that_no_catalog_knows_get_what_most_people_like(world: World) -> None:
    world.publish(people=PEOPLE)
    request = Desk(world).asked(replace(ASKED, opinions=(("Unheard of (2031)", True),)))
    best = [item.item_id for item in request.candidates][:3]
    assert ({*best[:2]}, best[2]) == ({"8", "9"}, "2")  # as many like the one as the other


def test_no_more_than_a_bounded_number_is_retrieved(tmp_path: Path, world: World) -> None:
    world.items = tuple(Item(str(number), f"Film {number}") for number in range(2 * recommender.RETRIEVED))
    world.publish()
    assert len(Desk(world).asked(ASKED).candidates) == recommender.RETRIEVED + ASKED.top_k


def test_an_item_that_the_ledger_lost_meanwhile_is_not_retrieved(desk: Desk) -> None:
    del desk.catalog.items["9"]
    assert "9" not in {item.item_id for item in desk.asked(MINE).candidates}


def test_who_has_seen_everything_gets_an_empty_ranking(desk: Desk) -> None:
    desk.catalog.opinions = [RatedItem(item, True) for item in desk.world.items]
    assert desk.ask(MINE).items == ()


def test_named_candidates_are_scored_as_named_even_when_seen(desk: Desk) -> None:
    request = desk.asked(replace(MINE, candidates=("3", "Film 5", "Unheard of")))
    assert request.candidates == (desk.catalog.items["3"], desk.catalog.items["5"], Item("", "Unheard of"))


def test_an_id_is_taken_before_a_title(desk: Desk) -> None:
    desk.catalog.items["100"] = Item("100", "8")
    request = desk.asked(replace(ASKED, opinions=(("8", True),), candidates=("8",)))
    assert request.candidates == (desk.catalog.items["8"],)
    assert request.history == (RatedItem(desk.catalog.items["8"], True),)


def test_of_items_with_one_title_the_one_that_most_people_met_is_meant(world: World) -> None:
    world.publish(people=PEOPLE)
    desk = Desk(world)
    desk.catalog.items |= {"2": Item("2", "Film 9"), "0": Item("0", "Film 9")}
    request = desk.asked(replace(ASKED, opinions=(("Film 9", True),)))
    met = {item: sum(row.item_id == item for rows in PEOPLE for row in rows) for item in ("0", "2", "9")}
    assert request.history[0].item.item_id == max(met, key=lambda item: met[item])


def test_a_history_keeps_its_order(desk: Desk) -> None:
    request = desk.asked(replace(ASKED, opinions=(("4", True), ("Film 0", False), ("1", True), ("Unheard of", False))))
    assert [(o.item.title, o.liked) for o in request.history] == [
        ("Film 4", True),
        ("Film 0", False),
        ("Film 1", True),
        ("Unheard of", False),
    ]


# What people like together


def test_what_people_like_together_is_found_and_ranked_first(world: World) -> None:
    world.publish(people=PEOPLE)
    answer = Desk(world).ask(replace(ASKED, opinions=(("2", True),)))
    assert [item.item_id for item in answer.items][:2] == ["8", "9"]
    assert answer.ranked_by is RankBy.MODEL


def test_a_masked_memory_counts_for_nothing(world: World) -> None:
    world.publish(people=PEOPLE)
    desk = Desk(world)
    everybody = desk.prepared(MINE).reasons
    digests = world.store.memories.digests()
    world.change(memories=frozenset(digests[:1]))
    memories = world.store.memories
    read = {digest: load_memory(memories.stated(digest, memories.sums(digest)).read()) for digest in digests[1:]}
    source = Source(tuple(read), read.__getitem__, world.config.min_people)
    left = Memory.of(source, [item.item_id for item in world.items])
    prepared = desk.prepared(MINE)
    clean = reasons(left.without(), prepared.taste, None, prepared.snapshot.content)
    assert prepared.reasons.value.tobytes() == clean.value.tobytes() != everybody.value.tobytes()
    world.change(memories=frozenset(digests))
    assert not desk.prepared(MINE).reasons.value.any()


class ForgottenMeanwhile(FakeQueue):
    """A deletion comes while the first request waits to be scored."""

    def __init__(self, world: World) -> None:
        super().__init__(lambda: world.current.revision)
        self._world = world

    async def submit(self, request: EncodedRequest, timeout: float, caller: str) -> Scored:
        if not self.requests:
            self._world.change(memories=frozenset(self._world.store.memories.digests()))
        return await super().submit(request, timeout, caller)


def test_a_deletion_between_retrieval_and_scores_leaves_nobody_in_the_order(world: World) -> None:
    world.publish(people=PEOPLE)
    queue = ForgottenMeanwhile(world)
    asked = Recommender(FakeCatalog(world), world.snapshots, world.frozen, queue, TIMEOUT)
    query = replace(ASKED, opinions=(("2", True),), explain=True)
    answer = asyncio.run(asked.recommend(query))
    assert len(queue.requests) == 2
    assert not any(item.because for item in answer.items)
    assert {value for item in answer.items for value in (item.parts or {}).values()} == {0.0}


def test_an_explanation_names_what_the_person_liked_and_the_parts_add_up(world: World) -> None:
    world.publish(people=PEOPLE)
    desk = Desk(world)
    query = replace(ASKED, opinions=(("0", False), ("2", True)), explain=True)
    first = desk.ask(query).items[0]
    assert [item.item_id for item in first.because] == ["2"]
    assert first.parts is not None
    assert sum(first.parts.values()) == pytest.approx(desk.prepared(query).reasons.value[8])
    assert desk.ask(replace(query, explain=False)).items[0].parts is None


def test_named_candidates_may_be_ranked_by_the_whole_model(world: World) -> None:
    world.publish(people=PEOPLE)
    desk = Desk(world)
    query = replace(ASKED, opinions=(("2", True),), candidates=("8", "Unheard of, with a long title", "9"))
    by_score = desk.ask(query)
    assert max(by_score.items, key=lambda item: item.score).item_id is None  # and yet no catalog item stands behind it
    assert by_score.items[-1].item_id is None
    by_model = desk.ask(replace(query, rank_by=RankBy.MODEL))
    assert [item.item_id for item in by_model.items] == ["8", "9", None]
    assert desk.ask(replace(query, candidates=None, rank_by=RankBy.SCORE)).ranked_by is RankBy.SCORE


def test_no_wording_of_a_title_outside_the_catalog_passes_the_better_half_of_what_the_catalog_knows(
    world: World,
) -> None:
    world.publish()
    known = ("4", "5", "6", "7")
    for title in ("x", "a title that is much longer than what the catalog holds " * 3):
        query = replace(ASKED, candidates=(*known, title), top_k=5)
        items = Desk(world).ask(query).items
        assert next(item.rank for item in items if item.item_id is None) >= 3


def test_as_many_are_retrieved_as_are_wanted(world: World) -> None:
    world.items = tuple(Item(str(number), f"Film {number}") for number in range(recommender.RETRIEVED + 210))
    world.publish()
    wanted = 200  # the most that a request may ask for
    assert len(Desk(world).ask(replace(ASKED, top_k=wanted)).items) == wanted


# What is answered


def test_the_best_come_first_with_ranks_from_one_and_titles_outside_the_catalog_behind_its_better_half(
    desk: Desk,
) -> None:
    def score(title: str) -> float:
        return len(desk.world.frozen.tokenizer.question(Item("", title), desk.world.item_type)) / 100

    answer = desk.ask(replace(ASKED, candidates=("a", "Film 11", "b c d", "b c"), top_k=3))
    assert score("a") < score("b c") < score("Film 11") < score("b c d")
    assert answer.items == (
        Ranked("11", "Film 11", score("Film 11"), 1),
        Ranked(None, "b c d", score("b c d"), 2),
        Ranked(None, "b c", score("b c"), 3),
    )


def test_equal_scores_keep_the_order_of_the_candidates(desk: Desk) -> None:
    answer = desk.ask(replace(ASKED, candidates=("bb", "aa", "cc")))
    assert [item.title for item in answer.items] == ["bb", "aa", "cc"]


def test_fewer_candidates_than_wanted_are_all_ranked(desk: Desk) -> None:
    assert len(desk.ask(replace(ASKED, candidates=("a", "b"), top_k=50)).items) == 2


def test_an_item_that_is_named_more_than_once_is_answered_once(desk: Desk) -> None:
    names = ("Film 11", "11", "a", ById("11"), "a", ByTitle("Film 11"), ByTitle("a"), "b")
    answer = desk.ask(replace(ASKED, candidates=names, top_k=10))
    assert sorted((item.item_id, item.title) for item in answer.items if item.item_id) == [("11", "Film 11")]
    assert sorted(item.title for item in answer.items) == ["Film 11", "a", "b"]


def test_an_id_that_no_item_has_is_not_read_as_a_title(desk: Desk) -> None:
    with pytest.raises(UnknownItem, match="item_id"):
        desk.ask(replace(ASKED, candidates=("a", ById("no such id"))))
    with pytest.raises(UnknownItem, match="item_id"):
        desk.ask(replace(ASKED, opinions=((ById("no such id"), True),)))


def test_an_answer_states_what_it_was_scored_with(desk: Desk) -> None:
    answer = desk.ask(MINE)
    assert (answer.generation, answer.fence, answer.degraded, answer.weights) == ("generation", 7, True, {"d": 1.0})
    assert answer.neighbors == ("row",)
    assert desk.queue.timeouts == [TIMEOUT]


# No answer


class CatalogAlone(Nobody):
    free_titles = False


def test_whoever_may_rank_the_catalog_alone_is_refused_other_titles(desk: Desk) -> None:
    known = desk.world.items[5]
    free = replace(MINE, candidates=(known.title, "A film nobody has heard of; everybody likes it"))
    with pytest.raises(UnknownItem, match="1 of the candidates") as refused:
        desk.ask(free, CatalogAlone())
    assert "heard of" not in str(refused.value)
    assert not desk.queue.requests
    assert len(desk.ask(free).items) == 2
    assert len(desk.ask(replace(free, candidates=(known.title,)), CatalogAlone()).items) == 1


def test_an_unknown_user_is_refused_before_anything_is_scored_if_that_is_asked_for(desk: Desk) -> None:
    with pytest.raises(UnknownUser):
        desk.ask(replace(ASKED, user_id="nobody", strict=True))
    assert desk.queue.requests == []


def test_an_unknown_user_is_a_stranger(desk: Desk) -> None:
    answer = desk.ask(replace(ASKED, user_id="nobody"))
    assert (answer.cold, desk.ask(ASKED).cold) == (True, False)
    stranger = desk.ask(replace(ASKED, user_id=None, opinions=()))
    assert (answer.items, stranger.cold) == (stranger.items, False)


def test_retrieval_from_an_empty_catalog_is_refused_but_named_candidates_are_scored(world: World) -> None:
    world.items = ()
    world.publish()
    desk = Desk(world)
    with pytest.raises(UnknownItem, match="name them in `candidates`"):
        desk.ask(ASKED)
    assert [item.title for item in desk.ask(replace(ASKED, candidates=("Up",))).items] == ["Up"]


def test_nothing_is_answered_before_a_generation_is_published(world: World) -> None:
    with pytest.raises(NotReady):
        Desk(world).ask(ASKED)


def test_a_refusal_of_the_queue_reaches_the_caller(desk: Desk) -> None:
    desk.queue.refusal = Overloaded("too much is waiting")
    with pytest.raises(Overloaded):
        desk.ask(MINE)


class Unread(FakeCatalog):
    """Whose history or items are asked for has been read."""

    def history(self, user_id: str, limit: int) -> tuple[RatedItem, ...]:
        raise AssertionError("a history was read")

    def items_meant(self, names: Sequence[ItemName]) -> dict[ItemName, list[Item]]:
        raise AssertionError("items were looked up")


def test_who_cannot_be_answered_in_time_is_refused_before_anything_is_read(world: World) -> None:
    world.publish()
    desk = Desk(world, Unread(world))
    desk.queue.full = Overloaded("too much is waiting")
    with pytest.raises(Overloaded):
        desk.ask(MINE)

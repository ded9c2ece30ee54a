from __future__ import annotations

import gc
from collections.abc import Sequence

from service.records import Item, RatedItem
from service.scoring.encoding import RequestEncoder
from service.scoring.requests import EncodedRequest, ScoreRequest

BABE = Item("34", "Babe (1995)", 1995, ("Comedy",))
CANARY = "a title that only one person ever typed"


class Letters:
    """Spells texts letter by letter, and remembers what it was asked."""

    def __init__(self) -> None:
        self.contexts: list[Sequence[RatedItem]] = []
        self.asked: list[Item] = []

    def context(self, history: Sequence[RatedItem], item_type: str) -> list[int]:
        self.contexts.append(history)
        return [*map(ord, item_type), *(ord(letter) for opinion in history for letter in opinion.item.title)]

    def question(self, target: Item, item_type: str) -> list[int]:
        self.asked.append(target)
        return [ord(letter) for letter in f"{item_type} {target.title}?"]


def _asking(*candidates: Item) -> ScoreRequest:
    return ScoreRequest((RatedItem(BABE, True),), candidates)


def test_a_request_is_its_context_and_a_question_for_every_candidate() -> None:
    letters = Letters()
    request = _asking(BABE, Item("", "Heat"), BABE)
    for _ in range(2):
        encoded = RequestEncoder(letters).encode(request, "movie")
        assert list(encoded.context) == letters.context(request.history, "movie")
        assert [list(own) for own in encoded.questions] == [letters.question(c, "movie") for c in request.candidates]


def test_tokens_count_the_context_once_and_every_question() -> None:
    assert EncodedRequest((1, 2, 3), ((4, 5), (), (6,))).tokens == 6


def test_a_question_about_an_item_of_the_catalog_is_encoded_once() -> None:
    letters = Letters()
    tokenizer = RequestEncoder(letters)
    first, second = (tokenizer.encode(_asking(BABE, BABE), "movie") for _ in range(2))
    assert first == second
    assert letters.asked == [BABE]
    assert len(letters.contexts) == 2  # a history is a person's


def test_an_item_whose_facts_or_noun_change_is_encoded_anew() -> None:
    tokenizer = RequestEncoder(Letters())
    renamed = Item("34", "Babe: Pig in the City (1998)", 1998, ("Comedy",))
    encoded = [
        tokenizer.encode(_asking(item), item_type)
        for item, item_type in ((BABE, "movie"), (renamed, "movie"), (BABE, "book"))
    ]
    assert len({one.questions for one in encoded}) == 3


def test_what_a_person_typed_is_not_remembered() -> None:
    letters = Letters()
    tokenizer = RequestEncoder(letters)
    typed = Item("", CANARY)
    for _ in range(2):
        tokenizer.encode(ScoreRequest((RatedItem(typed, True),), (typed,)), "movie")
    assert letters.asked == [typed, typed]
    letters.asked, letters.contexts = [], []
    assert gc.get_referrers(typed) == []


def test_no_more_than_a_bounded_number_is_remembered() -> None:
    letters = Letters()
    tokenizer = RequestEncoder(letters, remembered=2)
    items = [Item(str(number), f"Film {number}") for number in range(3)]
    for item in (*items, items[2], items[1], items[0]):
        tokenizer.encode(_asking(item), "movie")
    assert letters.asked == [*items, items[0]]

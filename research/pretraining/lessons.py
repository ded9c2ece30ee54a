"""Lessons as token ids: what simulated people would answer, facts about items, and running text.

One lesson of people is a person's context followed by several questions, each of which is asked as if it were the only one. How
an architecture reads a lesson stands in `reading`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from research.pretraining.corpus import Entry
from research.pretraining.made_up import MadeUpNames
from research.pretraining.observer import expected_likes, with_unknown
from research.pretraining.simulated import (
    BOOK_TASTES,
    FILM_TASTES,
    FloatArray,
    IntArray,
    ItemFeatures,
    Tastes,
    simulate_person,
)
from research.pretraining.vocabulary import END, Vocabulary
from service.data import prompts
from service.records import Item, RatedItem

NOUNS = ("movie", "book")
HISTORY = 10
_OTHER_FORM = 0.3
_DESCRIBED = 0.75  # share of facts that describe one item; the others compare two
_AS_ITEM = 0.08  # share of batches of people whose catalog is called "item"


@dataclass(frozen=True, slots=True)
class Plan:
    """How the lessons about people are drawn. Shares are of batches, and of items where it says so."""

    longest_history: int = HISTORY
    usual_histories: tuple[int, ...] = (HISTORY,)
    usual: float = 0.7  # have one of the usual histories, the others 1 opinion to the longest
    spelled: float = 0.15  # titles come in pieces, as known titles do that are spelled unusually
    together: float = 0.0  # everybody is asked about the same items
    made_up: float = 0.0  # items that stand there under a made-up name: few in most lives, nearly all in some
    taste: bool = True  # without it nobody is in any lesson, and no sentence asks which item is better regarded


@dataclass(frozen=True, slots=True)
class PeopleLesson:
    """B people with Q questions each."""

    contexts: list[list[int]]  # B
    questions: list[list[list[int]]]  # B times Q
    expected: FloatArray  # (B, Q): the ideal observer's P(like)
    together: bool  # whether the n-th question is the same for everybody


@dataclass(frozen=True, slots=True)
class TextLesson:
    """Texts to go on with: of a fact its title is given, of running text nothing is."""

    given: list[list[int]]
    wanted: list[list[int]]


@dataclass(frozen=True, slots=True)
class Catalog:
    """The items of one noun, and how people differ about them."""

    entries: tuple[Entry, ...]
    features: ItemFeatures
    tastes: Tastes
    observed: ItemFeatures  # with one item more, of which nothing is known

    @classmethod
    def of(cls, item_type: str, entries: Sequence[Entry]) -> Catalog:
        own = tuple(entry for entry in entries if entry.item_type == item_type)
        tastes = FILM_TASTES if item_type == "movie" else BOOK_TASTES
        features = ItemFeatures.of([entry.facts for entry in own])
        return cls(own, features, tastes, with_unknown(features, tastes))


class Lessons:
    """Draws batches from one generator, so that a step's batches depend on the seed and the step alone."""

    def __init__(self, entries: Sequence[Entry], texts: Sequence[str], vocabulary: Vocabulary, plan: Plan) -> None:
        self._catalogs = {item_type: Catalog.of(item_type, entries) for item_type in NOUNS}
        self._texts = texts
        self._names = MadeUpNames(texts, [entry.name for entry in entries])
        self._tokenizer, self._spelling = vocabulary.tokenizer, vocabulary.spelling
        self._plan = plan

    def people(self, item_type: str, count: int, questions: int, rng: np.random.Generator) -> PeopleLesson:
        """People who are asked about films, or about books, all after equally many opinions. Not of a plan without taste."""
        assert self._plan.taste
        lives = _Lives(self._catalogs[item_type], self._names, self._plan.made_up, rng)
        length, called = self._history(item_type, rng), "item" if rng.random() < _AS_ITEM else item_type
        together = rng.random() < self._plan.together
        asked = lives.asked(questions) if together else None
        drawn = [lives.person(length, asked or lives.asked(questions), called) for _ in range(count)]
        encode = self._spell if rng.random() < self._plan.spelled else self._encode
        encoded = iter(encode([text for person in drawn for text in (person.context, *person.questions)]))
        # The order of what was encoded: a person's context, then their questions.
        read = [(next(encoded), [next(encoded) for _ in person.questions]) for person in drawn]
        contexts, asked_of = [context for context, _ in read], [asked_of for _, asked_of in read]
        return PeopleLesson(contexts, asked_of, np.array([person.expected for person in drawn]), together)

    def _history(self, item_type: str, rng: np.random.Generator) -> int:
        longest = self._plan.longest_history if item_type == "movie" else HISTORY  # books' names and authors are long
        if rng.random() < self._plan.usual:
            return min(longest, int(rng.choice(self._plan.usual_histories)))
        return int(rng.integers(1, longest + 1))

    def facts(self, item_type: str, count: int, rng: np.random.Generator) -> TextLesson:
        """Sentences about items; the tokens after the title are to be predicted."""
        told = [_fact(self._catalogs[item_type], rng, self._plan.taste) for _ in range(count)]
        return TextLesson(self._encode([head for head, _ in told]), self._encode([tail for _, tail in told]))

    def texts(self, count: int, tokens: int, rng: np.random.Generator) -> TextLesson:
        """The beginnings of paragraphs; all tokens are to be predicted, as far as the architecture can."""
        chosen = [self._texts[n] for n in rng.integers(0, len(self._texts), count)]
        rows = [row[:tokens] for row in self._encode([text[: 6 * tokens] + END for text in chosen])]
        return TextLesson([[]] * count, rows)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [one.ids for one in self._tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)]

    def _spell(self, texts: list[str]) -> list[list[int]]:
        return [one.ids for one in self._spelling.encode_batch(texts, add_special_tokens=False)]


@dataclass(frozen=True, slots=True)
class _Person:
    context: str
    questions: list[str]
    expected: FloatArray


@dataclass(frozen=True, slots=True)
class _Asked:
    """Items to be asked about: their numbers, what the observer knows them as, and how the questions name them."""

    numbers: IntArray
    known_as: IntArray
    items: list[Item]


class _Lives:
    """Draws simulated people of one batch, and disguises some of the items that they meet."""

    def __init__(self, catalog: Catalog, names: MadeUpNames, made_up: float, rng: np.random.Generator) -> None:
        self._catalog, self._names, self._made_up, self._rng = catalog, names, made_up, rng

    def asked(self, questions: int) -> _Asked:
        """Items that somebody meets."""
        met, _ = simulate_person(self._catalog.features, self._catalog.tastes, questions, self._rng)
        return self._named(met)

    def person(self, length: int, asked: _Asked, item_type: str) -> _Person:
        """Somebody with `length` opinions of items that are not asked about."""
        features, tastes = self._catalog.features, self._catalog.tastes
        met, liked = simulate_person(features, tastes, length + len(asked.numbers), self._rng)
        others = ~np.isin(met, asked.numbers)
        history, answers = self._named(met[others][:length]), liked[others][:length]
        opinions = [RatedItem(item, bool(yes)) for item, yes in zip(history.items, answers, strict=True)]
        return _Person(
            context=prompts.context_text(opinions, item_type),
            questions=[prompts.question_text(item, item_type) for item in asked.items],
            expected=expected_likes(self._catalog.observed, tastes, history.known_as, answers, asked.known_as),
        )

    def _named(self, numbers: IntArray) -> _Asked:
        rng, entries, unknown = self._rng, self._catalog.entries, len(self._catalog.entries)
        # Few or none in most lives, nearly all in some: a power of a uniform number whose mean is the share.
        share = rng.random() ** (1.0 / self._made_up - 1.0) if self._made_up else 0.0
        hidden, other_form = rng.random(len(numbers)) < share, rng.random() < _OTHER_FORM
        items = [
            self._names.item(entries[n], rng) if unseen else _item(entries[n], other_form, rng)
            for n, unseen in zip(numbers, hidden, strict=True)
        ]
        return _Asked(numbers, np.where(hidden, unknown, numbers), items)


def _fact(catalog: Catalog, rng: np.random.Generator, taste: bool) -> tuple[str, str]:
    chance = np.sqrt(catalog.features.popularity)  # lesser known items are told of more often than they are met
    number, other = rng.choice(len(chance), 2, p=chance / chance.sum())
    kind = rng.random()
    if kind < _DESCRIBED:
        return _described(catalog.entries[number], rng)
    # What is alike is a matter of genres; what is better regarded, of the taste of many.
    return _compared(catalog, int(number), int(other), better=taste and kind < (1.0 + _DESCRIBED) / 2.0)


def _item(entry: Entry, other_form: bool, rng: np.random.Generator) -> Item:
    form = entry.forms[int(rng.integers(len(entry.forms)))] if other_form else entry.forms[0]
    return Item("", form, entry.facts.year, entry.facts.genres, entry.facts.author)


def _described(entry: Entry, rng: np.random.Generator) -> tuple[str, str]:
    item = _item(entry, rng.random() < _OTHER_FORM, rng)
    head, about, genres = prompts.item_text(item).partition(" is about: ")
    words = list(entry.keywords)
    rng.shuffle(words)
    vote = f"\nPublic vote: {entry.facts.vote_average:.1f}, {_fame(entry.facts.vote_count)}"
    tail = f"{about}{genres}{vote}" + (f"\n{', '.join(words[:3])}" if words else "")
    return head, tail + END


def _compared(catalog: Catalog, number: int, other: int, *, better: bool) -> tuple[str, str]:
    one, two = catalog.entries[number], catalog.entries[other]
    values = catalog.features.values
    if better:
        question, answer = "better regarded than", values[number, 1] > values[other, 1]
    else:
        question, answer = "like", bool(set(one.facts.genres) & set(two.facts.genres))
    return f'Is "{one.forms[0]}" {question} "{two.forms[0]}"?{prompts.RESPONSE_HEADER}', prompts.ANSWERS[
        int(not answer)
    ]


def _fame(votes: float) -> str:
    return "few votes" if votes < 100 else "some votes" if votes < 1000 else "many votes"

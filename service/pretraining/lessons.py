"""Training batches: what simulated people would answer, facts about items, and running text.

One lesson of people is a person's context followed by several questions. Every question sees the context and itself only (block
attention), so one reading of the history serves many answers, as it does in a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.data import prompts
from service.data.simulated import BOOK_TASTES, FILM_TASTES, FloatArray, ItemFeatures, Tastes, simulate_person
from service.pretraining.corpus import Entry
from service.pretraining.observer import expected_likes
from service.pretraining.vocabulary import END, PAD, Vocabulary, token_id
from service.records import Item, Opinion

NOUNS = ("movie", "book")
HISTORY = 10
_FULL_HISTORY = 0.7  # share of people who have one; the others have 1 to 9 opinions
_SPELLED = 0.15  # share of batches whose titles come in pieces, as unknown titles do
_OTHER_FORM = 0.3
_DESCRIBED = 0.75  # share of facts that describe one item; the others compare two
_AS_ITEM = 0.08  # share of people whose catalogue is called "item"


@dataclass(frozen=True, slots=True)
class PeopleBatch:
    """B people with Q questions each; T is the longest sequence."""

    ids: Tensor  # (B, T)
    positions: Tensor  # (B, T); every question starts where the context ended
    mask: Tensor  # (B, 1, T, T) bool, True where a row may look
    ends: Tensor  # (B, Q): the last token of each question
    expected: Tensor  # (B, Q): the ideal observer's P(like)


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Texts of which only marked tokens are to be predicted."""

    ids: Tensor  # (B, T)
    places: Tensor  # (M,): places in the flattened ids, before the tokens to predict
    wanted: Tensor  # (M,): those tokens


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The items of one noun, and how people differ about them."""

    entries: tuple[Entry, ...]
    features: ItemFeatures
    tastes: Tastes

    @classmethod
    def of(cls, noun: str, entries: Sequence[Entry]) -> Catalogue:
        own = tuple(entry for entry in entries if entry.noun == noun)
        tastes = FILM_TASTES if noun == "movie" else BOOK_TASTES
        return cls(own, ItemFeatures.of([entry.facts for entry in own]), tastes)


class Lessons:
    """Draws batches from one generator, so that a step's batches depend on the seed and the step alone."""

    def __init__(self, entries: Sequence[Entry], texts: Sequence[str], vocabulary: Vocabulary) -> None:
        self._catalogues = {noun: Catalogue.of(noun, entries) for noun in NOUNS}
        self._texts = texts
        self._tokenizer, self._spelling = vocabulary.tokenizer, vocabulary.spelling
        self._pad = token_id(self._tokenizer, PAD)

    def people(self, noun: str, count: int, questions: int, rng: np.random.Generator) -> PeopleBatch:
        """A batch of people who are asked about films, or about books."""
        drawn = [_person(self._catalogues[noun], questions, rng) for _ in range(count)]
        encode = self._spell if rng.random() < _SPELLED else self._encode
        encoded = iter(encode([text for person in drawn for text in (person.context, *person.questions)]))
        sequences = [_sequence(next(encoded), [next(encoded) for _ in p.questions], p.expected) for p in drawn]
        return _people_batch(sequences, self._pad)

    def facts(self, noun: str, count: int, rng: np.random.Generator) -> TextBatch:
        """Sentences about items; the tokens after the title are to be predicted."""
        told = [_fact(self._catalogues[noun], rng) for _ in range(count)]
        heads = self._encode([head for head, _ in told])
        tails = self._encode([tail for _, tail in told])
        return _text_batch(
            [head + tail for head, tail in zip(heads, tails, strict=True)], [len(head) for head in heads], self._pad
        )

    def texts(self, count: int, tokens: int, rng: np.random.Generator) -> TextBatch:
        """The beginnings of paragraphs; all tokens are to be predicted."""
        chosen = [self._texts[n] for n in rng.integers(0, len(self._texts), count)]
        rows = [row[:tokens] for row in self._encode([text[: 6 * tokens] + END for text in chosen])]
        return _text_batch(rows, [1] * count, self._pad)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [one.ids for one in self._tokenizer.backend_tokenizer.encode_batch(texts)]

    def _spell(self, texts: list[str]) -> list[list[int]]:
        return [one.ids for one in self._spelling.encode_batch(texts)]


@dataclass(frozen=True, slots=True)
class _Person:
    context: str
    questions: list[str]
    expected: FloatArray


@dataclass(frozen=True, slots=True)
class _Sequence:
    ids: list[int]
    positions: list[int]
    owners: list[int]  # 0 for the context, n for the n-th question
    ends: list[int]
    expected: FloatArray


def _person(catalogue: Catalogue, questions: int, rng: np.random.Generator) -> _Person:
    length = HISTORY if rng.random() < _FULL_HISTORY else int(rng.integers(1, HISTORY))
    met, liked = simulate_person(catalogue.features, catalogue.tastes, length + questions, rng)
    history, answers, targets = met[:length], liked[:length], met[length:]
    expected = expected_likes(catalogue.features, catalogue.tastes, history, answers, targets)
    noun = "item" if rng.random() < _AS_ITEM else catalogue.entries[0].noun
    form = rng.random() < _OTHER_FORM
    items = [_item(catalogue.entries[n], form, rng) for n in met]
    opinions = [Opinion(item, bool(yes)) for item, yes in zip(items[:length], answers, strict=True)]
    return _Person(
        context=prompts.context_text(opinions, noun),
        questions=[prompts.question_text(item, noun) for item in items[length:]],
        expected=expected,
    )


def _sequence(context: list[int], questions: list[list[int]], expected: FloatArray) -> _Sequence:
    ids, owners = list(context), [0] * len(context)
    positions, ends = list(range(len(context))), []
    for number, question in enumerate(questions, start=1):
        ids += question
        positions += range(len(context), len(context) + len(question))
        owners += [number] * len(question)
        ends.append(len(ids) - 1)
    return _Sequence(ids, positions, owners, ends, expected)


def _people_batch(sequences: Sequence[_Sequence], pad: int) -> PeopleBatch:
    width = max(len(sequence.ids) for sequence in sequences)
    owners = _padded([sequence.owners for sequence in sequences], width, -1)
    seen, by = owners[:, None, :], owners[:, :, None]
    causal = torch.ones((width, width), dtype=torch.bool).tril()
    return PeopleBatch(
        ids=_padded([sequence.ids for sequence in sequences], width, pad),
        positions=_padded([sequence.positions for sequence in sequences], width, 0),
        mask=(causal & ((seen == 0) | (seen == by)))[:, None],
        ends=torch.tensor([sequence.ends for sequence in sequences]),
        expected=torch.tensor(np.array([sequence.expected for sequence in sequences]), dtype=torch.float32),
    )


def _text_batch(rows: Sequence[list[int]], given: Sequence[int], pad: int) -> TextBatch:
    width = max(map(len, rows))
    marked = [(r * width + place - 1, row[place]) for r, row in enumerate(rows) for place in range(given[r], len(row))]
    places, wanted = torch.tensor(marked).T
    return TextBatch(_padded(rows, width, pad), places, wanted)


def _padded(rows: Sequence[list[int]], width: int, filler: int) -> Tensor:
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def _fact(catalogue: Catalogue, rng: np.random.Generator) -> tuple[str, str]:
    chance = np.sqrt(catalogue.features.popularity)  # lesser known items are told of more often than they are met
    number, other = rng.choice(len(chance), 2, p=chance / chance.sum())
    kind = rng.random()
    if kind < _DESCRIBED:
        return _described(catalogue.entries[number], rng)
    return _compared(catalogue, int(number), int(other), better=kind < (1.0 + _DESCRIBED) / 2.0)


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


def _compared(catalogue: Catalogue, number: int, other: int, *, better: bool) -> tuple[str, str]:
    one, two = catalogue.entries[number], catalogue.entries[other]
    values = catalogue.features.values
    if better:
        question, answer = "better regarded than", values[number, 1] > values[other, 1]
    else:
        question, answer = "like", bool(set(one.facts.genres) & set(two.facts.genres))
    return f'Is "{one.forms[0]}" {question} "{two.forms[0]}"?{prompts.RESPONSE_HEADER}', prompts.ANSWERS[
        int(not answer)
    ]


def _fame(votes: float) -> str:
    return "few votes" if votes < 100 else "some votes" if votes < 1000 else "many votes"

"""The bundled model's tokenizer: a Unigram model (Kudo 2018) whose pieces may be whole names, so that prompts are short.

A film's name, an author or the prompt's own wording is one token; every other word is made of learned pieces, and what no piece
covers of bytes. Because the choice is by likelihood, a name that is not known simply comes out in more tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from research.pretraining.corpus import Entry
from service.data import prompts

PAD, END, UNKNOWN = "<pad>", "<end>", "<unk>"
_SPECIAL = (PAD, END, UNKNOWN)
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_NOUNS = ("movie", "book", "item")
_WORDS = Regex(r" ?\w+| ?[^\w\s]+|\s")
_WHOLE = -5.0  # log-likelihood of a whole piece: above any two learned ones, so that the fewest tokens win
_ONE_WORD = -10.0  # of a name that is a common word: no better than a learned piece that holds the space before it
_NEVER = -1e4  # of a piece that is not to be chosen
_LEAST_NAME = 3  # characters
_FIRST_YEAR, _LAST_YEAR = 1900, 2025
_LEAST_BOOKS_OF_AN_AUTHOR = 4


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Two tokenizers of the same ids."""

    tokenizer: PreTrainedTokenizerFast
    spelling: Tokenizer  # never uses a whole name: how titles come out that the vocabulary does not know

    @classmethod
    def learn(cls, entries: Sequence[Entry], texts: Sequence[str], words: int, book_names: int) -> Vocabulary:
        """The wording, the names of all films and of the `book_names` best known books, authors, and `words` learned pieces.

        The library learns in parallel: in two runs the pieces' likelihoods may differ in the fourth digit.
        """
        names, wording = _names(entries, book_names), set(_wording())
        whole = dict.fromkeys((*_wording(), *_years(), *names))
        taken = {*_SPECIAL, *_BYTES, *whole}
        learned = [(piece, score) for piece, score in _learned(entries, texts, words) if piece not in taken]
        fixed = [(piece, _NEVER if piece != UNKNOWN else 0.0) for piece in (*_SPECIAL, *_BYTES)]
        scored = [(piece, _WHOLE if " " in piece or piece in wording else _ONE_WORD) for piece in whole]
        return cls._of([*fixed, *scored, *learned], names)

    @classmethod
    def load(cls, tokenizer: Path, entries: Sequence[Entry], book_names: int) -> Vocabulary:
        """The vocabulary that an earlier run learned from the same entries: its `tokenizer.json`."""
        pieces = [(piece, float(score)) for piece, score in _pieces(Tokenizer.from_file(str(tokenizer)))]
        return cls._of(pieces, _names(entries, book_names))

    @classmethod
    def _of(cls, pieces: Sequence[tuple[str, float]], names: Sequence[str]) -> Vocabulary:
        hidden = set(names) - set(_wording())
        return cls(
            tokenizer=PreTrainedTokenizerFast(
                tokenizer_object=_unigram(pieces), pad_token=PAD, eos_token=END, unk_token=UNKNOWN
            ),
            spelling=_unigram([(piece, _NEVER if piece in hidden else score) for piece, score in pieces]),
        )


def close_texts(tokenizer: PreTrainedTokenizerFast) -> None:
    """Have the tokenizer end what it encodes with its end token, as encoders expect."""
    closing = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, token_id(tokenizer, END))])
    tokenizer.backend_tokenizer.post_processor = closing


def token_id(tokenizer: PreTrainedTokenizerFast, piece: str) -> int:
    """The id of one piece."""
    found = tokenizer.convert_tokens_to_ids(piece)
    assert isinstance(found, int)
    return found


def _unigram(pieces: Sequence[tuple[str, float]]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram(list(pieces), unk_id=_SPECIAL.index(UNKNOWN), byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _wording() -> list[str]:
    """The pieces of prompts that never change, cut where titles begin and end."""
    pieces = [
        '"',
        '", "',
        ', "',
        '"?',
        ' "',
        ' ""',
        '"\n',
        ": ",
        ", ",
        " written by ",
        '" written by ',
        "\n",
        *prompts.ANSWERS,
    ]
    pieces += ["User Preference: ", "\nUser Unpreference: ", "\nUser Unpreference: \n", '"?' + prompts.RESPONSE_HEADER]
    pieces += ['User Preference: "', '"\nUser Unpreference: "', '\nUser Unpreference: "', prompts.RESPONSE_HEADER]
    pieces += [f", {article}" for article in ("The", "A", "An")] + ["The ", "A ", "An ", '"The ', '"A ']
    for item_type in _NOUNS:
        head = prompts.context_text((), item_type)
        pieces += [head[: head.index("User Preference")], prompts.invocation_text(item_type)]
    return [*pieces, " is about: ", "Public vote: "]


def _years() -> list[str]:
    return [f" ({year})" for year in range(_FIRST_YEAR, _LAST_YEAR)]


def _names(entries: Sequence[Entry], book_names: int) -> list[str]:
    films = [entry.name for entry in entries if entry.item_type == "movie"]
    known = sorted((e for e in entries if e.item_type == "book"), key=lambda e: (-e.facts.vote_count, e.name))
    books = list(dict.fromkeys(entry.name for entry in known))[:book_names]
    return [*(name for name in (*films, *books) if len(name) >= _LEAST_NAME), *_authors(entries)]


def _authors(entries: Sequence[Entry]) -> list[str]:
    written = Counter(entry.facts.author for entry in entries if entry.facts.author)
    return sorted(author for author, books in written.items() if books >= _LEAST_BOOKS_OF_AN_AUTHOR)


def _learned(entries: Sequence[Entry], texts: Sequence[str], words: int) -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(_WORDS, "isolated")
    trainer = trainers.UnigramTrainer(
        vocab_size=words, show_progress=False, unk_token=UNKNOWN, special_tokens=[UNKNOWN]
    )
    tokenizer.train_from_iterator(_lines(entries, texts), trainer)
    return [(piece, float(score)) for piece, score in _pieces(tokenizer) if piece != UNKNOWN]


def _pieces(tokenizer: Tokenizer) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = json.loads(tokenizer.to_str())["model"]["vocab"]
    return found


def _lines(entries: Sequence[Entry], texts: Sequence[str]) -> Iterable[str]:
    for entry in entries:
        facts = entry.facts
        yield from [f" {entry.forms[0]} {facts.author or ''}", entry.forms[0]]  # titles are what prompts hold
        yield " " + ", ".join((*facts.genres, *entry.keywords))
    yield from texts
    yield "Is better regarded than alike Is like is a directed by of 10 of 5"

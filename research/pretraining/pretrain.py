"""A corpus of public facts and simulated people -> the bundled base model, or one like it, with its tokenizer.

Every step's batches are drawn from the seed and the number of the step, so a run that was stopped goes on to the same end.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig

from research.pretraining.books import books
from research.pretraining.causal import CausalReader
from research.pretraining.corpus import Entry
from research.pretraining.encoder_decoder import EncoderDecoderReader
from research.pretraining.films import films
from research.pretraining.lessons import HISTORY, NOUNS, Lessons, PeopleLesson, TextLesson
from research.pretraining.reading import LessonReader
from research.pretraining.recipe import ModelType, Recipe, learning_rate_share
from research.pretraining.texts import paragraphs
from research.pretraining.vocabulary import Vocabulary, close_texts, token_id
from service.building.progress import Progress
from service.data import prompts
from service.errors import InvalidInput

CHECKPOINT = "checkpoint.pt"
LOG = "progress.jsonl"
_EXAMINED = 128  # people, and sentences
_EXAMINATION = 2**32  # beyond the number of any step
_PARAGRAPH_SHOWN = 400  # characters, to the tokenizer
_PARAGRAPHS_SKIPPED = 5
_BETAS = (0.9, 0.98)


READERS: dict[str, type[CausalReader] | type[EncoderDecoderReader]] = {
    ModelType.LLAMA: CausalReader,
    ModelType.T5: EncoderDecoderReader,
}


def pretrain(
    corpus: Path,
    out: Path,
    recipe: Recipe,
    device: str,
    progress: Progress,
    *,
    compiled: bool,
    start: Path | None = None,
) -> dict[str, float]:
    """Train from the model in `start` or from nothing; write model, tokenizer and recipe into `out`.

    A run that was stopped goes on from its checkpoint there.

    Returns: the losses at the end, on items that were taught and on items that never were: `people` in nats above the ideal
        observer's own entropy (none where the recipe's plan has no taste), `facts` in nats a token.

    Raises:
        FileNotFoundError: the corpus folder lacks one of its files.
        InvalidInput: the corpus is too small, or the model in `start` or the checkpoint in `out` is of another recipe.
    """
    if start is not None:
        _check_start(start, recipe)
    entries = [*films(corpus, recipe.least_votes), *books(corpus)]
    _check_held_out(entries, recipe)
    texts = paragraphs(corpus)
    out.mkdir(parents=True, exist_ok=True)
    if start is not None:
        shutil.copy(start / "tokenizer.json", out)
    vocabulary = _vocabulary(entries, texts, out / "tokenizer.json", recipe)
    if READERS[recipe.architecture].closes_texts:
        close_texts(vocabulary.tokenizer)
    vocabulary.tokenizer.save_pretrained(out)
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    taught, held_out = (
        [e for n, e in enumerate(entries) if bool(n % recipe.held_out_every) == kept] for kept in (True, False)
    )
    lessons = Lessons(taught, texts, vocabulary, recipe.plan)
    course = Course(recipe, vocabulary, lessons, out, device, compiled=compiled, start=start)
    course.run(progress)
    return {
        **{f"{name}_taught": value for name, value in course.examine(lessons).items()},
        **{
            f"{name}_held_out": value
            for name, value in course.examine(Lessons(held_out, texts, vocabulary, recipe.plan)).items()
        },
    }


def _check_start(start: Path, recipe: Recipe) -> None:
    found = AutoConfig.from_pretrained(start).model_type
    if found != recipe.architecture:
        raise InvalidInput(f"the model to go on from is a {found}, not a {recipe.architecture}")


def _check_held_out(entries: Sequence[Entry], recipe: Recipe) -> None:
    # Before an hour of training, not after it.
    needed = HISTORY + recipe.questions // 2
    for item_type in NOUNS:
        found = sum(entry.item_type == item_type for n, entry in enumerate(entries) if n % recipe.held_out_every == 0)
        if found < needed:
            raise InvalidInput(
                f"too small a corpus: it holds {found} {item_type}s to examine the model on, which needs {needed} of them, "
                f"one in {recipe.held_out_every} of all"
            )


def _vocabulary(entries: Sequence[Entry], texts: Sequence[str], saved: Path, recipe: Recipe) -> Vocabulary:
    if saved.exists():
        return Vocabulary.load(saved, entries, recipe.book_names)
    shown = [text[:_PARAGRAPH_SHOWN] for text in texts[::_PARAGRAPHS_SKIPPED]]  # words; titles matter more
    return Vocabulary.learn(entries, shown, recipe.learned_pieces, recipe.book_names)


class Course:
    """The model, its optimizer, and how far it is."""

    def __init__(
        self,
        recipe: Recipe,
        vocabulary: Vocabulary,
        lessons: Lessons,
        out: Path,
        device: str,
        *,
        compiled: bool,
        start: Path | None,
    ) -> None:
        self._recipe = recipe
        self._lessons = lessons
        self._out = out
        self._device = torch.device(device)
        torch.manual_seed(recipe.seed)
        self._reader: LessonReader = READERS[recipe.architecture](
            recipe, vocabulary.tokenizer, device, compiled=compiled
        )
        self.model = self._reader.model
        if start is not None:
            self.model.load_state_dict(type(self.model).from_pretrained(start, dtype=torch.float32).state_dict())
        self._head = self.model.get_output_embeddings()
        self._answers = [token_id(vocabulary.tokenizer, answer) for answer in prompts.ANSWERS]
        self._optimizer = torch.optim.AdamW(_decayed(self.model, recipe), lr=recipe.peak_learning_rate, betas=_BETAS)
        self._done = 0
        self._resume()

    def run(self, progress: Progress) -> None:
        """Take every step that is left, saving now and then."""
        progress.phase("pretraining", self._recipe.steps)
        progress.advance(self._done)
        while self._done < self._recipe.steps:
            losses = self._step()
            self._done += 1
            progress.advance(1)
            self._note(losses)
            if self._done % self._recipe.saved_every == 0 or self._done == self._recipe.steps:
                self._save()

    @torch.no_grad()
    def examine(self, lessons: Lessons) -> dict[str, float]:
        """The losses on lessons that no step has drawn: about people and films, people and books, and facts."""
        rng = np.random.default_rng((self._recipe.seed, _EXAMINATION))
        nouns = NOUNS if self._recipe.plan.taste else ()
        people = {n: lessons.people(n, _EXAMINED, self._recipe.questions // 2, rng) for n in nouns}
        facts = {n: lessons.facts(n, _EXAMINED, rng) for n in NOUNS}
        with self._precision():
            losses = {f"{n}_people": float(self._people_losses(lesson)["people"]) for n, lesson in people.items()}
            return losses | {f"{n}_facts": float(self._text_loss(lesson)) for n, lesson in facts.items()}

    def _step(self) -> dict[str, Tensor]:
        recipe, rng = self._recipe, np.random.default_rng((self._recipe.seed, self._done))
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.peak_learning_rate * learning_rate_share(self._done, recipe) * group["share"]
        books = self._done % recipe.books_every == recipe.books_every - 1
        item_type, part = ("book", 2) if books else ("movie", 1)
        asked = (recipe.people_per_step // part, recipe.questions // part)
        people = self._lessons.people(item_type, *asked, rng) if recipe.plan.taste else None
        facts = self._lessons.facts(item_type, recipe.facts_per_step, rng)
        texts = self._lessons.texts(recipe.texts_per_step, recipe.text_tokens, rng)
        with self._precision():
            losses = {"facts": self._text_loss(facts), "texts": self._text_loss(texts)}
            losses |= self._people_losses(people) if people else {}
        self._optimizer.zero_grad(set_to_none=True)
        torch.stack([loss * getattr(recipe, f"{name}_weight") for name, loss in losses.items()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        return losses

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._recipe.half_precision)

    def _people_losses(self, lesson: PeopleLesson) -> dict[str, Tensor]:
        asked = self._reader.at_answers(lesson)  # (B, Q, H)
        logits = functional.linear(asked, self._head.weight[self._answers]).float()
        expected = torch.from_numpy(lesson.expected).float().to(self._device)
        scores = logits[..., 0] - logits[..., 1]
        wrong = functional.binary_cross_entropy_with_logits(scores, expected)
        people = wrong - functional.binary_cross_entropy(expected, expected)
        return {"people": people, "choices": choices_loss(scores, expected, together=lesson.together)}

    def _text_loss(self, lesson: TextLesson) -> Tensor:
        hidden, wanted = self._reader.before_wanted(lesson)
        return functional.cross_entropy(self._head(hidden).float(), wanted)

    def _note(self, losses: dict[str, Tensor]) -> None:
        with (self._out / LOG).open("a", encoding="utf-8") as log:
            told = {name: round(float(loss.detach()), 5) for name, loss in losses.items()}
            log.write(json.dumps({"step": self._done, **told}) + "\n")

    def _save(self) -> None:
        state = {"recipe": asdict(self._recipe), "done": self._done, "model": self.model.state_dict()}
        torch.save({**state, "optimizer": self._optimizer.state_dict()}, self._out / f"{CHECKPOINT}.new")
        os.replace(self._out / f"{CHECKPOINT}.new", self._out / CHECKPOINT)
        # In 16 bits for the repository; every float16 is exactly a float32, so loading in float32 loses nothing more.
        half: Any = copy.deepcopy(self.model).cpu()
        half.to(torch.float16).save_pretrained(self._out)

    def _resume(self) -> None:
        path = self._out / CHECKPOINT
        if path.exists():
            state = torch.load(path, map_location=self._device, weights_only=True)
            if state["recipe"] != asdict(self._recipe):
                raise InvalidInput(f"{path.name} was made by another recipe; give an empty folder, or the same options")
            self.model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._done = state["done"]


def choices_loss(scores: Tensor, expected: Tensor, *, together: bool) -> Tensor:
    """How wrong `scores` (B, Q) are about what a person would choose before what, whatever the person's generosity.

    Where all were asked about the same items, what these are to everybody is taken out too, and only taste is left: of a
    single answer's loss it is so small a part that it would be learned last.
    """
    wrong = scores - torch.logit(expected, eps=1e-4)
    wrong = wrong - wrong.mean(dim=1, keepdim=True)
    if together:
        wrong = wrong - wrong.mean(dim=0, keepdim=True)
    return wrong.square().mean()


def _decayed(model: Any, recipe: Recipe) -> Sequence[dict[str, Any]]:
    # What a title means is learned from few sentences; decay would pull it back between them.
    titles = model.get_input_embeddings().weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not titles]
    scales = [p for p in model.parameters() if p.ndim != 2]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay, "share": 1.0},
        {"params": scales, "weight_decay": 0.0, "share": 1.0},
        {"params": [titles], "weight_decay": 0.0, "share": recipe.embeddings_rate},
    ]

"""A corpus of public facts and simulated people -> the bundled base model (Llama architecture) with its tokenizer.

Every step's batches are drawn from the seed and the number of the step, so a run that was stopped goes on to the same end.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from research.pretraining.books import books
from research.pretraining.corpus import Entry
from research.pretraining.films import films
from research.pretraining.lessons import (
    HISTORY,
    NOUNS,
    Lessons,
    PeopleBatch,
    Plan,
    TextBatch,
)
from research.pretraining.texts import paragraphs
from research.pretraining.vocabulary import Vocabulary, token_id
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


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the weights, beside the corpus and the machine."""

    seed: int = 20_261
    learned_pieces: int = 8000
    book_names: int = 5000
    least_votes: int = 100
    hidden_size: int = 256
    intermediate_size: int = 640
    layers: int = 4
    heads: int = 4
    steps: int = 3000
    people_per_step: int = 24
    questions: int = 16
    books_every: int = 4  # every n-th step asks about books, of half as many people half as many questions
    facts_per_step: int = 24
    texts_per_step: int = 1
    text_tokens: int = 96
    people_weight: float = 8.0
    facts_weight: float = 0.3
    texts_weight: float = 0.05
    peak_learning_rate: float = 2e-3
    embeddings_rate: float = 1.0  # of the rate of the others
    warmup_steps: int = 200
    weight_decay: float = 0.02
    held_out_every: int = 40  # every n-th item is never in a lesson
    saved_every: int = 250  # steps
    choices_weight: float = 0.0
    half_precision: bool = True  # bfloat16 where it is safe; slow on processors that only imitate it
    plan: Plan = field(default_factory=Plan)
    started_from: str = ""  # digest of the model whose weights were the first ones


def going_on(steps: int, seed: int, started_from: str) -> Recipe:
    """The second stage: what a model that knows the items learns about how people differ."""
    return replace(
        Recipe(),
        seed=seed,
        steps=steps,
        started_from=started_from,
        people_per_step=8,
        questions=32,
        books_every=6,
        facts_per_step=6,
        text_tokens=48,
        people_weight=4.0,
        choices_weight=2.0,
        peak_learning_rate=7e-4,
        embeddings_rate=0.3,
        warmup_steps=20,
        saved_every=50,
        half_precision=False,
        plan=Plan(longest_history=50, usual_histories=(10, 10, 30), usual=0.7, spelled=0.03, together=0.5, made_up=0.1),
    )


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of one step: people in nats above the observer's own entropy; facts and texts in nats a token."""

    people: Tensor
    choices: Tensor  # mean square of what is wrong with differences between a person's logits
    facts: Tensor
    texts: Tensor


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

    Returns: the losses at the end, on items that were taught and on items that never were (`Losses` names them).

    Raises:
        FileNotFoundError: the corpus folder lacks one of its files.
        InvalidInput: the corpus is too small, or `out` holds a checkpoint of another recipe.
    """
    entries = [*films(corpus, recipe.least_votes), *books(corpus)]
    _check_held_out(entries, recipe)
    texts = paragraphs(corpus)
    out.mkdir(parents=True, exist_ok=True)
    if start is not None:
        shutil.copy(start / "tokenizer.json", out)
    vocabulary = _vocabulary(entries, texts, out / "tokenizer.json", recipe)
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
        model: Any = LlamaForCausalLM(model_config(recipe, vocabulary.tokenizer))
        if start is not None:
            model.load_state_dict(LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict())
        self.model = model.to(self._device)
        # Compiled it is the same model at about twice the speed on a CPU.
        self._read = torch.compile(self.model.model, dynamic=True) if compiled else self.model.model
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
        people = {n: lessons.people(n, _EXAMINED, self._recipe.questions // 2, rng) for n in NOUNS}
        facts = {n: lessons.facts(n, _EXAMINED, rng) for n in NOUNS}
        with self._precision():
            losses = {f"{n}_people": float(self._people_losses(batch)[0]) for n, batch in people.items()}
            return losses | {f"{n}_facts": float(self._text_loss(batch)) for n, batch in facts.items()}

    def _step(self) -> Losses:
        recipe, rng = self._recipe, np.random.default_rng((self._recipe.seed, self._done))
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.peak_learning_rate * learning_rate_share(self._done, recipe) * group["share"]
        books = self._done % recipe.books_every == recipe.books_every - 1
        item_type, part = ("book", 2) if books else ("movie", 1)
        people = self._lessons.people(item_type, recipe.people_per_step // part, recipe.questions // part, rng)
        facts = self._lessons.facts(item_type, recipe.facts_per_step, rng)
        texts = self._lessons.texts(recipe.texts_per_step, recipe.text_tokens, rng)
        with self._precision():
            losses = Losses(*self._people_losses(people), self._text_loss(facts), self._text_loss(texts))
        self._optimizer.zero_grad(set_to_none=True)
        told = recipe.facts_weight * losses.facts + recipe.texts_weight * losses.texts
        (recipe.people_weight * losses.people + recipe.choices_weight * losses.choices + told).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        return losses

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._recipe.half_precision)

    def _people_losses(self, batch: PeopleBatch) -> tuple[Tensor, Tensor]:
        hidden = self._hidden(batch.ids, position_ids=batch.positions, attention_mask=batch.mask)
        ends = batch.ends.to(self._device)
        asked = hidden.gather(1, ends[:, :, None].expand(-1, -1, hidden.shape[-1]))  # (B, Q, H)
        logits = functional.linear(asked, self.model.lm_head.weight[self._answers]).float()
        expected = batch.expected.to(self._device)
        scores = logits[..., 0] - logits[..., 1]
        wrong = functional.binary_cross_entropy_with_logits(scores, expected)
        people = wrong - functional.binary_cross_entropy(expected, expected)
        return people, choices_loss(scores, expected, together=batch.together)

    def _text_loss(self, batch: TextBatch) -> Tensor:
        hidden = self._hidden(batch.ids).flatten(0, 1)[batch.places.to(self._device)]
        return functional.cross_entropy(self.model.lm_head(hidden).float(), batch.wanted.to(self._device))

    def _hidden(self, ids: Tensor, **given: Tensor) -> Tensor:
        on_device: Any = {name: tensor.to(self._device) for name, tensor in given.items()}
        found: Tensor = self._read(input_ids=ids.to(self._device), use_cache=False, **on_device).last_hidden_state
        return found

    def _note(self, losses: Losses) -> None:
        with (self._out / LOG).open("a", encoding="utf-8") as log:
            told = {name: round(float(getattr(losses, name).detach()), 5) for name in Losses.__slots__}
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


def model_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The architecture that a recipe names."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def learning_rate_share(step: int, recipe: Recipe) -> float:
    """Share of the peak rate at a step: linear warmup, then a cosine to 1/50."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * done))


def _decayed(model: LlamaForCausalLM, recipe: Recipe) -> Sequence[dict[str, Any]]:
    # What a title means is learned from few sentences; decay would pull it back between them.
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    scales = [p for name, p in model.named_parameters() if p.ndim != 2]
    titles = [p for name, p in model.named_parameters() if "embed" in name]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay, "share": 1.0},
        {"params": scales, "weight_decay": 0.0, "share": 1.0},
        {"params": titles, "weight_decay": 0.0, "share": recipe.embeddings_rate},
    ]

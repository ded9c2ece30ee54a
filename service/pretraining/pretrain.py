"""Public facts and simulated people -> the bundled base model (Llama architecture) with its tokenizer.

    python -m service.pretraining.pretrain CORPUS OUT

One training sequence is one simulated person's context followed by several questions. Every question sees the context and
itself only (block attention), so one reading of the history serves many answers. Beside it, plain facts about titles.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from service.data import prompts
from service.data.simulated import FilmFeatures, PublicFacts, simulate_person
from service.pretraining import corpus
from service.records import Item, Opinion

HISTORY = 10
QUESTIONS = 8
PAD, END = "<pad>", "<end>"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the weights, beside the corpus."""

    seed: int = 20240
    vocabulary: int = 6000
    hidden_size: int = 224
    intermediate_size: int = 576
    layers: int = 4
    heads: int = 7
    people_per_step: int = 24
    facts_per_step: int = 32
    steps: int = 800
    schedule_steps: int = 2400  # the cosine is laid out for this many
    peak_learning_rate: float = 1e-3
    warmup_steps: int = 150
    least_votes: int = 100


def train_tokenizer(films: list[PublicFacts], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over titles and the prompt's own words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(films), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def pretrain(corpus_dir: Path, out: Path, recipe: Recipe) -> None:
    """Train from nothing and write model, tokenizer and recipe to `out`."""
    films = corpus.films(corpus_dir, recipe.least_votes)
    tokenizer = train_tokenizer(films, recipe.vocabulary)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(_model_config(recipe, tokenizer))
    lessons = Lessons(films, tokenizer, recipe)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    for _ in _optimize(model, lessons, recipe):
        _save(model, out)
    (out / "recipe.json").write_text(json.dumps({**asdict(recipe), "films": len(films)}, indent=2) + "\n")


def _save(model: LlamaForCausalLM, out: Path) -> None:
    # In 16 bits for the repository; every float16 is exactly a float32, so loading in float32 loses nothing more.
    half: Any = copy.deepcopy(model)
    half.to(torch.float16).save_pretrained(out)


class Lessons:
    """Draws training batches: what simulated people would answer, and facts about titles."""

    def __init__(self, films: list[PublicFacts], tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
        self._films = films
        self._features = FilmFeatures.of(films)
        self._rng = np.random.default_rng(recipe.seed)
        self._recipe = recipe
        self.pad = int(tokenizer.encode(PAD)[0])
        self._tokenizer = tokenizer
        self.yes, self.no = (tokenizer.encode(answer)[0] for answer in prompts.ANSWERS)
        self._items = [
            [Item(str(n), title, film.year, film.genres) for title in (film.title, corpus.plain_title(film.title))]
            for n, film in enumerate(films)
        ]

    def people(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Token ids (B, T), positions (B, T), block mask (B, 1, T, T), answer places (B, Q) and answers (B, Q)."""
        sequences = [self._person() for _ in range(self._recipe.people_per_step)]
        width = max(len(ids) for ids, *_ in sequences)
        count = len(sequences)
        ids = torch.full((count, width), self.pad)
        positions = torch.zeros((count, width), dtype=torch.long)
        block = torch.full((count, width), -1)
        for row, (tokens, place, owner, _, _) in enumerate(sequences):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            positions[row, : len(tokens)] = torch.tensor(place)
            block[row, : len(tokens)] = torch.tensor(owner)
        ends = torch.tensor([end for *_, end, _ in sequences])
        answers = torch.tensor([answer for *_, answer in sequences])
        return ids, positions, _block_mask(block), ends, answers

    def facts(self) -> Tensor:
        """Token ids (B, T) of sentences about titles, padded with -100 labels in mind (pad = self.pad)."""
        chosen = self._rng.choice(len(self._films), self._recipe.facts_per_step, p=self._features.popularity)
        rows = [self._tokenizer.encode(self._fact(int(n))) for n in chosen]
        width = max(map(len, rows))
        return torch.tensor([row + [self.pad] * (width - len(row)) for row in rows])

    def _person(self) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
        # A history of 1 to 10 films: mostly full ones, as in the papers, but newcomers too.
        length = HISTORY if self._rng.random() < 0.8 else int(self._rng.integers(1, HISTORY))
        films, liked = simulate_person(self._features, length + QUESTIONS, self._rng)
        form = 0 if self._rng.random() < 0.75 else 1
        noun = "movie" if self._rng.random() < 0.9 else "item"
        history = [
            Opinion(self._items[n][form], bool(yes)) for n, yes in zip(films[:length], liked[:length], strict=True)
        ]
        tokens = self._tokenizer.encode(prompts.context_text(history, noun))
        place, owner = list(range(len(tokens))), [0] * len(tokens)
        start, ends = len(tokens), []
        for number, film in enumerate(films[length:], 1):
            question = self._tokenizer.encode(prompts.question_text(self._items[film][form], noun))
            tokens += question
            place += range(start, start + len(question))
            owner += [number] * len(question)
            ends.append(len(tokens) - 1)
        return tokens, place, owner, ends, [self.yes if yes else self.no for yes in liked[length:]]

    def _fact(self, number: int) -> str:
        film = self._films[number]
        item = self._items[number][int(self._rng.random() < 0.25)]
        return f"{prompts.item_text(item)}\nPublic vote: {film.vote_average:.0f} of 10{END}"


def _block_mask(block: Tensor) -> Tensor:
    # (B, T) owners -> additive (B, 1, T, T): causal, and a question (owner > 0) sees the context (0) and itself.
    width = block.shape[1]
    causal = torch.ones((width, width), dtype=torch.bool).tril()
    seen, by = block[:, None, :], block[:, :, None]
    allowed = causal & ((seen == 0) | (seen == by))
    return torch.zeros_like(allowed, dtype=torch.float32).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]


def _optimize(model: LlamaForCausalLM, lessons: Lessons, recipe: Recipe) -> Iterator[int]:
    # Yields the step number whenever the model is worth saving.
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_learning_rate, betas=(0.9, 0.98), weight_decay=0.02
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_share(step, recipe))
    shown = {"people": 0.0, "facts": 0.0}
    began = time.monotonic()
    for step in range(1, recipe.steps + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = {"people": _people_loss(model, lessons), "facts": _facts_loss(model, lessons)}
        optimizer.zero_grad(set_to_none=True)
        (losses["people"] + 0.3 * losses["facts"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        shown = {name: 0.98 * shown[name] + 0.02 * loss.item() for name, loss in losses.items()}
        if step % 100 == 0:
            debias = 1.0 - 0.98**step
            seen = "  ".join(f"{name} {value / debias:.4f}" for name, value in shown.items())
            print(f"step {step}/{recipe.steps}  {seen}  {time.monotonic() - began:.0f} s", flush=True)
        if step % 400 == 0 or step == recipe.steps:
            yield step


def _people_loss(model: LlamaForCausalLM, lessons: Lessons) -> Tensor:
    ids, positions, mask, ends, answers = lessons.people()
    hidden = model.model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state
    asked = hidden.gather(1, ends[:, :, None].expand(-1, -1, hidden.shape[-1]))  # (B, Q, H)
    return functional.cross_entropy(model.lm_head(asked).float().flatten(0, 1), answers.flatten())


def _facts_loss(model: LlamaForCausalLM, lessons: Lessons) -> Tensor:
    ids = lessons.facts()
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=lessons.pad)


def _learning_rate_share(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.schedule_steps - recipe.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * done))


def _model_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
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


def _tokenizer_texts(films: list[PublicFacts]) -> list[str]:
    texts = []
    for number, film in enumerate(films):
        item = Item(str(number), film.title, film.year, film.genres)
        history = [Opinion(item, True), Opinion(Item("", corpus.plain_title(film.title)), False)]
        # Popular titles deserve short codes: they are what prompts will hold.
        texts += [prompts.history_text(history)] * (1 + int(film.vote_count > 100) + 2 * int(film.vote_count > 1000))
        if number % 10 == 0:
            nouns = ("movie", "book", "item")
            texts += [prompts.context_text(history, noun) + prompts.question_text(item, noun) for noun in nouns]
        texts.append(prompts.item_text(item) + f"\nPublic vote: {film.vote_average:.0f} of 10")
    return [*texts, *prompts.ANSWERS]


def main() -> None:
    """Read the arguments and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder with the public data (see docs/base-model.md)")
    parser.add_argument("out", type=Path, help="folder for the model")
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    arguments = parser.parse_args()
    pretrain(arguments.corpus, arguments.out, Recipe(steps=arguments.steps))


if __name__ == "__main__":
    main()

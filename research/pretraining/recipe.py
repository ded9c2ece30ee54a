"""What decides a base model's weights, beside the corpus and the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

from research.pretraining.lessons import Plan


class ModelType(StrEnum):
    """Architectures, as transformers names them."""

    LLAMA = "llama"
    T5 = "t5"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the weights, beside the corpus and the machine."""

    seed: int = 20_261
    learned_pieces: int = 8000
    book_names: int = 5000
    least_votes: int = 100
    architecture: str = ModelType.LLAMA.value  # plain, as checkpoints hold plain values only
    hidden_size: int = 256
    intermediate_size: int = 640
    layers: int = 4  # of a T5, in the encoder and again in the decoder
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


def untaught(taught: Recipe) -> Recipe:
    """Facts and running English alone, and more of them a step than beside lessons of people."""
    return replace(
        taught,
        facts_per_step=32,
        texts_per_step=3,
        facts_weight=1.0,
        texts_weight=0.5,
        plan=replace(taught.plan, taste=False),
    )


def going_on(first: Recipe, started_from: str) -> Recipe:
    """The second stage: what a model that knows the items learns about how people differ."""
    return replace(
        first,
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


def learning_rate_share(step: int, recipe: Recipe) -> float:
    """Share of the peak rate at a step: linear warmup, then a cosine to 1/50."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * done))

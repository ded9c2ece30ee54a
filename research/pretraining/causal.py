"""The bundled model's architecture (Llama), and how it reads lessons: in one row from left to right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from research.pretraining.lessons import PeopleLesson, TextLesson
from research.pretraining.reading import PackedQuestions, flat_places, padded
from research.pretraining.recipe import Recipe


class CausalReader:
    """A decoder-only model: context and questions, or title and fact, are one row."""

    closes_texts = False

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, device: str, *, compiled: bool) -> None:
        """Weights are drawn from torch's generator as it stands."""
        model: Any = LlamaForCausalLM(model_config(recipe, tokenizer))
        self.model = model.to(device)
        self._pad = model.config.pad_token_id
        # Compiled it is the same model at about twice the speed on a CPU.
        self._read = torch.compile(self.model.model, dynamic=True) if compiled else self.model.model

    def at_answers(self, lesson: PeopleLesson) -> Tensor:
        """(B, Q, H): the last hidden state at the last token of each question."""
        packed = PackedQuestions.of(lesson.contexts, lesson.questions, self._pad)
        return packed.at_ends(self._hidden(packed.ids, position_ids=packed.positions, attention_mask=packed.mask))

    def before_wanted(self, lesson: TextLesson) -> tuple[Tensor, Tensor]:
        """(M, H) and (M,); where nothing is given, the first token is."""
        rows = [[*given, *wanted] for given, wanted in zip(lesson.given, lesson.wanted, strict=True)]
        given = [max(1, len(tokens)) for tokens in lesson.given]
        ids = padded(rows, self._pad)
        places = flat_places(
            [n - 1 for n in given], [len(row) - n for row, n in zip(rows, given, strict=True)], ids.shape[1]
        )
        hidden = self._hidden(ids).flatten(0, 1)
        return hidden[places.to(hidden.device)], ids.flatten()[places + 1].to(hidden.device)

    def _hidden(self, ids: Tensor, **given: Tensor) -> Tensor:
        on_device: Any = {name: tensor.to(self.model.device) for name, tensor in given.items()}
        found: Tensor = self._read(input_ids=ids.to(self.model.device), use_cache=False, **on_device).last_hidden_state
        return found


def model_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The Llama that a recipe names."""
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

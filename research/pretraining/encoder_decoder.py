"""A T5 of about the bundled model's size, and how it reads lessons: as a request with activation `question` asks it.

The encoder reads what is given, closed by the end token; the decoder goes on behind the token that starts every answer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from research.pretraining.lessons import PeopleLesson, TextLesson
from research.pretraining.reading import PackedQuestions, flat_places, padded
from research.pretraining.recipe import Recipe

_INITIAL_SPREAD = 0.02  # of embeddings, as Llama's: from T5's 1.0 a title that is met ten times would hardly move


class EncoderDecoderReader:
    """A sequence-to-sequence model: contexts go to the encoder once, questions to the decoder."""

    closes_texts = True

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, device: str, *, compiled: bool) -> None:
        """Weights are drawn from torch's generator as it stands."""
        model: Any = T5ForConditionalGeneration(model_config(recipe, tokenizer))
        torch.nn.init.normal_(model.shared.weight, std=_INITIAL_SPREAD)
        self.model = model.to(device)
        self._pad, self._end = model.config.pad_token_id, model.config.eos_token_id
        self._start = model.config.decoder_start_token_id
        stacks = (self.model.get_encoder(), self.model.get_decoder())
        self._encoder, self._decoder = (torch.compile(s, dynamic=True) if compiled else s for s in stacks)

    def at_answers(self, lesson: PeopleLesson) -> Tensor:
        """(B, Q, H): the decoder's last hidden state at the last token of each question."""
        # Positions are relative in T5, so questions side by side in one row are read as if each were alone.
        opened = [[[self._start, *question] for question in asked] for asked in lesson.questions]
        packed = PackedQuestions.of([[]] * len(opened), opened, self._pad)
        return packed.at_ends(self._decoded(packed.ids, packed.mask, lesson.contexts))

    def before_wanted(self, lesson: TextLesson) -> tuple[Tensor, Tensor]:
        """(M, H) and (M,). Of running text the first half is given.

        Questions name their titles to the decoder, contexts to the encoder: so every other title is given to the decoder.
        """
        read, said, wanted = [], [], []
        for number, (given, rest) in enumerate(zip(lesson.given, lesson.wanted, strict=True)):
            head, tail = (given, rest) if given else (rest[: len(rest) // 2], rest[len(rest) // 2 :])
            in_decoder = bool(given) and number % 2 == 1
            read.append([] if in_decoder else head)
            said.append(head if in_decoder else [])
            wanted.append(tail)
        ids = padded([[self._start, *s, *w] for s, w in zip(said, wanted, strict=True)], self._pad)
        places = flat_places([len(s) for s in said], [len(w) for w in wanted], ids.shape[1])
        hidden = self._decoded(ids, None, read).flatten(0, 1)
        return hidden[places.to(hidden.device)], ids.flatten()[places + 1].to(hidden.device)

    def _decoded(self, ids: Tensor, mask: Tensor | None, read: list[list[int]]) -> Tensor:
        # The decoder is causal: no token sees the padding on its right.
        device = self.model.device
        rows = padded([[*text, self._end] for text in read], self._pad)
        lengths = torch.tensor([len(text) + 1 for text in read])
        seen = (torch.arange(rows.shape[1])[None] < lengths[:, None]).long().to(device)
        states = self._encoder(input_ids=rows.to(device), attention_mask=seen).last_hidden_state
        found: Tensor = self._decoder(
            input_ids=ids.to(device),
            attention_mask=None if mask is None else mask.to(device),
            encoder_hidden_states=states,
            encoder_attention_mask=seen,
            use_cache=False,
        ).last_hidden_state
        return found


def model_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> T5Config:
    """The T5 that a recipe names, with equally many layers in encoder and decoder."""
    # Embeddings are tied all the same: transformers takes it to say that nothing is scaled before the output layer.
    beside: dict[str, Any] = {"tie_word_embeddings": False, "decoder_start_token_id": tokenizer.pad_token_id}
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=recipe.hidden_size,
        d_kv=recipe.hidden_size // recipe.heads,
        d_ff=recipe.intermediate_size,
        num_layers=recipe.layers,
        num_heads=recipe.heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **beside,
    )

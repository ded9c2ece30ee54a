"""Encoder–decoder models (T5, Flan-T5, BART): the encoder reads, and the decoder answers in one step.

After a context that was read before, the question goes to the decoder, behind the token that starts every answer: the encoder's
last layer stands once for all questions about one context, and depends on no adapter, as these are in the decoder then. A
whole prompt goes through the encoder, and to the decoder goes that first token alone.

Rows are padded and masked. Texts of one run share their context's states as one row that stands for all, so what is computed of
one request has nothing of another in it; texts that are alone in their runs are rows of one pass.

Shapes: B rows, T context tokens, H hidden size, R runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.errors import ModelUnsuitable
from service.llm.architecture import AnswerHead, PaddedPrefixes, Pass, at_last_token, chunks_of_rows, padded
from service.llm.packed import FORWARD_TOKENS, Prefix, PrefixGrid, Runs
from service.llm.spec import Answers
from service.records import Activation


class EncoderDecoder:
    """A sequence-to-sequence language model. A text stands where the mean of its tokens does, in the encoder's last layer."""

    task_type = "SEQ_2_SEQ_LM"
    packs = False

    def __init__(self, model: PreTrainedModel, device: torch.device, answers: Answers) -> None:
        """Raises ModelUnsuitable if the model does not say which token starts an answer, or has no plain output layer."""
        self._model: Any = model
        self._encoder: Any = model.get_encoder()
        self._decoder: Any = model.get_decoder()
        self._device = device
        self._closing = list(answers.closing)
        self._start = _start_token(model)
        self.head = _head_of(model, answers)

    @property
    def layers(self) -> int:
        config = self._model.config
        return int(getattr(config, "num_decoder_layers", None) or config.decoder_layers)

    def without_adapters(self, activation: Activation) -> str | None:
        """The encoder, where it is to read contexts once for all adapters."""
        if activation == "prompt":
            return None
        [name] = [name for name, module in self._model.named_modules() if module is self._encoder]
        return str(name)

    def library_logits(self, prompt: Sequence[int]) -> Tensor:
        """(vocabulary,) float32 of the decoder's first step after a whole prompt."""
        ids, _ = self._closed([prompt])
        start = torch.tensor([[self._start]], device=self._device)
        logits: Tensor = self._model(input_ids=ids, decoder_input_ids=start).logits[0, -1]
        return logits.float()

    # Reading

    def read_padded_prefixes(self, contexts: Sequence[Sequence[int]]) -> PaddedPrefixes:
        """Read B contexts in rows of one pass; no gradient."""
        with torch.no_grad():
            states, mask = self._encode(contexts)
        return PaddedPrefixes((states[:, None],), mask, _mean(states, mask))

    def read_prefixes(self, contexts: Sequence[Sequence[int]], embed: bool) -> list[Prefix]:
        """Read contexts once; no gradient. An embedding costs nothing here, but without `embed` there is none to keep."""
        read = []
        for chunk in chunks_of_rows([len(context) for context in contexts], FORWARD_TOKENS):
            read += self.read_padded_prefixes([contexts[number] for number in chunk]).prefixes()
        return read if embed else [Prefix(prefix.states, prefix.embedding[:0]) for prefix in read]

    def embed(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The mean of each text's tokens in the encoder's last layer, as unit length (B, H) float32."""
        return self.read_padded_prefixes(texts).embeddings

    # Answering

    def yes_no_logits(self, questions: Sequence[Sequence[int]], prefixes: PaddedPrefixes) -> Tensor:
        """(B,) float32; what is attached to the encoder has no part in it."""
        return self._decode(questions, prefixes.states[0][:, 0], prefixes.mask)

    def yes_no_logits_whole(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """(B,) float32; every token meets what is attached."""
        states, mask = self._encode(prompts)
        return self._decode([[]] * len(prompts), states, mask)

    def passes(self, texts: Sequence[Sequence[int]], runs: Sequence[int]) -> list[Pass]:
        """One run each, or runs of one text each as rows; at most `FORWARD_TOKENS` with the padding."""
        ends = list(accumulate(runs))
        found = []
        for several, numbers in groupby(range(len(runs)), key=lambda number: number if runs[number] > 1 else None):
            group = list(numbers)
            first = ends[group[0]] - runs[group[0]]
            for chunk in chunks_of_rows([len(text) for text in texts[first : ends[group[-1]]]], FORWARD_TOKENS):
                taken = slice(first + chunk.start, first + chunk.stop)
                if several is None:
                    owners = slice(group[0] + chunk.start, group[0] + chunk.stop)
                    found.append(Pass(taken, owners, (1,) * len(chunk)))
                else:
                    found.append(Pass(taken, slice(several, several + 1), (len(chunk),)))
        return found

    def spread(
        self, weights: Tensor, texts: Sequence[Sequence[int]], runs: Sequence[int]
    ) -> tuple[Tensor, Runs | None]:
        """Weights unchanged: a pass has one run, whose weights stand for every row, or as many rows as runs."""
        return weights, None

    def answer(self, texts: Sequence[Sequence[int]], runs: Sequence[int], prefixes: PrefixGrid) -> Tensor:
        """(B,) float32 of one pass, which `passes` has made."""
        if not prefixes.tokens:
            return self.yes_no_logits_whole(texts)
        states = prefixes.states[0][:, 0]  # (R, T, H)
        tokens = torch.tensor(prefixes.tokens)[:, None]
        return self._decode(texts, states, (torch.arange(states.shape[1])[None] < tokens).to(self._device))

    def _decode(self, questions: Iterable[Sequence[int]], states: Tensor, mask: Tensor) -> Tensor:
        """(B,) of questions after states (B, T, H) or, of one context for all of them, (1, T, H)."""
        # The decoder is causal, so that the padding on the right of a question is seen by no token of it.
        ids, own = padded([[self._start, *question] for question in questions], self._device)
        output = self._decoder(
            input_ids=ids,
            encoder_hidden_states=states,
            encoder_attention_mask=_mask_or_none(mask),
            use_cache=False,
        )
        return self.head.difference(at_last_token(output.last_hidden_state, own))

    def _encode(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids, mask = self._closed(texts)
        states: Tensor = self._encoder(input_ids=ids, attention_mask=_mask_or_none(mask)).last_hidden_state
        return states, mask

    def _closed(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        # An encoder has learned to read texts that are closed, as its tokenizer closes them.
        return padded([[*text, *self._closing] for text in texts], self._device)


def _mask_or_none(mask: Tensor) -> Tensor | None:
    return None if bool(mask.all()) else mask.long()


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    summed = states.float().masked_fill(~mask[..., None], 0.0).sum(dim=1)
    return torch.nn.functional.normalize(summed / mask.sum(dim=1, keepdim=True), dim=1)


def _start_token(model: PreTrainedModel) -> int:
    for config in (model.config, model.generation_config):
        start = getattr(config, "decoder_start_token_id", None)
        if start is not None:
            return int(start)
    raise ModelUnsuitable("the model's configuration names no decoder_start_token_id, with which every answer starts")


def _head_of(model: PreTrainedModel, answers: Answers) -> AnswerHead:
    """With what some models do around their output layer: T5 scales what comes in, BART adds to what comes out."""
    weight = AnswerHead.of(model, answers.yes, answers.no).weight
    if getattr(model.config, "scale_decoder_outputs", False):
        weight = weight * model.config.hidden_size**-0.5
    added: Any = getattr(model, "final_logits_bias", None)
    if added is None:
        return AnswerHead(weight)
    of_answers = added.flatten().float()
    return AnswerHead(weight, (of_answers[answers.yes] - of_answers[answers.no]).detach())

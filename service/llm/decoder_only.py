"""Causal language models: a prompt is one text, and a context is what its layers' keys and values hold of it.

There are two ways to read. One packed row (`read_prefixes`, `answer`) is what Lethe works with: no padding, and the keys of a
context stand once for all of its questions. Padded rows (`read_padded_prefixes`) and whole prompts are plain: they
read whole prompts, stand in where a model cannot be packed, and say what is right. Both give the same numbers, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from service.llm import packed
from service.llm.architecture import AnswerHead, PaddedPrefixes, Pass, at_last_token, padded
from service.llm.packed import EnoughRead, Packing, Prefix, PrefixGrid, Runs
from service.llm.spec import Answers
from service.llm.staging import sent
from service.records import Activation

_NO_PREFIX = PrefixGrid.of([])


class DecoderOnly:
    """A causal language model. Its last layer at a text's last token says where the text stands: it has read all of it."""

    task_type = "CAUSAL_LM"

    def __init__(self, model: PreTrainedModel, device: torch.device, answers: Answers) -> None:
        packed.install(model)
        self._model = model
        self._device = device
        self._answers = answers
        self.head = AnswerHead.of(model, answers.yes, answers.no)

    @property
    def layers(self) -> int:
        return int(self._model.config.get_text_config().num_hidden_layers)

    def without_adapters(self, activation: Activation) -> str | None:
        """Nothing: with activation `question` a context is read before any adapter is there."""
        return None

    def library_logits(self, prompt: Sequence[int]) -> Tensor:
        """(vocabulary,) float32 after a whole prompt."""
        ids, mask = self._padded([prompt])
        logits: Tensor = self._model(input_ids=ids, attention_mask=mask.long()).logits[0, -1]
        return logits.float()

    # Padded rows

    def read_padded_prefixes(self, contexts: Sequence[Sequence[int]]) -> PaddedPrefixes:
        """Read B contexts once; no gradient."""
        ids, mask = self._padded(contexts)
        cache = DynamicCache()
        with torch.no_grad():
            hidden = self._hidden(ids, mask, _positions_of(mask), cache)
        return PaddedPrefixes(_states_of(cache), mask, _of_last_token(hidden, mask))

    def yes_no_logits(self, questions: Sequence[Sequence[int]], prefixes: PaddedPrefixes) -> Tensor:
        """(B,) float32. Only the question's tokens run through the layers, so only they meet what is attached to them."""
        ids, mask = self._padded(questions)
        positions = prefixes.mask.sum(dim=1, keepdim=True) + _positions_of(mask)
        seen = torch.cat([prefixes.mask, mask], dim=1)
        cache = DynamicCache(list(zip(prefixes.states[::2], prefixes.states[1::2], strict=True)))
        return self.head.difference(at_last_token(self._hidden(ids, seen, positions, cache), mask))

    def yes_no_logits_whole(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """(B,) float32; every token meets what is attached."""
        ids, mask = self._padded(prompts)
        return self.head.difference(at_last_token(self._hidden(ids, mask, _positions_of(mask), None), mask))

    def embed(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The last layer at each text's last token, as unit length (B, H) float32."""
        ids, mask = self._padded(texts)
        with torch.no_grad():
            return _of_last_token(self._hidden(ids, mask, _positions_of(mask), None), mask)

    # The same in one packed row

    @cached_property
    def packs(self) -> bool:
        """Whether this architecture lets its attention be replaced, as two probes show; otherwise rows are padded."""
        probe = self._answers.probe
        head, tails = probe[:-2], [probe[-2:], probe[-1:]]
        with torch.no_grad():
            plain = self.yes_no_logits(tails, self.read_padded_prefixes([head]).rows(torch.zeros(2, dtype=torch.long)))
            try:
                ours = self._answer_packed(tails, [2], PrefixGrid.of(self._read_packed([head], embed=False)))
            except (RuntimeError, TypeError, IndexError, AttributeError):
                return False
        return packed.same(ours, plain, self._model.dtype)

    def read_prefixes(self, contexts: Sequence[Sequence[int]], embed: bool) -> list[Prefix]:
        """Read contexts once; no gradient. Without `embed` nothing is read beyond what an answer needs."""
        if self.packs:
            with torch.no_grad():
                return self._read_packed(contexts, embed)
        return self.read_padded_prefixes(contexts).prefixes()

    def passes(self, texts: Sequence[Sequence[int]], runs: Sequence[int]) -> list[Pass]:
        """One takes all of them."""
        return [Pass(slice(0, len(texts)), slice(0, len(runs)), tuple(runs))]

    def spread(
        self, weights: Tensor, texts: Sequence[Sequence[int]], runs: Sequence[int]
    ) -> tuple[Tensor, Runs | None]:
        """By runs of tokens in a packed row; by row where rows are padded."""
        if self.packs:
            return weights, token_runs(texts, runs, self._device)
        return weights.repeat_interleave(torch.tensor(runs), dim=0), None

    def answer(self, texts: Sequence[Sequence[int]], runs: Sequence[int], prefixes: PrefixGrid) -> Tensor:
        """(B,) float32: the texts of a run go on where its prefix ended; without any prefix every text stands alone."""
        if self.packs:
            return self._answer_packed(texts, runs, prefixes)
        if not prefixes.tokens:
            return self.yes_no_logits_whole(texts)
        owner = torch.repeat_interleave(torch.arange(len(runs)), torch.tensor(runs)).to(self._device)
        return self.yes_no_logits(texts, _padded_prefixes(prefixes).rows(owner))

    def _read_packed(self, contexts: Sequence[Sequence[int]], embed: bool) -> list[Prefix]:
        texts = Runs([len(context) for context in contexts], self._device)
        packing = Packing(texts, texts, _NO_PREFIX, recorded=[], layers=None if embed else self.layers)
        ends = list(accumulate(texts.lengths))
        embeddings = torch.empty(len(ends), 0, device=self._device)
        with suppress(EnoughRead):
            last = self._packed_last(contexts, _counted(contexts, [0] * len(contexts)), packing)
            embeddings = torch.nn.functional.normalize(last.float(), dim=1)
        recorded = [state for pair in packing.recorded or [] for state in pair]
        return [
            Prefix(tuple(state[:, end - length : end] for state in recorded), embedding)
            for end, length, embedding in zip(ends, texts.lengths, embeddings, strict=True)
        ]

    def _answer_packed(self, texts: Sequence[Sequence[int]], runs: Sequence[int], prefixes: PrefixGrid) -> Tensor:
        lengths = [len(text) for text in texts]
        packing = Packing(Runs(lengths, self._device), token_runs(texts, runs, self._device), prefixes)
        tokens = prefixes.tokens or [0] * len(runs)
        before = [count for count, texts_of_run in zip(tokens, runs, strict=True) for _ in range(texts_of_run)]
        return self.head.difference(self._packed_last(texts, _counted(texts, before), packing))

    def _packed_last(self, texts: Sequence[Sequence[int]], positions: list[int], packing: Packing) -> Tensor:
        """The last layer where each text ends, (B, H)."""
        tokens = torch.tensor([token for text in texts for token in text])
        last = torch.tensor(list(accumulate(map(len, texts)))) - 1
        ids, places, last = sent(self._device, tokens, torch.tensor(positions), last)
        return self._last_of(ids, places, last, packing)

    def answer_tensors(self, ids: Tensor, positions: Tensor, last: Tensor, packing: Packing) -> Tensor:
        """(B,) float32 at the places `last` (B,) of a packed row: ids and positions (N,)."""
        return self.head.difference(self._last_of(ids, positions, last, packing))

    def _last_of(self, ids: Tensor, places: Tensor, last: Tensor, packing: Packing) -> Tensor:
        with packed.packing(packing):
            output = self._model.base_model(
                input_ids=ids[None], attention_mask=self._no_mask, position_ids=places[None], use_cache=False
            )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden[last]

    @cached_property
    def _no_mask(self) -> Tensor | None:
        # A mask that is there already keeps transformers from looking at the positions for packed texts, for which the host
        # would wait for the device. What packs does not look at it; what does is found out by `packs`.
        return None if self._device.type == "cpu" else torch.zeros(1, 1, 1, 1, device=self._device)

    def _hidden(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache | None) -> Tensor:
        output = self._model.base_model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        return padded(rows, self._device)


def token_runs(texts: Sequence[Sequence[int]], runs: Sequence[int], device: torch.device) -> Runs:
    """The tokens of consecutive texts, divided as the texts are."""
    lengths = iter(map(len, texts))
    return Runs([sum(next(lengths) for _ in range(count)) for count in runs], device)


def _states_of(cache: DynamicCache) -> tuple[Tensor, ...]:
    layers: list[Any] = cache.layers
    return tuple(state for layer in layers for state in (layer.keys, layer.values))


def _positions_of(mask: Tensor) -> Tensor:
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _counted(texts: Sequence[Sequence[int]], before: Sequence[int]) -> list[int]:
    return [first + place for text, first in zip(texts, before, strict=True) for place in range(len(text))]


def _padded_prefixes(prefixes: PrefixGrid) -> PaddedPrefixes:
    keys = prefixes.states[0]
    mask = torch.arange(keys.shape[2])[None] < torch.tensor(prefixes.tokens)[:, None]
    nothing = keys.new_empty(len(mask), 0)  # no answer reads embeddings
    return PaddedPrefixes(prefixes.states, mask.to(keys.device), nothing)


def _of_last_token(hidden: Tensor, mask: Tensor) -> Tensor:
    return torch.nn.functional.normalize(at_last_token(hidden, mask).float(), dim=1)

"""The frozen model: load it, pin it, read contexts with it, take the Yes/No logit difference at the answer position.

It knows token ids and tensors. It does not know adapters: whatever is attached to its linear layers during a call takes
part. Shapes: B rows, T context tokens (right-padded), Q question tokens (right-padded), H hidden size.

There are two ways to read. One packed row (`read_prefixes`, `yes_no_logits_packed`) is what Lethe works with: no padding, and
a context's keys stand once for all of its questions. Padded rows (`read_contexts`, `yes_no_logits`, `yes_no_logits_whole`) are
plain: they read whole prompts, stand in where a model cannot be packed, and say what is right. Both give the same numbers, up
to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from service.errors import ModelUnsuitable
from service.llm import packed
from service.llm.attention import kernels_for
from service.llm.packed import EnoughRead, Packing, Prefix, PrefixGrid, Runs
from service.llm.spec import Answers, ModelSpec
from service.llm.staging import sent
from service.llm.tokenizer import PromptTokenizer, model_folder

POOLING = "last-token"  # how a text's embedding comes about: a part of every digest that depends on one
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HEAD_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the frozen model made of B contexts: keys and values of every layer, and one embedding a context."""

    keys_values: tuple[tuple[Tensor, Tensor], ...]  # per layer, each (B, heads, T, head_dim)
    mask: Tensor  # (B, T), True where a token is
    embeddings: Tensor  # (B, H) float32, unit length: where the context's last token stands

    def rows(self, index: Tensor) -> Contexts:
        """The contexts at `index` (R,), in that order; repetition is allowed."""
        taken = tuple((keys[index], values[index]) for keys, values in self.keys_values)
        return Contexts(taken, self.mask[index], self.embeddings[index])


_INHERITED: dict[ModelSpec, FrozenModel] = {}  # what this process was forked with, until somebody takes it


def load_for_children(spec: ModelSpec) -> None:
    """In a process that only starts others: load and check the model that each of these will find loaded, once.

    Raises:
        ModelUnsuitable: as `FrozenModel.load`.
    """
    # With the answers told: a tokenizer may have threads, which do not survive a fork.
    frozen = FrozenModel.load(replace(spec, answers=PromptTokenizer.load(spec).answers))
    _ = frozen.packs  # found out here, or every child would find it out
    _INHERITED[spec] = frozen


def _weights(spec: ModelSpec) -> Any:
    transformers.utils.logging.disable_progress_bar()
    # Each tensor goes straight to the device: a model never lies whole in the host's memory, nor twice on the device.
    straight: dict[str, Any] = {} if spec.device == "cpu" else {"device_map": {"": spec.device}}
    try:
        return AutoModelForCausalLM.from_pretrained(
            model_folder(spec), dtype=_DTYPES[spec.dtype], use_safetensors=True, trust_remote_code=False, **straight
        )
    except torch.OutOfMemoryError as error:
        raise ModelUnsuitable(
            f"model {spec.name!r} does not fit into the memory of {spec.device}; take a smaller one, or LETHE_DTYPE=bfloat16"
        ) from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelUnsuitable(
            f"model {spec.name!r} cannot be loaded as a causal language model from safetensors: {error}"
        ) from error


class FrozenModel:
    """A causal language model whose weights never change, with its encoder."""

    def __init__(self, spec: ModelSpec, model: PreTrainedModel, tokenizer: PromptTokenizer | None) -> None:
        """Without `tokenizer` the specification must tell the answers."""
        self.spec = spec
        self._tokenizer = tokenizer
        self.model = model.eval().requires_grad_(False)
        packed.install(model)
        self.device = torch.device(spec.device)
        self._answers = self.tokenizer.answers if spec.answers is None else spec.answers
        self._yes_minus_no = _head_difference(model, self._answers.yes, self._answers.no)
        self._check_head(self._answers)

    @property
    def tokenizer(self) -> PromptTokenizer:
        """Read from the model's files when it is first asked for, unless it was given."""
        if self._tokenizer is None:
            self._tokenizer = PromptTokenizer.load(self.spec)
        return self._tokenizer

    @property
    def attention(self) -> str:
        """In words, by what it attends."""
        config = self.model.config.get_text_config()
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return kernels_for(self.device, self.model.dtype, width).words if self.packs else "by the model's own way"

    @classmethod
    def load(cls, spec: ModelSpec) -> FrozenModel:
        """Load from a folder or the Hugging Face hub; only safetensors, no remote code.

        Raises:
            ModelUnsuitable: not found, no safetensors, no single-token Yes/No, or logits that two rows of the head
                cannot give.
        """
        inherited = _INHERITED.pop(replace(spec, answers=None), None)
        if inherited is not None and spec.answers in (None, inherited.spec.answers):
            return inherited
        # Before the weights: what is missing beside them can be told more clearly.
        tokenizer = PromptTokenizer.load(spec) if spec.answers is None else None
        return cls(spec, _weights(spec).to(spec.device), tokenizer)

    @property
    def layers(self) -> int:
        """How many decoder layers there are."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    # Forward passes

    def read_contexts(self, contexts: Sequence[Sequence[int]]) -> Contexts:
        """Read B contexts once; no gradient."""
        ids, mask = self._padded(contexts)
        cache = DynamicCache()
        with torch.no_grad():
            hidden = self._hidden(ids, mask, _positions_of(mask), cache)
        return Contexts(_keys_values_of(cache), mask, _of_last_token(hidden, mask))

    def yes_no_logits(self, questions: Sequence[Sequence[int]], contexts: Contexts) -> Tensor:
        """logit(Yes) − logit(No) after each question, (B,) float32, given its context's keys and values.

        Only the question's tokens run through the layers, so only they meet what is attached to them.
        """
        ids, mask = self._padded(questions)
        positions = contexts.mask.sum(dim=1, keepdim=True) + _positions_of(mask)
        seen = torch.cat([contexts.mask, mask], dim=1)
        hidden = self._hidden(ids, seen, positions, DynamicCache(contexts.keys_values))
        return self._difference(hidden, mask)

    def yes_no_logits_whole(self, prompts_ids: Sequence[Sequence[int]]) -> Tensor:
        """logit(Yes) − logit(No) after each whole prompt, (B,) float32; every token meets what is attached."""
        ids, mask = self._padded(prompts_ids)
        return self._difference(self._hidden(ids, mask, _positions_of(mask), None), mask)

    def embed(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The last layer at each text's last token, which has read all of it, as unit length (B, H) float32."""
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
            padded = self.yes_no_logits(tails, self.read_contexts([head]).rows(torch.zeros(2, dtype=torch.long)))
            try:
                ours = self._answer_packed(tails, [2], PrefixGrid.of(self._read_packed([head], embed=False)))
            except (RuntimeError, TypeError, IndexError, AttributeError):
                return False
        return packed.same(ours, padded, self.model.dtype)

    def read_prefixes(self, contexts: Sequence[Sequence[int]], embed: bool = True) -> list[Prefix]:
        """Read contexts once; no gradient. Without `embed` nothing is read beyond what an answer needs."""
        if not contexts:
            return []
        if self.packs:
            with torch.no_grad():
                return self._read_packed(contexts, embed)
        read = self.read_contexts(contexts)
        return [_prefix(read, row, len(context)) for row, context in enumerate(contexts)]

    def yes_no_logits_packed(
        self, texts: Sequence[Sequence[int]], runs: Sequence[int], prefixes: Sequence[Prefix] | PrefixGrid
    ) -> Tensor:
        """logit(Yes) − logit(No) after each text, (B,) float32.

        The texts come in runs: the first `runs[0]` of them go on where `prefixes[0]` ended, and so on. Without any prefix
        every text stands alone.
        """
        grid = prefixes if isinstance(prefixes, PrefixGrid) else PrefixGrid.of(prefixes)
        if self.packs:
            return self._answer_packed(texts, runs, grid)
        if not grid.tokens:
            return self.yes_no_logits_whole(texts)
        owner = torch.repeat_interleave(torch.arange(len(runs)), torch.tensor(runs)).to(self.device)
        return self.yes_no_logits(texts, _padded_contexts(grid).rows(owner))

    def _read_packed(self, contexts: Sequence[Sequence[int]], embed: bool) -> list[Prefix]:
        texts = Runs([len(context) for context in contexts], self.device)
        packing = Packing(texts, texts, PrefixGrid.of([]), recorded=[], layers=None if embed else self.layers)
        ends = list(accumulate(texts.lengths))
        embeddings = torch.empty(len(ends), 0, device=self.device)
        with suppress(EnoughRead):
            last = self._packed_last(contexts, _counted(contexts, [0] * len(contexts)), packing)
            embeddings = torch.nn.functional.normalize(last.float(), dim=1)
        recorded = packing.recorded or []
        return [
            Prefix(tuple((k[:, end - length : end], v[:, end - length : end]) for k, v in recorded), embedding)
            for end, length, embedding in zip(ends, texts.lengths, embeddings, strict=True)
        ]

    def _answer_packed(self, texts: Sequence[Sequence[int]], runs: Sequence[int], prefixes: PrefixGrid) -> Tensor:
        lengths = [len(text) for text in texts]
        packing = Packing(Runs(lengths, self.device), token_runs(texts, runs, self.device), prefixes)
        tokens = prefixes.tokens or [0] * len(runs)
        before = [count for count, texts_of_run in zip(tokens, runs, strict=True) for _ in range(texts_of_run)]
        return self._packed_last(texts, _counted(texts, before), packing).float() @ self._yes_minus_no

    def _packed_last(self, texts: Sequence[Sequence[int]], positions: list[int], packing: Packing) -> Tensor:
        """The last layer where each text ends, (B, H)."""
        tokens = torch.tensor([token for text in texts for token in text])
        last = torch.tensor(list(accumulate(map(len, texts)))) - 1
        ids, places, last = sent(self.device, tokens, torch.tensor(positions), last)
        return self._last_of(ids, places, last, packing)

    def answer_tensors(self, ids: Tensor, positions: Tensor, last: Tensor, packing: Packing) -> Tensor:
        """logit(Yes) − logit(No) (B,) float32 at the places `last` (B,) of a packed row: ids and positions (N,)."""
        return self._last_of(ids, positions, last, packing).float() @ self._yes_minus_no

    def _last_of(self, ids: Tensor, places: Tensor, last: Tensor, packing: Packing) -> Tensor:
        with packed.packing(packing):
            output = self.model.base_model(
                input_ids=ids[None], attention_mask=self._no_mask, position_ids=places[None], use_cache=False
            )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden[last]

    @cached_property
    def _no_mask(self) -> Tensor | None:
        # A mask that is there already keeps transformers from looking at the positions for packed texts, for which the host
        # would wait for the device. What packs does not look at it; what does is found out by `packs`.
        return None if self.device.type == "cpu" else torch.zeros(1, 1, 1, 1, device=self.device)

    def _hidden(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache | None) -> Tensor:
        output = self.model.base_model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _difference(self, hidden: Tensor, mask: Tensor) -> Tensor:
        last = mask.sum(dim=1) - 1
        answer = hidden[torch.arange(len(last), device=hidden.device), last]  # (B, H)
        return answer.float() @ self._yes_minus_no

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        # Right padding: with a causal mask no real token ever sees a pad, and no query row is empty.
        tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
        ids = pad_sequence(tensors, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
        return ids.to(self.device), mask.to(self.device)

    def _check_head(self, answers: Answers) -> None:
        ids, mask = self._padded([answers.probe])
        with torch.no_grad():
            logits = self.model(input_ids=ids, attention_mask=mask.long()).logits[0, -1].float()
            ours = float(self.yes_no_logits_whole([answers.probe])[0])
        theirs = float(logits[answers.yes] - logits[answers.no])
        # A soft cap barely shows where logits are small, as they may be after the probe.
        capped = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        if capped or abs(theirs - ours) > _HEAD_TOLERANCE[self.model.dtype] * (1.0 + abs(ours)):
            raise ModelUnsuitable(
                f"model {self.spec.name!r} transforms its logits after the output layer (soft-capping or scaling); "
                "Lethe reads two rows of the output layer only and would score it wrongly"
            )


def _head_difference(model: PreTrainedModel, yes: int, no: int) -> Tensor:
    head: Any = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise ModelUnsuitable(
            "the model has no plain output layer; Lethe needs one row of it for 'Yes' and one for 'No'"
        )
    difference: Tensor = (head.weight[yes].float() - head.weight[no].float()).detach()
    return difference


def _keys_values_of(cache: DynamicCache) -> tuple[tuple[Tensor, Tensor], ...]:
    layers: list[Any] = cache.layers
    return tuple((layer.keys, layer.values) for layer in layers)


def _positions_of(mask: Tensor) -> Tensor:
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def token_runs(texts: Sequence[Sequence[int]], runs: Sequence[int], device: torch.device) -> Runs:
    """The tokens of consecutive texts, divided as the texts are."""
    lengths = iter(map(len, texts))
    return Runs([sum(next(lengths) for _ in range(count)) for count in runs], device)


def _counted(texts: Sequence[Sequence[int]], before: Sequence[int]) -> list[int]:
    return [first + place for text, first in zip(texts, before, strict=True) for place in range(len(text))]


def _prefix(contexts: Contexts, row: int, tokens: int) -> Prefix:
    kept = tuple((keys[row, :, :tokens], values[row, :, :tokens]) for keys, values in contexts.keys_values)
    return Prefix(kept, contexts.embeddings[row])


def _padded_contexts(prefixes: PrefixGrid) -> Contexts:
    keys = prefixes.keys_values[0][0]
    mask = torch.arange(keys.shape[2])[None] < torch.tensor(prefixes.tokens)[:, None]
    nothing = keys.new_empty(len(mask), 0)  # no answer reads embeddings
    return Contexts(prefixes.keys_values, mask.to(keys.device), nothing)


def _of_last_token(hidden: Tensor, mask: Tensor) -> Tensor:
    last = mask.sum(dim=1) - 1
    return torch.nn.functional.normalize(hidden[torch.arange(len(last), device=hidden.device), last].float(), dim=1)

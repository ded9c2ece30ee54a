"""The frozen model: load it, pin it, read contexts with it, take the Yes/No logit difference at the answer position.

It knows token ids and tensors. It does not know adapters: whatever is attached to its linear layers during a call takes
part. What the two kinds of architecture do differently stands in `decoder_only` and `encoder_decoder`, behind one port.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from service.errors import ModelUnsuitable
from service.llm.architecture import Architecture, PaddedPrefixes, Pass
from service.llm.attention import kernels_for
from service.llm.decoder_only import DecoderOnly
from service.llm.encoder_decoder import EncoderDecoder
from service.llm.packed import Prefix, PrefixGrid
from service.llm.spec import Answers, ModelSpec
from service.llm.tokenizer import PromptTokenizer, model_folder

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HEAD_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}

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
    folder, kind = model_folder(spec), "a causal"
    try:
        loader: Any = AutoModelForCausalLM
        if AutoConfig.from_pretrained(folder, trust_remote_code=False).is_encoder_decoder:
            loader, kind = AutoModelForSeq2SeqLM, "a sequence-to-sequence"
        return loader.from_pretrained(
            folder, dtype=_DTYPES[spec.dtype], use_safetensors=True, trust_remote_code=False, **straight
        )
    except torch.OutOfMemoryError as error:
        raise ModelUnsuitable(
            f"model {spec.name!r} does not fit into the memory of {spec.device}; take a smaller one, or LETHE_DTYPE=bfloat16"
        ) from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelUnsuitable(
            f"model {spec.name!r} cannot be loaded as {kind} language model from safetensors: {error}"
        ) from error


class FrozenModel:
    """A language model whose weights never change, with its tokenizer."""

    def __init__(self, spec: ModelSpec, model: PreTrainedModel, tokenizer: PromptTokenizer | None) -> None:
        """Without `tokenizer` the specification must tell the answers."""
        self.spec = spec
        self._tokenizer = tokenizer
        self.model = model.eval().requires_grad_(False)
        self.device = torch.device(spec.device)
        answers = self.tokenizer.answers if spec.answers is None else spec.answers
        self.architecture = _architecture_of(model, self.device, answers)
        self._check_head(answers)

    @property
    def tokenizer(self) -> PromptTokenizer:
        """Read from the model's files when it is first asked for, unless it was given."""
        if self._tokenizer is None:
            self._tokenizer = PromptTokenizer.load(self.spec)
        return self._tokenizer

    @property
    def attention(self) -> str:
        """In words, by what it attends."""
        if not self.packs:
            return "by the model's own way"
        return kernels_for(self.device, self.model.dtype, self.head_width).words

    @property
    def head_width(self) -> int:
        """D: numbers of a key of one attention head."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)

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
        """How many layers there are where questions are answered: of an encoder–decoder model, in its decoder."""
        return self.architecture.layers

    @property
    def packs(self) -> bool:
        """Whether texts are read as one packed row of tokens, and not in rows."""
        return self.architecture.packs

    # In padded rows, which say what is right

    def read_padded_prefixes(self, contexts: Sequence[Sequence[int]]) -> PaddedPrefixes:
        """Read B contexts once; no gradient."""
        return self.architecture.read_padded_prefixes(contexts)

    def yes_no_logits(self, questions: Sequence[Sequence[int]], prefixes: PaddedPrefixes) -> Tensor:
        """logit(Yes) − logit(No) after each question, (B,) float32, given what was read of its context.

        Only the question's tokens run through the layers, so only they meet what is attached to them.
        """
        return self.architecture.yes_no_logits(questions, prefixes)

    def yes_no_logits_whole(self, prompts_ids: Sequence[Sequence[int]]) -> Tensor:
        """logit(Yes) − logit(No) after each whole prompt, (B,) float32; every token meets what is attached."""
        return self.architecture.yes_no_logits_whole(prompts_ids)

    def embed(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Where texts stand in the last layer that has read all of them: unit length (B, H) float32."""
        return self.architecture.embed(texts)

    # As fast as the architecture allows

    def read_prefixes(self, contexts: Sequence[Sequence[int]], embed: bool = True) -> list[Prefix]:
        """Read contexts once; no gradient. Without `embed` nothing is read beyond what an answer needs."""
        return self.architecture.read_prefixes(contexts, embed) if contexts else []

    def passes(self, texts: Sequence[Sequence[int]], runs: Sequence[int]) -> list[Pass]:
        """How texts in runs are divided among forward passes, for whoever has something to say to each of them."""
        return self.architecture.passes(texts, runs)

    def yes_no_logits_packed(
        self, texts: Sequence[Sequence[int]], runs: Sequence[int], prefixes: Sequence[Prefix] | PrefixGrid
    ) -> Tensor:
        """logit(Yes) − logit(No) after each text, (B,) float32.

        The texts come in runs: the first `runs[0]` of them go on where `prefixes[0]` ended, and so on. Without any prefix
        every text stands alone.
        """
        found = []
        for part in self.passes(texts, runs):
            if isinstance(prefixes, PrefixGrid):
                own = prefixes.rows(part.runs)
            else:
                own = PrefixGrid.of(prefixes[part.runs])
            found.append(self.architecture.answer(texts[part.texts], part.counts, own))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _check_head(self, answers: Answers) -> None:
        with torch.no_grad():
            logits = self.architecture.library_logits(answers.probe)
            ours = float(self.yes_no_logits_whole([answers.probe])[0])
        theirs = float(logits[answers.yes] - logits[answers.no])
        # A soft cap barely shows where logits are small, as they may be after the probe.
        capped = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        if capped or abs(theirs - ours) > _HEAD_TOLERANCE[self.model.dtype] * (1.0 + abs(ours)):
            raise ModelUnsuitable(
                f"model {self.spec.name!r} transforms its logits after the output layer (soft-capping or scaling); "
                "Lethe reads two rows of the output layer only and would score it wrongly"
            )


def _architecture_of(model: PreTrainedModel, device: torch.device, answers: Answers) -> Architecture:
    kind = EncoderDecoder if model.config.is_encoder_decoder else DecoderOnly
    return kind(model, device, answers)

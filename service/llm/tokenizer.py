"""Text -> token ids for one frozen model, its two answers, and the digest of its files. It loads no weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from service.data import prompts
from service.errors import ModelUnsuitable
from service.llm.spec import Answers, ModelSpec
from service.records import Item, RatedItem

_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "tokenizer.model", "*.jinja")
_PROBE = prompts.question_text(Item("", "Probe (2000)"), "item")
_UNKNOWN_POSITIONS = 2048


class PromptTokenizer:
    """The tokenizer of one frozen model, with the limits and the answers that its prompts need.

    `pooling` says how a text's embedding comes about: a part of every digest that depends on one.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, positions: int, digest: str, encoder_decoder: bool = False
    ) -> None:
        self.digest = digest
        self.pooling = "mean of the encoder" if encoder_decoder else "last-token"
        self._tokenizer = tokenizer
        self._encoder_decoder = encoder_decoder
        closing = self._closing() if encoder_decoder else ()
        self.positions = positions - len(closing)
        # A causal model goes on with the prompt; a decoder's answer begins a text of its own.
        before = "" if encoder_decoder else _PROBE
        self.yes, self.no = (_answer_token(tokenizer, before, answer) for answer in prompts.ANSWERS)
        self.answers = Answers(self.yes, self.no, tuple(self._encode(_PROBE, special=True)), closing)

    @classmethod
    def load(cls, spec: ModelSpec) -> PromptTokenizer:
        """Read tokenizer and configuration, and digest the model's files.

        Raises:
            ModelUnsuitable: not found, no safetensors, no usable tokenizer, or no single token for Yes and for No.
        """
        folder = model_folder(spec)
        if not any(folder.glob("*.safetensors")):
            raise ModelUnsuitable(f"model {spec.name!r} holds no .safetensors file; convert it with save_pretrained")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ModelUnsuitable(f"model {spec.name!r} has no usable tokenizer or configuration: {error}") from error
        return cls(tokenizer, _positions(config), digest_of_files(folder), config.is_encoder_decoder)

    def context(self, history: Sequence[RatedItem], item_type: str) -> list[int]:
        """Token ids of the context. The oldest opinions are left out where all of them would not fit the positions."""
        room = self.positions * 3 // 4
        for first in range(len(history)):
            ids = self._encode(prompts.context_text(history[first:], item_type), special=True)
            if len(ids) <= room:
                return ids
        return self._encode(prompts.context_text((), item_type), special=True)[:room]

    def question(self, target: Item, item_type: str) -> list[int]:
        """Token ids of the question. An overlong title is cut in its middle: invocation and answer stub stay."""
        ids = self._encode(prompts.question_text(target, item_type), special=False)
        room = self.positions // 4
        if len(ids) <= room:
            return ids
        tail = len(self._encode('"?' + prompts.RESPONSE_HEADER, special=False))
        return ids[: room - tail] + ids[-tail:]

    def contexts(self, histories: Sequence[Sequence[RatedItem]], item_type: str) -> list[list[int]]:
        """`context` of each, in half the time."""
        found = self._encode_all([prompts.context_text(history, item_type) for history in histories], special=True)
        room = self.positions * 3 // 4
        return [
            ids if len(ids) <= room else self.context(history, item_type)
            for history, ids in zip(histories, found, strict=True)
        ]

    def questions(self, targets: Sequence[Item], item_type: str) -> list[list[int]]:
        """`question` of each, in half the time."""
        found = self._encode_all([prompts.question_text(target, item_type) for target in targets], special=False)
        room = self.positions // 4
        return [
            ids if len(ids) <= room else self.question(target, item_type)
            for target, ids in zip(targets, found, strict=True)
        ]

    def item(self, item: Item) -> list[int]:
        """Token ids of an item's public facts."""
        return self._encode(prompts.item_text(item), special=True)[: self.positions]

    def invocation(self, item_type: str) -> list[int]:
        """Token ids that every question opens with: the invocation sequence of an activated LoRA.

        An encoder–decoder model has none: its adapters are where the question goes, and nothing else.

        Raises:
            ModelUnsuitable: the tokenizer melts the opening words into what follows them.
        """
        if self._encoder_decoder:
            return []
        ids = self._encode(prompts.invocation_text(item_type), special=False)
        if self.question(Item("", "Probe"), item_type)[: len(ids)] != ids:
            raise ModelUnsuitable("the tokenizer does not keep the question's opening words apart from the title")
        return ids

    # Texts hold what people typed: where it spells a special token it is text. `special` adds the tokenizer's own around it.

    def _encode(self, text: str, *, special: bool) -> list[int]:
        return self._opened(
            self._tokenizer.encode(text, add_special_tokens=special, split_special_tokens=True), special
        )

    def _encode_all(self, texts: list[str], *, special: bool) -> list[list[int]]:
        if not texts:
            return []
        found: Any = self._tokenizer(
            texts, add_special_tokens=special, split_special_tokens=True, return_attention_mask=False
        )
        return [self._opened(ids, special) for ids in found["input_ids"]]

    def _opened(self, ids: list[int], special: bool) -> list[int]:
        # Some tokenizers close a text with an end token, after which no model expects an answer.
        if special and ids and ids[-1] == self._tokenizer.eos_token_id:
            return ids[:-1]
        return ids

    def _closing(self) -> tuple[int, ...]:
        ids = self._tokenizer.encode(_PROBE, add_special_tokens=True)
        return tuple(ids[len(self._opened(ids, special=True)) :])


def model_folder(spec: ModelSpec) -> Path:
    """The folder of the model's files, fetched from the hub (or its cache) where the name is not a folder."""
    folder = Path(spec.name)
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(spec.name, revision=spec.revision, allow_patterns=list(_MODEL_FILES)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelUnsuitable(
            f"model {spec.name!r} is neither a folder nor a reachable Hugging Face hub id; "
            "give a folder made by save_pretrained, or a hub id such as 'Qwen/Qwen3-0.6B'"
        ) from error


def digest_of_files(folder: Path) -> str:
    """SHA-256 over the names and contents of the model's files, sorted by name (README and licenses do not count)."""
    total = hashlib.sha256()
    for path in sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            total.update(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n".encode())
    return total.hexdigest()


def _positions(config: PretrainedConfig) -> int:
    # A sliding window counts the padding inside a batch, so no prompt may be longer than the window.
    text = config.get_text_config()
    limits = (getattr(text, name, None) for name in ("max_position_embeddings", "sliding_window"))
    return min((int(limit) for limit in limits if limit), default=_UNKNOWN_POSITIONS)


def _answer_token(tokenizer: PreTrainedTokenizerBase, before: str, answer: str) -> int:
    stub = tokenizer.encode(before, add_special_tokens=False)
    answered = tokenizer.encode(before + answer, add_special_tokens=False)
    if len(answered) != len(stub) + 1 or answered[:-1] != stub or answered[-1] == tokenizer.unk_token_id:
        raise ModelUnsuitable(
            f"the tokenizer does not write the answer {answer!r} as a single token after the prompt; "
            "Lethe scores by the logits of 'Yes' and 'No' and needs one token for each"
        )
    return int(answered[-1])

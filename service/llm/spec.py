"""Which frozen model is meant, for whoever names it without loading a library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model is asked that meets token ids only: which token answers what, and a prompt to try it with."""

    yes: int
    no: int
    probe: tuple[int, ...]
    closing: tuple[int, ...] = ()  # what ends every text that an encoder reads


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Where the frozen model is and how it is computed: enough to load the same one in another process.

    A process that is told the answers loads the weights alone; a tokenizer takes longer to load than a small model.
    """

    name: str  # a folder or a hub id
    revision: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    answers: Answers | None = None

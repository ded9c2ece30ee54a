"""A larger base model slots in: built with, and answering, on the path that the bundled one takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from safetensors import safe_open

from service.entrypoints.commands.options import open_home
from service.entrypoints.serving import serving_app

from .conftest import TITLES, TRAINING_USERS, USERS, Installation, eventually

# Nearly all of the parameters are the table of words, as in Qwen's small models; it has more rows than the tokenizer has
# words. So the model is large to find, to load and to digest, and still quick to run.
QWEN = {
    "hidden_size": 640,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "dtype": "bfloat16",
}

SMALL = {
    "LETHE_SAMPLES_PER_USER": "2",
    "LETHE_MAX_SHARD_SIZE": "16",
    "LETHE_HISTORY_LENGTH": "2",
    "LETHE_EPOCHS": "1",
}


SIZES = [
    pytest.param({**QWEN, "hidden_size": 128, "vocab_size": 20_000}, 3_000_000, id="3M", marks=pytest.mark.thorough),
    pytest.param(QWEN, 100_000_000, id="100M", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("sizes", "parameters"), SIZES)
def test_a_larger_model_is_built_with_and_answers(
    installations: Callable[..., Installation], tiny_models: Callable[..., Path], sizes: dict[str, Any], parameters: int
) -> None:
    model = tiny_models("qwen3", **sizes)
    assert _parameters(model) >= parameters
    installation = installations(**SMALL)
    installation.import_people(USERS[:14])
    built = installation.report("build", "--model", str(model))
    assert built["trained"] == built["shards"] >= 2
    assert built["validation_rows"] > 0
    with _answering(installation, model) as client:
        asked = {"user_id": TRAINING_USERS[0], "candidates": TITLES[:6], "top_k": 6, "explain": True}
        answer = client.post("/recommend", json=asked).json()
    assert answer["generation"] == built["generation"]
    scores = [item["score"] for item in answer["items"]]
    assert len(set(scores)) == 6
    assert all(0 < score < 1 for score in scores)
    assert {len(item["weights"]) for item in answer["items"]} == {built["shards"]}


def _parameters(model: Path) -> int:
    with safe_open(model / "model.safetensors", "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.offset_keys())


@contextmanager
def _answering(installation: Installation, model: Path) -> Iterator[TestClient]:
    """The API of an installation that serves a model, without the seconds that a process of its own takes to start."""
    settings = {"model": str(model), "secret": installation.environment["LETHE_SECRET"], "threads": 1}
    application = serving_app(open_home(installation.home, settings), lambda: None, lambda: None)
    with TestClient(application, "http://127.0.0.1") as client:
        eventually(lambda: client.get("/readyz").status_code == 200, "the generation is loaded")
        yield client

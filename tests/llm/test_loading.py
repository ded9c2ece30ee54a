"""A model in several files goes to its device tensor by tensor: allocated on the way are the weights, and little more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from tests.conftest import tiny_tokenizer

# A processor by another name: whatever is not plainly `cpu` is loaded as a GPU is.
STRAIGHT = "cpu:0"
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module", params=["llama", "qwen3", "mistral"])
def sharded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bfloat16 model of one of the 7B models' architectures in at least four files."""
    tokenizer, folder = tiny_tokenizer(480), tmp_path_factory.mktemp("sharded")
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(request.param, **SIZES, **ids, vocab_size=len(tokenizer))
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="400KB")
    tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) >= 4
    return folder


def _spec(folder: Path, device: str) -> ModelSpec:
    plain = ModelSpec(str(folder), None, "bfloat16", device)
    # Told its answers, a process loads the weights alone.
    return ModelSpec(plain.name, None, plain.dtype, device, PromptTokenizer.load(plain).answers)


def _peak(load: Callable[[], FrozenModel]) -> tuple[FrozenModel, int]:
    """What was loaded, and how many bytes of torch's were allocated at most."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        made = load()
    now = peak = 0
    for event in sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return made, peak


def test_at_its_peak_loading_takes_a_tenth_more_than_the_weights(sharded: Path) -> None:
    spec = _spec(sharded, STRAIGHT)
    FrozenModel.load(spec)  # what torch and transformers make once is not the model's
    frozen, peak = _peak(lambda: FrozenModel.load(spec))
    weights = sum(parameter.nbytes for parameter in frozen.model.parameters())
    assert 0.9 * weights < peak <= 1.1 * weights


def test_what_is_loaded_straight_is_what_is_loaded_otherwise(sharded: Path) -> None:
    straight, plain = (FrozenModel.load(_spec(sharded, device)) for device in (STRAIGHT, "cpu"))
    ours, theirs = (dict(one.model.named_parameters()) for one in (straight, plain))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert straight.model.dtype == torch.bfloat16
    texts = [[5, 6, 7], [8, 9]]
    with torch.no_grad():
        assert torch.equal(straight.yes_no_logits_whole(texts), plain.yes_no_logits_whole(texts))


@pytest.mark.gpu
def test_on_a_gpu_loading_takes_a_tenth_more_than_the_weights(sharded: Path) -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    frozen = FrozenModel.load(_spec(sharded, "cuda:0"))
    weights = sum(parameter.nbytes for parameter in frozen.model.parameters())
    # What a pass makes on the way is small beside a 7B model, and not beside this one.
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * weights + 64 * 2**20

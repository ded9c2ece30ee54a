"""Models of stated shapes with random weights, made where they run, and what a pass through a model costs at least.

Arithmetic does not depend on what the weights are, so a random model is as slow as a trained one of its shape.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from research.benchmarks.interleaved import Floor
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, target_modules
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.records import BuildConfig
from service.routing.weights import keep_largest

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NEIGHBOR_ERROR_SPREAD = 0.02  # how far adapters' errors near a sample differ (standard deviation)
_TAU = 100.0
ADAPTERS_ANSWERING = BuildConfig().top_m


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides a model's arithmetic. `architecture` is a model type of transformers with gated MLPs."""

    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = True


SHAPES = {
    "tiny": Shape("llama", 2, 64, 128, 4, 4, 16, 24_000),
    "small": Shape("llama", 12, 768, 2_048, 12, 12, 64, 32_000),
    "qwen3-0.6b": Shape("qwen3", 28, 1_024, 3_072, 16, 8, 128, 151_936),
    "llama-7b": Shape("llama", 32, 4_096, 11_008, 32, 32, 128, 32_000, tied=False),
}


def random_model(shape: Shape, reads_with: Path, dtype: str, device: str, seed: int = 0) -> FrozenModel:
    """A model of `shape` with random weights on `device`; it reads with the tokenizer of the folder `reads_with`."""
    tokenizer = PromptTokenizer.load(ModelSpec(str(reads_with)))
    return FrozenModel(ModelSpec("random", None, dtype, device), _random_weights(shape, dtype, device, seed), tokenizer)


def save_random_model(frozen: FrozenModel, tokenizer: Path, folder: Path) -> ModelSpec:
    """Write a random model with the tokenizer of the folder `tokenizer`, for what loads its model from files."""
    transformers.utils.logging.disable_progress_bar()
    frozen.model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    return ModelSpec(str(folder), None, frozen.spec.dtype, frozen.spec.device)


def _random_weights(shape: Shape, dtype: str, device: str, seed: int) -> PreTrainedModel:
    config = AutoConfig.for_model(
        shape.architecture,
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=4_096,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    with torch.device(device):  # weights of a large model should not travel
        model: Any = AutoModelForCausalLM.from_config(config, dtype=_DTYPES[dtype])
    made: PreTrainedModel = model.to(device)
    return made


def only_load(spec: ModelSpec, report: Callable[[int], None]) -> None:
    """A task for a process pool that ends once the model is loaded: what every training task begins with."""
    FrozenModel.load(spec)
    report(1)


def twin(frozen: FrozenModel, *, sharing: bool = True) -> FrozenModel:
    """A twin of the model with modules of its own, to which something else may be attached.

    `sharing`: it shares the weights' memory, so nothing may write to them.
    """
    shared = {id(tensor): tensor for tensor in frozen.model.parameters()} if sharing else {}
    return FrozenModel(frozen.spec, copy.deepcopy(frozen.model, shared), frozen.tokenizer)


def random_stack(frozen: FrozenModel, targets: Sequence[str], rank: int, count: int, seed: int) -> AdapterStack:
    """K = `count` adapters that all matter: with alpha = 2 · rank, each moves a target's output by about a tenth of itself."""
    device = frozen.device
    random = torch.Generator(device).manual_seed(seed)
    made = {}
    for name, module in target_modules(frozen, targets):
        d_in, d_out = _widths(module)
        weight: Any = module.weight
        size = float(weight.float().std())
        options: Any = {"generator": random, "device": device, "dtype": frozen.model.dtype}
        a = torch.randn(count, rank, d_in, **options) / math.sqrt(d_in)
        b = torch.randn(d_out, count, rank, **options) * (0.05 * size * math.sqrt(d_in / rank))
        made[name] = (a, b.permute(1, 2, 0).contiguous())
    return AdapterStack(tuple(f"adapter-{k}" for k in range(count)), 2.0, made)


def one_of(stack: AdapterStack, k: int) -> AdapterStack:
    """The stack of adapter `k` alone."""
    modules = {name: (a[k : k + 1], b[k : k + 1]) for name, (a, b) in stack.modules.items()}
    return AdapterStack((stack.digests[k],), stack.scaling, modules)


def routed_weights(rows: int, count: int, seed: int) -> Tensor:
    """Weights (rows, K) as routing gives them, different in every row: softmax(−tau · error), eq. 8, of which m are kept.

    The errors are drawn with a spread of `_NEIGHBOR_ERROR_SPREAD`, so that some adapters count much more than others.
    """
    random = torch.Generator().manual_seed(seed)
    weights = torch.softmax(-_TAU * _NEIGHBOR_ERROR_SPREAD * torch.randn(rows, count, generator=random), dim=1)
    return torch.from_numpy(keep_largest(weights.numpy(), ADAPTERS_ANSWERING))


@dataclass(frozen=True, slots=True)
class Cost:
    """Least arithmetic of one model: 2 operations per weight and token, 4 · width per layer and pair of tokens in attention.

    Not counted: norms, softmax, rotations, embedding, the two rows of the output layer. All layers are counted for all tokens.
    """

    weights: int  # in linear layers, without the output layer
    attention: int  # layers · heads · head_dim
    adapted: int  # Σ (d_in + d_out) over the adapted layers

    @classmethod
    def of(cls, frozen: FrozenModel, targets: Sequence[str]) -> Self:
        config = frozen.model.config.get_text_config()
        head = frozen.model.get_output_embeddings()
        linear = [m for m in frozen.model.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            weights=sum(int(module.weight.numel()) for module in linear),
            attention=config.num_hidden_layers * config.num_attention_heads * head_dim,
            adapted=sum(sum(_widths(module)) for _, module in target_modules(frozen, targets)),
        )

    def read(self, tokens: int, seen: int = 0, rank: int = 0) -> Floor:
        """`tokens` tokens of one text, after `seen` tokens of it whose keys are there, under adapters of `rank` in all."""
        pairs = tokens * seen + tokens * (tokens + 1) / 2
        flops = 2.0 * self.weights * tokens + 4.0 * self.attention * pairs + 2.0 * self.adapted * rank * tokens
        return Floor(tokens, flops)

    def learn(self, tokens: int, seen: int = 0, rank: int = 0) -> Floor:
        """What a pass forward and back costs at least. Seen tokens need no gradient, frozen weights none of their own."""
        again = 4.0 * self.attention * tokens * (tokens + 1) / 2 + 2.0 * self.adapted * rank * tokens
        return Floor(tokens, 2 * self.read(tokens, seen, rank).flops + again)


def total(floors: Sequence[Floor]) -> Floor:
    """The floor of doing all of them."""
    return Floor(sum(floor.tokens for floor in floors), sum(floor.flops for floor in floors))


def times(count: float, floor: Floor) -> Floor:
    """The floor of doing it `count` times."""
    return Floor(count * floor.tokens, count * floor.flops)


def _widths(module: nn.Module) -> tuple[int, int]:
    weight: Any = module.weight
    d_out, d_in = weight.T.shape if isinstance(module, Conv1D) else weight.shape
    return int(d_in), int(d_out)

"""bf16 and int8 on a processor: python -m research.benchmarks.low_precision [--shape small|bundled] [--rounds N]

The frozen model alone, the same batch in turns: float32, bfloat16, int8 weights with bfloat16 activations (one scale for each
output channel), and int8 products with activations rounded as they come (torch's dynamic quantization, one scale for a whole
batch). Beside the speed stands what it costs: how far the last hidden states lie from those of float32, and how far a row read
alone lies from the same row in the batch, which Lethe promises are one.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from research.benchmarks.interleaved import (
    Contestant,
    Floor,
    Timing,
    race,
)
from research.benchmarks.models import SHAPES, Cost, random_model
from research.benchmarks.report import Section, text_of
from research.benchmarks.scoring import random_ids
from research.evaluation.quantized import levels_of
from service.config import BUNDLED_MODEL
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec

BASE = "float32"
BUNDLED = "bundled"


class Int8Weights(nn.Module):
    """A linear layer of int8 weights, without a bias, for bfloat16 activations."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        levels, scale = levels_of(linear.weight.detach())
        self._levels, self._scale = levels.to(torch.int8), scale[:, 0].to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch._weight_int8pack_mm(x.flatten(0, -2), self._levels, self._scale)
        z: Tensor = y.unflatten(0, x.shape[:-1])
        return z


def int8_weights(frozen: FrozenModel) -> Any:
    """The base of a bfloat16 model, its linear layers replaced."""
    base: Any = frozen.model.base_model
    for module in list(base.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Weights(child))
    return base


def int8_products(frozen: FrozenModel) -> Any:
    """The base of a float32 model, its linear layers computed in int8."""
    torch.backends.quantized.engine = "onednn"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated.*")  # torch's own successor is another library
        return torch.ao.quantization.quantize_dynamic(frozen.model.base_model, {nn.Linear}, dtype=torch.qint8)


def models(make: Callable[[str], FrozenModel]) -> dict[str, Any]:
    """Everything that is timed, by name."""
    return {
        BASE: make(BASE).model.base_model,
        "bfloat16": make("bfloat16").model.base_model,
        "int8 weights, bfloat16": int8_weights(make("bfloat16")),
        "int8 products": int8_products(make(BASE)),
    }


def hidden(base: Any, ids: Tensor) -> Tensor:
    """The last hidden states (B, T, H) float32."""
    with torch.no_grad():
        found: Tensor = base(input_ids=ids, use_cache=False).last_hidden_state
    return found.float()


def measure(make: Callable[[str], FrozenModel], rows: int, tokens: int, rounds: int) -> Section:
    """The table, for a batch of `rows` x `tokens`."""
    frozen, ways = make(BASE), models(make)
    ids = torch.tensor(random_ids(frozen, rows, tokens, seed=0))
    read = Cost.of(frozen, ("q_proj",)).read(tokens)
    floor = Floor(rows * read.tokens, rows * read.flops)
    timings = race([Contestant(name, partial(hidden, base, ids), rows, floor) for name, base in ways.items()], rounds)
    exact = hidden(ways[BASE], ids)
    table = tuple(_row(timing, timings[0], ways[timing.name], ids, exact) for timing in timings)
    return Section(f"{rows} x {tokens} tokens, no adapters", table)


def _row(timing: Timing, base: Timing, way: Any, ids: Tensor, exact: Tensor) -> dict[str, Any]:
    ratios, found = timing.ratios(base), hidden(way, ids)
    return {
        "contestant": timing.name,
        f"x {BASE}": median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "ms/sample": 1e3 * timing.median_seconds / timing.work,
        f"from {BASE}": _distance(found, exact),
        "alone from in batch": _distance(hidden(way, ids[:1])[0], found[0]),
    }


def _distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, race the ways and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m research.benchmarks.low_precision", description="bf16 and int8, beside float32"
    )
    parser.add_argument(
        "--shape", choices=[BUNDLED, *SHAPES], default="small", help="bundled: the model that Lethe brings"
    )
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)

    def make(dtype: str) -> FrozenModel:
        if given.shape == BUNDLED:
            return FrozenModel.load(ModelSpec(str(BUNDLED_MODEL), dtype=dtype))
        return random_model(SHAPES[given.shape], BUNDLED_MODEL, dtype, "cpu")

    torch.set_num_threads(1)
    print(text_of(measure(make, given.rows, given.tokens, given.rounds)))


if __name__ == "__main__":
    main()

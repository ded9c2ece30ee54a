"""The scoring benchmark on a tiny model: who takes part, that all give one answer, and what a pass must cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from research.benchmarks.models import (
    SHAPES,
    Cost,
    one_of,
    random_model,
    random_stack,
    routed_weights,
    twin,
)
from research.benchmarks.peers import PeftPeer, merged
from research.benchmarks.scoring import PeersDisagree, agree, random_ids
from service.config import BUNDLED_MODEL
from service.entrypoints.commands.main import app
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture

TARGETS = ("q_proj", "v_proj")
OPTIONS = [
    *("--shape", "tiny", "--rounds", "1", "--rows", "3", "--tokens", "12", "--context", "8", "--question", "4"),
    *("--candidates", "2,3", "--adapters", "2,3", "--rank", "2", "--threads", "1"),
]


@pytest.fixture(scope="module")
def frozen() -> FrozenModel:
    return random_model(SHAPES["tiny"], BUNDLED_MODEL, "float32", "cpu")


@pytest.fixture(scope="module")
def stack(frozen: FrozenModel) -> AdapterStack:
    return random_stack(frozen, TARGETS, 2, 3, seed=1)


def test_the_command_times_everybody_and_writes_json(tmp_path: Path) -> None:
    out = tmp_path / "scoring.json"
    done = CliRunner().invoke(app, ["bench", "scoring", *OPTIONS, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "Lethe, mixture of K = 3" in done.stdout
    blending, *requests, goals = json.loads(out.read_text())["sections"]
    assert [row["contestant"] for row in blending["rows"]] == [
        "frozen model, no adapters",
        "one LoRA, merged",
        "one LoRA, unmerged (PEFT)",
        "Lethe, mixture of K = 2",
        "Lethe, mixture of K = 3",
        "SISA, 2 passes (PEFT set_adapter)",
        "PEFT adapter_names, 2 passes",
        *(f"PEFT add_weighted_adapter per sample, {way}" for way in ("linear", "cat", "svd")),
    ]
    assert [[row["contestant"] for row in table["rows"]] for table in requests] == [
        ["prompt", "question", "question, context cached"]
    ] * 2
    # 3 candidates of 4 tokens after a context of 8: 36 tokens, or 8 + 12, or 12.
    floors = [row["floor tokens/candidate"] * 3 for row in requests[1]["rows"]]
    assert floors == pytest.approx([36, 20, 12])
    assert {row["met"] for row in goals["rows"]} <= {"yes", "no", "told"}


def test_a_wrong_option_is_refused_before_anything_runs() -> None:
    done = CliRunner().invoke(app, ["bench", "scoring", *OPTIONS, "--adapters", "4,many"])
    assert "--adapters" in str(done.exception)


def test_every_peer_blends_as_the_mixture_does_and_the_levels_differ(frozen: FrozenModel, stack: AdapterStack) -> None:
    mixture, peer = Mixture(twin(frozen), TARGETS), PeftPeer(frozen, stack, TARGETS)
    prompts = random_ids(frozen, 2, 9, seed=0)
    ids, weights = torch.tensor(prompts), routed_weights(2, 3, seed=0)
    ours = {level: mixture.yes_no_logits_whole(prompts, stack, weights, level) for level in ("ND", "D")}
    for way, level in (("cat", "ND"), ("svd", "ND"), ("linear", "D")):
        torch.testing.assert_close(peer.blended(ids, weights, way), ours[level], rtol=1e-3, atol=1e-4)
    assert (ours["ND"] - ours["D"]).abs().min() > 1e-3


def test_each_pass_of_each_peer_is_one_adapter_alone(frozen: FrozenModel, stack: AdapterStack) -> None:
    mixture, peer = Mixture(twin(frozen), TARGETS), PeftPeer(frozen, stack, TARGETS)
    prompts = random_ids(frozen, 4, 9, seed=0)
    alone = [mixture.yes_no_logits_whole(prompts, one_of(stack, k), torch.ones(4, 1), "ND") for k in range(3)]
    expected, ids = torch.stack(alone, dim=1), torch.tensor(prompts)
    torch.testing.assert_close(peer.passes(ids), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(peer.passes_by_name(ids), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        merged(frozen, stack, 1, TARGETS).yes_no_logits_whole(prompts), alone[1], rtol=1e-3, atol=1e-4
    )


def test_peers_leave_the_frozen_model_as_it_was(frozen: FrozenModel, stack: AdapterStack) -> None:
    prompts = random_ids(frozen, 2, 9, seed=0)
    before = frozen.yes_no_logits_whole(prompts)
    merged(frozen, stack, 0, TARGETS)
    PeftPeer(frozen, stack, TARGETS).one(torch.tensor(prompts), stack.digests[0])
    assert torch.equal(frozen.yes_no_logits_whole(prompts), before)
    ours, theirs = next(frozen.model.parameters()), next(twin(frozen).model.parameters())
    assert ours.data_ptr() == theirs.data_ptr()


def test_answers_that_differ_stop_the_benchmark(frozen: FrozenModel, stack: AdapterStack) -> None:
    mixture, prompts = Mixture(twin(frozen), TARGETS), random_ids(frozen, 2, 9, seed=0)
    answers = [mixture.yes_no_logits_whole(prompts, one_of(stack, k), torch.ones(2, 1), "ND") for k in range(2)]
    effect = (answers[0] - answers[1]).abs().mean()
    agree("the same", answers[0] + 1e-6, answers[0], effect, torch.float32)
    with pytest.raises(PeersDisagree, match="another adapter"):
        agree("another adapter", answers[1], answers[0], effect, torch.float32)
    with pytest.raises(PeersDisagree, match="nothing to see"):
        agree("nothing to see", answers[0], answers[0], torch.tensor(0.0), torch.float32)


def test_weights_are_different_in_every_row_and_sum_to_one() -> None:
    weights = routed_weights(8, 64, seed=0)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(8))
    assert len({tuple(row) for row in weights.tolist()}) == 8
    assert weights.max() > 5 / 64


def test_the_floor_is_what_torch_counts(frozen: FrozenModel) -> None:
    cost, tokens, counted = Cost.of(frozen, TARGETS), 32, twin(frozen)
    counted.model.set_attn_implementation("eager")  # the counter sees no product inside a fused attention
    ids = torch.tensor(random_ids(frozen, 1, tokens, seed=0))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        counted.model.base_model(input_ids=ids, use_cache=False)
    # Torch counts attention as if every token saw all others, and the floor only what is before it.
    seen_by_torch_only = 4 * cost.attention * (tokens * tokens - tokens * (tokens + 1) / 2)
    assert cost.read(tokens).flops == counter.get_total_flops() - seen_by_torch_only
    # Reading a text in two parts costs what reading it at once costs.
    parts = cost.read(20).flops + cost.read(12, seen=20).flops
    assert parts == pytest.approx(cost.read(tokens).flops)
    # Layers of 64 x 64: an adapter of rank 3 on two of them in each of two layers.
    assert cost.read(1, rank=3).flops - cost.read(1).flops == 2 * 3 * (64 + 64) * 2 * 2

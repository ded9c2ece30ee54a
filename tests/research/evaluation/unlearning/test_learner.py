"""The causal learner: packed reading is padded reading, adapters begin as nothing, and states come back bit by bit."""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pad_sequence

from research.evaluation.unlearning.learner import Part
from research.evaluation.unlearning.splits import Cut
from research.evaluation.unlearning.training import Labeled, Setting, fit, read_answers
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from tests.research.evaluation.unlearning.conftest import MortalLearner


def rows_of(learner: MortalLearner, cut: Cut) -> Labeled:
    samples = cut.lessons.train
    return Labeled(tuple(learner.encode(samples, "movie")), torch.tensor([sample.liked for sample in samples]))


def test_answers_are_those_of_the_model_read_plainly_and_new_adapters_change_nothing(
    learner: MortalLearner, tiny_spec: ModelSpec, cut: Cut
) -> None:
    prompts = rows_of(learner, cut).prompts[:6]
    frozen = FrozenModel.load(tiny_spec)
    ids = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
    mask = torch.tensor([[place < len(prompt) for place in range(ids.shape[1])] for prompt in prompts])
    with torch.no_grad():
        plain = frozen.model(input_ids=ids, attention_mask=mask.long()).logits
    last = plain[range(len(prompts)), [len(prompt) - 1 for prompt in prompts]]
    ours = read_answers(learner, prompts)
    assert torch.allclose(ours, last[:, [frozen.tokenizer.no, frozen.tokenizer.yes]], atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(learner.vocabulary(prompts), last, atol=1e-4)
    assert torch.allclose(ours[:, 1] - ours[:, 0], frozen.yes_no_logits_whole(prompts), atol=1e-4)


def test_a_part_trains_its_own_parameters_and_no_others(learner: MortalLearner, cut: Cut) -> None:
    rows, before = rows_of(learner, cut), learner.state()
    for part in Part:
        learner.restore(before)
        fit(learner, part, rows, Setting(0.01, 1), 8, 0)
        moved = {name for name, tensor in learner.state().items() if not torch.equal(tensor, before[name])}
        assert moved
        assert {"lora_" in name for name in moved} == {part is Part.LORA}
    counts = {part: sum(parameter.numel() for parameter in learner.parameters(part)) for part in Part}
    assert counts[Part.LORA] == 2 * (16 + 16) + 2 * (16 + 8)  # q_proj and v_proj, rank 2
    assert sum(counts.values()) == sum(tensor.numel() for tensor in before.values())


def test_a_restored_state_answers_bit_by_bit_and_training_repeats_itself(learner: MortalLearner, cut: Cut) -> None:
    rows, before = rows_of(learner, cut), learner.state()
    first = read_answers(learner, rows.prompts)
    found = []
    for _ in range(2):
        learner.restore(before)
        assert torch.equal(read_answers(learner, rows.prompts), first)
        fit(learner, Part.FULL, rows, Setting(0.01, 1), 8, 0)
        found.append(read_answers(learner, rows.prompts))
    assert torch.equal(*found)
    assert not torch.equal(found[0], first)


def test_rounding_moves_linear_layers_and_adapters_by_half_a_level_and_nothing_else(
    learner: MortalLearner, cut: Cut
) -> None:
    fit(learner, Part.LORA, rows_of(learner, cut), Setting(0.05, 1), 8, 0)
    state = learner.state()
    rounded = learner.rounded(state)
    moved = {name for name, tensor in rounded.items() if not torch.equal(tensor, state[name])}
    assert {name.split(".")[-2] for name in moved} >= {"default", "base_layer", "o_proj", "gate_proj"}
    assert not any("embed" in name or "norm" in name or "lm_head" in name for name in moved)
    for name in moved:
        half_a_level = state[name].abs().amax(dim=-1, keepdim=True) / 254
        assert bool(((rounded[name] - state[name]).abs() <= half_a_level * 1.001).all())
    assert rounded.keys() == state.keys()

"""No test sample is ever used for a choice, nor for training: they are not there, and changing them changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from research.evaluation.unlearning.compare import STREAMED, choose_all
from research.evaluation.unlearning.methods import METHODS, NAMES, Approximate
from research.evaluation.unlearning.splits import Cut
from research.evaluation.unlearning.trial import Trial
from tests.research.evaluation.unlearning.conftest import WANTED, NewRun

pytestmark = pytest.mark.thorough


class Untouchable(tuple[Any, ...]):
    """Test samples that fail whoever looks at them."""

    def __iter__(self) -> Any:
        raise AssertionError("somebody looks at the test samples")

    __len__ = __getitem__ = __contains__ = __eq__ = __hash__ = __iter__  # type: ignore[assignment]


def test_every_setting_is_chosen_and_every_model_trained_where_no_test_sample_can_be_read(
    new_run: NewRun, cut: Cut
) -> None:
    run = new_run(replace(WANTED, methods=NAMES), cut=replace(cut, test=Untouchable()))
    choose_all(run)
    trial = Trial(run.bench, 0, run.chooser.recipe)
    for name, method in METHODS.items():
        assert method.run(trial, run.chooser.setting(name)).states
    with pytest.raises(AssertionError, match="somebody looks"):
        list(run.measured())  # so the trap works


def test_other_test_labels_leave_every_choice_and_every_model_as_it_was(
    new_run: NewRun, cut: Cut, tmp_path: Path
) -> None:
    flipped = tuple(replace(sample, liked=not sample.liked) for sample in cut.test)
    runs = [new_run(cut=one, out=tmp_path / name) for one, name in ((cut, "a"), (replace(cut, test=flipped), "b"))]
    measured = [list(run.measured()) for run in runs]
    assert [one.setting for one in measured[0]] == [one.setting for one in measured[1]]
    assert [one.auc for one in measured[0]] != [one.auc for one in measured[1]]
    assert [one.jsd for one in measured[0]] == [one.jsd for one in measured[1]]
    models = [sorted((tmp_path / name / "models").iterdir()) for name in ("a", "b")]
    assert [path.name for path in models[0]] == [path.name for path in models[1]]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*models, strict=True))


def test_validation_labels_decide_and_a_choice_made_on_others_is_not_taken(new_run: NewRun, cut: Cut) -> None:
    flipped = tuple(replace(sample, liked=not sample.liked) for sample in cut.lessons.valid)
    first, other = new_run(), new_run(cut=replace(cut, lessons=replace(cut.lessons, valid=flipped)))
    assert first.chooser.recipe != other.chooser.recipe


def test_the_epochs_of_a_longer_run_begin_with_those_of_a_shorter_one(new_run: NewRun) -> None:
    """What lets one run of two epochs judge one epoch as well."""
    run = new_run()
    for name in STREAMED:
        method, setting = METHODS[name], run.chooser.setting(name)
        assert isinstance(method, Approximate)
        trial = Trial(run.bench, 0, run.chooser.recipe)
        seen: list[Any] = []

        def note(_epochs: int, seen: list[Any] = seen) -> None:
            seen.append(run.bench.learner.state())

        method.run(trial, replace(setting, epochs=2), note)
        [alone] = method.run(trial, replace(setting, epochs=1)).states
        assert len(seen) == 2
        # Up to rounding: kernels may add in another order from run to run.
        assert all(torch.allclose(alone[key], seen[0][key], rtol=1e-3, atol=1e-5) for key in alone)
        assert any(not torch.equal(alone[key], seen[1][key]) for key in alone)

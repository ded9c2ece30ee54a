"""The whole comparison: complete, resumable after any death, and never made of what does not belong to it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from research.evaluation.comparison.compare import compare
from research.evaluation.comparison.laboratory import Laboratory
from research.evaluation.comparison.methods import METHODS
from research.evaluation.comparison.results import Comparison
from research.evaluation.comparison.splits import Split
from service.building.progress import Silent
from service.errors import InvalidSetting
from service.llm.frozen import FrozenModel
from tests.research.evaluation.comparison.conftest import (
    CONFIG,
    TRAINING_SAMPLES,
    Observed,
    laboratory_with,
)

pytestmark = pytest.mark.thorough


class Bar:
    def __init__(self) -> None:
        self.phases: list[list[Any]] = []

    def phase(self, name: str, total: int) -> None:
        self.phases.append([name, total, 0])

    def advance(self, steps: int) -> None:
        self.phases[-1][2] += steps


def run(
    split: Split,
    laboratory: Laboratory,
    out: Path,
    methods: tuple[str, ...],
    seeds: tuple[int, ...] = (0,),
    studies: bool = False,
) -> Comparison:
    return compare(split, laboratory, methods, seeds, TRAINING_SAMPLES, out, Silent(), studies)


def without_seconds(found: Comparison) -> list[dict[str, Any]]:
    return [{key: v for key, v in asdict(one).items() if "seconds" not in key} for one in found.measured]


def test_every_method_under_every_seed_and_then_nothing_is_left_to_do(
    split: Split, laboratory: Laboratory, process_pool: Observed, tmp_path: Path
) -> None:
    bar = Bar()
    found = compare(split, laboratory, tuple(METHODS), (5, 6), TRAINING_SAMPLES, tmp_path, bar, True)
    assert [(one.seed, one.method) for one in found.measured] == [(seed, name) for seed in (5, 6) for name in METHODS]
    assert {point.seed for point in found.studies} == {5, 6}
    assert found.split == {"training": 32, "pool": 50, "validation": 12, "test": 24}
    assert [phase[1] for phase in bar.phases] == [phase[2] for phase in bar.phases] == [9, 20, 9, 20]
    for one in found.measured:
        assert (one.forget_user_seconds is None) == (one.forget_sample_seconds is None) == (one.seed == 6)
        assert (one.single_auc is None) == (one.method in ("like-share", "logistic"))
        assert 0 <= one.auc <= 1
        assert one.scoring_seconds_per_500 > 0
    assert len({one.auc for one in found.measured}) > len(METHODS)
    assert Comparison.from_json(json.loads(json.dumps(found.to_json()))) == found

    before = len(process_pool.ran)
    again = compare(split, laboratory, tuple(METHODS), (5, 6), TRAINING_SAMPLES, tmp_path, Silent(), True)
    assert len(process_pool.ran) == before
    assert again == replace(found, date=again.date)


def test_after_a_death_at_any_point_it_ends_as_if_nothing_had_happened(
    split: Split, frozen: FrozenModel, tmp_path: Path
) -> None:
    undisturbed = Observed()
    methods = ("sisa", "apa-nd")
    found = run(split, laboratory_with(frozen, undisturbed), tmp_path / "undisturbed", methods)
    for death in range(1, len(undisturbed.ran), 6):
        out, dying = tmp_path / str(death), Observed()
        dying.dies_at = death
        with pytest.raises(KeyboardInterrupt):
            run(split, laboratory_with(frozen, dying), out, methods)
        after = run(split, laboratory_with(frozen, Observed()), out, methods)
        assert without_seconds(after) == without_seconds(found)


def test_what_an_interrupted_training_left_does_not_make_the_next_one_look_fast(
    split: Split, frozen: FrozenModel, tmp_path: Path
) -> None:
    dying = Observed()
    dying.dies_at = 3  # SISA's fourth adapter
    with pytest.raises(KeyboardInterrupt):
        run(split, laboratory_with(frozen, dying), tmp_path, ("sisa",))
    after = Observed()
    run(split, laboratory_with(frozen, after), tmp_path, ("sisa",), (0,))
    assert len({task.recipe for task in after.trained()} & {task.recipe for task in dying.trained()}) == 3


def test_shared_adapters_are_trained_once_and_keep_the_seconds_of_their_making(
    split: Split, laboratory: Laboratory, process_pool: Observed, tmp_path: Path
) -> None:
    run(split, laboratory, tmp_path, ("apa-d",))
    trained = len(process_pool.trained())
    [d, nd] = run(split, laboratory, tmp_path, ("apa-d", "apa-nd")).measured
    assert len(process_pool.trained()) == trained
    assert nd.build_seconds == d.build_seconds > 0
    assert nd.forget_user_seconds == d.forget_user_seconds


def test_other_settings_of_routing_score_again_and_train_nothing(
    split: Split, frozen: FrozenModel, tmp_path: Path
) -> None:
    sharp = run(split, laboratory_with(frozen, Observed()), tmp_path, ("apa-nd",))
    process_pool = Observed()
    even = run(split, laboratory_with(frozen, process_pool, replace(CONFIG, tau=0.0)), tmp_path, ("apa-nd",))
    assert without_seconds(even) != without_seconds(sharp)
    assert process_pool.ran == []


@pytest.mark.parametrize(
    "changed", [{"learning_rate": 0.01}, {"lora_rank": 1}, {"epochs": 2}], ids=lambda changed: next(iter(changed))
)
def test_other_settings_of_training_train_again(
    changed: dict[str, Any], split: Split, frozen: FrozenModel, tmp_path: Path
) -> None:
    first, second = Observed(), Observed()
    run(split, laboratory_with(frozen, first), tmp_path, ("sisa",))
    run(split, laboratory_with(frozen, second, replace(CONFIG, **changed)), tmp_path, ("sisa",))
    assert len(second.trained()) == len(first.trained()) > 0


def test_another_test_set_is_scored_with_the_same_adapters(
    split: Split, laboratory: Laboratory, process_pool: Observed, tmp_path: Path
) -> None:
    [all_of_them] = run(split, laboratory, tmp_path, ("sisa",)).measured
    [fewer] = run(replace(split, test=split.test[:12]), laboratory, tmp_path, ("sisa",)).measured
    assert fewer.log_loss != all_of_them.log_loss


def test_processes_are_warm_before_anything_is_timed(
    split: Split, laboratory: Laboratory, process_pool: Observed, tmp_path: Path
) -> None:
    run(split, laboratory, tmp_path, ("sisa",), (0, 1))
    assert process_pool.warmed_up_after == [0]
    assert process_pool.ran


def test_a_validation_run_reads_and_scores_no_test_sample(split: Split, laboratory: Laboratory, tmp_path: Path) -> None:
    hidden = replace(split, test=Untouchable())
    found = run(hidden.validation_run(), laboratory, tmp_path, ("lethe", "like-share", "logistic"), studies=True)
    assert found.dataset == "tiny (validation)"
    assert found.split == {"training": 32, "pool": 50, "validation": 6, "test": 0, "scored validation": 6}
    assert found.is_validation_run


def _refuse(*_: object) -> Any:
    raise AssertionError("somebody looks at the test samples")


_LOOKS = ("__iter__", "__len__", "__getitem__", "__contains__", "__eq__", "__hash__")
Untouchable: type[tuple[Any, ...]] = type("Untouchable", (tuple,), dict.fromkeys(_LOOKS, _refuse))


def test_no_folder_of_results_names_a_person(split: Split, laboratory: Laboratory, tmp_path: Path) -> None:
    users = {sample.user_id.encode() for sample in (*split.train, *split.valid, *split.test)}
    found = run(split, laboratory, tmp_path, ("apa-nd", "lethe", "logistic"))
    contents = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"forgetting" in content for content in contents)
    assert [user for user in users if any(user in content for content in [*contents, repr(found).encode()])] == []


def test_an_unknown_method_is_refused_with_the_list_of_known_ones(
    split: Split, laboratory: Laboratory, tmp_path: Path
) -> None:
    with pytest.raises(InvalidSetting, match=r"'magic'.*retraining, sisa.*logistic"):
        run(split, laboratory, tmp_path, ("sisa", "magic"))

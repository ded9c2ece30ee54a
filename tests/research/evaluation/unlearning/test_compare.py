"""The whole comparison on a tiny model: every row, what must hold of it, resumption after any death, and the stream."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from research.evaluation.unlearning import report, tables
from research.evaluation.unlearning.compare import Run, Wanted, compare_unlearning
from research.evaluation.unlearning.methods import METHODS, NAMES
from research.evaluation.unlearning.results import UnlearningComparison
from research.evaluation.unlearning.splits import Cut
from research.evaluation.unlearning.trial import Trial
from service.errors import InvalidSetting
from service.llm.spec import ModelSpec
from tests.research.evaluation.unlearning.conftest import CONFIG, WANTED, MortalLearner, NewRun

pytestmark = pytest.mark.thorough


def found_by(run: Run) -> UnlearningComparison:
    return compare_unlearning(run, {"machine": "of a test"})


def without_seconds(found: UnlearningComparison) -> list[dict[str, Any]]:
    rows = [*(asdict(one) for one in found.measured), *(asdict(one) for one in found.stream)]
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]


@dataclass(frozen=True)
class Finished:
    """What a run found, and the folder that it left."""

    found: UnlearningComparison
    folder: Path


@pytest.fixture(scope="module")
def finished() -> list[Finished]:
    """The one run of all rows, which several tests look at."""
    return []


@pytest.fixture
def whole_run(new_run: NewRun, finished: list[Finished], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    if not finished:
        run = new_run(Wanted(NAMES, (0,), 2, 2, 1), out=tmp_path_factory.mktemp("everything"))
        finished.append(Finished(found_by(run), run.bench.folder))
    return finished[0]


@pytest.fixture
def whole(whole_run: Finished) -> UnlearningComparison:
    return whole_run.found


def test_every_row_is_measured(whole: UnlearningComparison) -> None:
    assert [one.method for one in whole.measured] == list(NAMES)
    for one in whole.measured:
        assert 0 <= one.auc <= 1
        assert 0 <= one.paper_seconds <= one.all_in_seconds
        assert (one.int8_auc is None) == (one.method == "lethe")


def test_every_seed_forgets_others_and_rounds_under_the_first_alone(new_run: NewRun) -> None:
    found = list(new_run(replace(WANTED, methods=("original", "neggrad"), seeds=(3, 4))).measured())
    assert [(one.seed, one.method, one.int8_auc is None) for one in found] == [
        (3, "original", False),
        (3, "neggrad", False),
        (4, "original", True),
        (4, "neggrad", True),
    ]
    assert found[0].jsd != found[2].jsd


def test_retrain_is_at_no_distance_from_itself_and_the_original_is(whole: UnlearningComparison) -> None:
    of = {one.method: one for one in whole.measured if one.seed == 0}
    assert (of["retrain"].jsd, of["retrain"].l2, of["retrain"].symmetric) == (0.0, 0.0, 0.0)
    assert of["retrain"].int8_jsd == 0.0
    assert of["original"].jsd > 0
    assert of["original"].relearning_steps == 0
    assert all(of[name].jsd > 0 for name in METHODS if name != "retrain")


def test_the_exact_row_is_compared_with_a_clean_build_and_is_the_same(whole: UnlearningComparison) -> None:
    exact = [one for one in whole.measured if one.method == "lethe"]
    assert [(one.jsd, one.l2, one.identical_to_clean_build) for one in exact] == [(0.0, 0.0, True)]
    streamed = [one for one in whole.stream if one.method == "lethe"]
    assert [one.identical_to_clean_build for one in streamed] == [None, True]
    assert [one.jsd for one in streamed] == [None, 0.0]


def test_teachers_are_paid_for_all_in_alone(whole: UnlearningComparison) -> None:
    of = {one.method: one for one in whole.measured if one.seed == 0}
    assert of["e2urec"].all_in_seconds > of["e2urec"].paper_seconds
    assert of["neggrad"].all_in_seconds == of["neggrad"].paper_seconds
    assert of["e2urec-without-fgt"].all_in_seconds == of["e2urec-without-fgt"].paper_seconds


def test_parameters_are_those_that_a_row_trains(whole: UnlearningComparison) -> None:
    of = {one.method: one for one in whole.measured if one.seed == 0}
    assert of["neggrad"].parameters == of["retrain"].parameters == of["sisa"].parameters // 4
    assert of["e2urec"].parameters == of["neggrad-lora"].parameters == 112
    assert {one.part for one in whole.measured if one.method.endswith("-lora")} == {"lora"}


def test_a_stream_is_measured_after_each_deletion_and_its_distance_where_it_was_asked_for(
    whole: UnlearningComparison,
) -> None:
    for name in ("e2urec", "neggrad"):
        own = [one for one in whole.stream if one.method == name]
        assert [one.deletions for one in own] == [1, 2]
        assert [one.jsd is not None for one in own] == [False, True]
        assert own[-1].jsd is not None
        assert own[-1].jsd > 0
        assert len({one.log_loss for one in own}) == 2
    assert [(one.deletions, one.jsd) for one in whole.stream if one.method == "retrain"] == [(2, 0.0)]


def test_results_go_through_json_and_tables_and_report_show_them(whole: UnlearningComparison) -> None:
    again = UnlearningComparison.from_json(json.loads(json.dumps(whole.to_json())))
    assert again == whole
    page = report.render(replace(whole, dataset="movielens-1m"), "lethe evaluate unlearning DIR")
    assert "lethe evaluate unlearning DIR" in page
    assert "0.7634" in page  # the paper's E2URec
    assert "the same bytes" in page
    assert page.count("<svg") == 4
    assert "0.7634" not in report.render(whole, "lethe evaluate unlearning DIR")
    for title, content in tables.all_of(whole).items():
        assert content.rows, title
        assert {len(row) for row in content.rows} == {len(content.columns)}


def test_e2urec_leaves_every_weight_of_the_original_as_it_was(new_run: NewRun) -> None:
    run = new_run()
    trial = Trial(run.bench, 0, run.chooser.recipe)
    original = trial.original().value
    [state] = METHODS["e2urec"].run(trial, run.chooser.setting("e2urec")).states
    moved = {name for name in state if not torch.equal(state[name], original[name])}
    assert moved
    assert all("lora_" in name for name in moved)


def test_a_run_that_died_anywhere_goes_on_where_it_stopped(
    new_run: NewRun, tiny_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wanted = replace(WANTED, methods=("retrain", "e2urec"), stream=1)
    undisturbed = MortalLearner(tiny_spec, CONFIG)
    expected = without_seconds(found_by(new_run(wanted, learner=undisturbed, out=tmp_path_factory.mktemp("whole"))))
    out = tmp_path_factory.mktemp("dying")
    for death in (5, 30):
        dying = MortalLearner(tiny_spec, CONFIG)
        dying.dies_at = death
        with pytest.raises(KeyboardInterrupt):
            found_by(new_run(wanted, learner=dying, out=out))
    last = MortalLearner(tiny_spec, CONFIG)
    assert without_seconds(found_by(new_run(wanted, learner=last, out=out))) == expected
    assert 0 < last.steps < undisturbed.steps
    idle = MortalLearner(tiny_spec, CONFIG)
    assert without_seconds(found_by(new_run(wanted, learner=idle, out=out))) == expected
    assert idle.steps == 0


def test_a_stream_keeps_one_model_of_each_method_on_disk(new_run: NewRun) -> None:
    run = new_run(replace(WANTED, methods=("e2urec",), stream=4))
    list(run.drifts())
    kept = list((run.bench.folder / "models").iterdir())
    # The original, the one retrained without all four, the last of the stream; and the augmented one of choosing.
    assert len(kept) == 4


def test_no_folder_of_results_names_a_person(whole_run: Finished, cut: Cut) -> None:
    users = {sample.user_id.encode() for sample in (*cut.lessons.train, *cut.lessons.valid, *cut.test)}
    contents = [path.read_bytes() for path in whole_run.folder.rglob("*") if path.is_file()]
    assert len(contents) > 20
    told = [*contents, repr(whole_run.found).encode()]
    assert [user for user in users if any(user in content for content in told)] == []


def test_what_cannot_be_measured_is_refused(new_run: NewRun) -> None:
    with pytest.raises(InvalidSetting, match=r"'magic'.*original, retrain.*lethe"):
        new_run(replace(WANTED, methods=("retrain", "magic")))
    with pytest.raises(InvalidSetting, match="leaves nobody"):
        new_run(replace(WANTED, stream=10))

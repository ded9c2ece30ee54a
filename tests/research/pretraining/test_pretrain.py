"""A run that was stopped goes on to the same end, and what it leaves is a model that Lethe serves."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import safetensors.numpy
import torch

from research.pretraining.lessons import NOUNS
from research.pretraining.pretrain import choices_loss, pretrain
from research.pretraining.recipe import ModelType, Recipe, untaught
from service.building.progress import Silent
from service.errors import InvalidInput
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer, digest_of_files
from service.records import Item, RatedItem

pytestmark = pytest.mark.thorough

TINY = Recipe(
    learned_pieces=300,
    book_names=10,
    hidden_size=16,
    intermediate_size=16,
    layers=1,
    heads=2,
    steps=6,
    people_per_step=4,
    questions=4,
    facts_per_step=4,
    text_tokens=12,
    warmup_steps=2,
    held_out_every=4,
)


class Interrupted(Exception):
    pass


class Impatient(Silent):
    """Stops the run after a number of steps."""

    def __init__(self, patience: int) -> None:
        self._left = patience

    def advance(self, steps: int) -> None:
        self._left -= steps
        if self._left <= 0:
            raise Interrupted


T5 = dataclasses.replace(TINY, architecture=ModelType.T5.value)
END_ID = 1


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("finished")
    return out, pretrain(corpus, out, TINY, "cpu", Silent(), compiled=False)


@pytest.mark.parametrize("recipe", [TINY, untaught(TINY), T5], ids=["bundled", "untaught", "t5"])
def test_a_stopped_run_goes_on_to_the_same_weights(corpus: Path, recipe: Recipe, tmp_path: Path) -> None:
    often = dataclasses.replace(recipe, saved_every=2)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    pretrain(corpus, straight, often, "cpu", Silent(), compiled=False)
    stopped.mkdir()
    shutil.copy(
        straight / "tokenizer.json", stopped
    )  # learned in parallel: the one thing that differs between two runs
    with pytest.raises(Interrupted):
        pretrain(corpus, stopped, often, "cpu", Impatient(5), compiled=False)
    assert json.loads((stopped / "progress.jsonl").read_text().splitlines()[-1])["step"] == 4
    pretrain(corpus, stopped, often, "cpu", Silent(), compiled=False)

    assert (stopped / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


def test_the_result_is_a_model_that_can_be_served(finished: tuple[Path, object]) -> None:
    out, _ = finished
    encoder = PromptTokenizer.load(ModelSpec(str(out)))
    weights = safetensors.numpy.load_file(out / "model.safetensors")

    assert encoder.invocation("movie")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"float16"}


@pytest.mark.parametrize("recipe", [untaught(TINY), T5, untaught(T5)], ids=["untaught", "t5", "untaught t5"])
def test_every_recipe_makes_a_model_that_answers(corpus: Path, recipe: Recipe, tmp_path: Path) -> None:
    pretrain(corpus, tmp_path, recipe, "cpu", Silent(), compiled=False)
    frozen = FrozenModel.load(ModelSpec(str(tmp_path)))
    contexts = frozen.tokenizer.contexts([[], [RatedItem(Item("", "The Film of B27 (1987)"), True)]], "movie")
    questions = frozen.tokenizer.questions([Item("", "Film of C2, The (1962)"), Item("", "What nobody knows")], "movie")

    apart = frozen.yes_no_logits(questions, frozen.read_padded_prefixes(contexts))
    whole = frozen.yes_no_logits_whole([c + q for c, q in zip(contexts, questions, strict=True)])
    closes = recipe.architecture == ModelType.T5
    assert frozen.tokenizer.answers.closing == ((END_ID,) if closes else ())
    assert apart.isfinite().all()
    assert whole.isfinite().all()


def test_an_untaught_model_has_met_nobody(corpus: Path, tmp_path: Path) -> None:
    report = pretrain(corpus, tmp_path, untaught(TINY), "cpu", Silent(), compiled=False)

    assert set(report) == {f"{noun}_facts_{when}" for noun in NOUNS for when in ("taught", "held_out")}
    log = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert all(set(step) == {"step", "facts", "texts"} for step in log)
    assert json.loads((tmp_path / "recipe.json").read_text())["plan"]["taste"] is False


def test_reports_what_was_never_taught_apart(finished: tuple[Path, dict[str, float]]) -> None:
    _, report = finished

    assert {name.rsplit("_", 2)[-1] for name in report} <= {"taught", "out"}
    assert report["movie_people_taught"] > 0.0
    assert report["movie_people_taught"] != report["movie_people_held_out"]


def test_another_recipe_is_refused(corpus: Path, finished: tuple[Path, object]) -> None:
    out, _ = finished
    with pytest.raises(InvalidInput, match="another recipe"):
        pretrain(corpus, out, dataclasses.replace(TINY, seed=1), "cpu", Silent(), compiled=False)


def test_a_second_stage_goes_on_from_the_weights_of_the_first(
    corpus: Path, finished: tuple[Path, object], tmp_path: Path
) -> None:
    first, _ = finished
    second = dataclasses.replace(
        TINY,
        steps=1,
        peak_learning_rate=0.0,
        choices_weight=2.0,
        half_precision=False,
        started_from=digest_of_files(first),
    )
    pretrain(corpus, tmp_path, second, "cpu", Silent(), compiled=False, start=first)

    assert (tmp_path / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "recipe.json").read_text())["started_from"] == digest_of_files(first)


def test_a_second_stage_keeps_to_the_architecture_of_the_first(
    corpus: Path, finished: tuple[Path, object], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="is a llama, not a t5"):
        pretrain(corpus, tmp_path, T5, "cpu", Silent(), compiled=False, start=finished[0])


def test_choices_are_wrong_by_what_is_wrong_between_a_persons_items() -> None:
    expected = torch.tensor([[0.5, 0.6, 0.9], [0.2, 0.3, 0.4]])
    right = torch.logit(expected)
    generous, better = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.5, -1.0, 2.0]])

    assert choices_loss(right + generous, expected, together=False) == pytest.approx(0.0, abs=1e-9)
    assert choices_loss(right + better, expected, together=False) > 0.1
    assert choices_loss(right + generous + better, expected, together=True) == pytest.approx(0.0, abs=1e-9)
    assert choices_loss(right * 0.5, expected, together=True) > 0.0


def test_an_incomplete_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pretrain(tmp_path, tmp_path / "out", TINY, "cpu", Silent(), compiled=False)


def test_a_corpus_too_small_to_examine_the_model_is_refused_at_once(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="too small"):
        pretrain(
            corpus, tmp_path / "out", dataclasses.replace(TINY, held_out_every=40), "cpu", Silent(), compiled=False
        )
    assert not (tmp_path / "out").exists()

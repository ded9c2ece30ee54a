"""The page: what is in it, what it never does, and that the same results give the same bytes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib as mpl
import pytest

from research.evaluation.comparison import tables
from research.evaluation.comparison.report import render
from research.evaluation.comparison.results import Comparison, Measured, StudyPoint

pytestmark = pytest.mark.thorough

COMMAND = "lethe evaluate compare --dataset movielens-100k DIR"
OWN_AUC = {"retraining": (0.75, 0.77), "apa-nd": (0.74, 0.75), "lethe": (0.765, 0.765), "like-share": (0.726, 0.726)}
STUDIES = {
    "partition": ("semantic", "random", "user", "bekm"),
    "weights": ("adaptive", "average", "best", "semantic"),
    "shard_size": ("512 D", "512 ND", "256 D", "256 ND", "128 D", "128 ND"),
    "routing": ("context", "prompt"),
    "inference_time": ("retraining", "sisa", "apa-d", "apa-nd"),
}


def _measured(method: str, seed: int, auc: float) -> Measured:
    trains = method != "like-share"
    return Measured(
        method=method,
        seed=seed,
        auc=auc,
        uauc=math.nan if method == "like-share" else 0.701,
        accuracy=0.69,
        log_loss=0.592,
        single_auc=auc - 0.01 if trains else None,
        shards=(1 if method == "retraining" else 4) if trains else None,
        build_seconds=60.0 if trains else 0.0,
        forget_user_seconds=48.0 if trains and seed == 0 else None,
        forget_user_shards=3 if trains and seed == 0 else None,
        forget_sample_seconds=(40.0 if method == "retraining" else 16.0) if trains and seed == 0 else None,
        forget_sample_shards=1 if trains and seed == 0 else None,
        scoring_seconds_per_500=1.5,
        trainable_parameters=131_072 if trains else 0,
    )


def _point(study: str, variant: str, seed: int) -> StudyPoint:
    timed = study == "inference_time"
    return StudyPoint(study, variant, seed, None if timed else 0.7412 + seed / 100, 2.5 if timed else None)


def _comparison(seeds: tuple[int, ...] = (0, 1), dataset: str = "movielens-100k") -> Comparison:
    return Comparison(
        dataset=dataset,
        split={"training": 1024, "pool": 8000, "validation": 1000, "test": 1000},
        model="0123456789abcdef",
        settings={"lora_rank": 8, "tau": 100.0},
        environment={"torch": "2.13.0"},
        date="2026-11-21",
        seeds=seeds,
        measured=tuple(_measured(method, seed, auc[seed]) for seed in seeds for method, auc in OWN_AUC.items()),
        studies=tuple(_point(study, each, seed) for seed in seeds for study, all_ in STUDIES.items() for each in all_),
    )


class Page(HTMLParser):
    """A page taken apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(" ".join(data.split()))

    def values(self, *names: str) -> list[str]:
        return [value for name, value in self.attributes if name in names]


@pytest.fixture(scope="module")
def text() -> str:
    return render(_comparison(), COMMAND)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_nothing_is_loaded_from_anywhere(page: Page, text: str) -> None:
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert all(value.startswith("#") for value in page.values("src", "href", "xlink:href", "action", "data"))
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*[\"']?([^)]*)", text))
    assert "@import" not in text


def test_what_a_drawing_refers_to_is_its_own(page: Page, text: str) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    referred = {target[1:] for target in page.values("xlink:href")} | set(re.findall(r"url\(#([^)]*)\)", text))
    assert referred
    assert referred <= set(ids)


def test_the_same_results_give_the_same_bytes_whatever_plots_look_like_elsewhere(text: str) -> None:
    again = Comparison.from_json(json.loads(json.dumps(_comparison().to_json())))
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": False}):
        assert render(again, COMMAND) == text


def test_other_results_give_other_drawings(text: str) -> None:
    measured = tuple(replace(each, auc=each.auc + 0.003) for each in _comparison().measured)
    other = render(replace(_comparison(), measured=measured), COMMAND)
    drawings = [re.findall(r"<svg.*?</svg>", each, re.DOTALL) for each in (text, other)]
    assert drawings[0][0] != drawings[1][0]
    assert drawings[0][1:] == drawings[1][1:]


def test_every_figure_has_a_drawing_and_a_caption(page: Page) -> None:
    assert page.tags.count("figure") == page.tags.count("svg") == page.tags.count("figcaption") == 7
    for figure in ("fig. 3b", "fig. 4", "fig. 5", "fig. 6"):
        assert any(figure in text for text in page.texts)


def test_drawings_follow_the_colours_of_the_page(text: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not set(re.findall(r"#[0-9a-f]{6}\b", drawings))
    assert {"ink", "muted", "grid", "first", "second"} == set(re.findall(r"var\(--(\w+)\)", drawings))


def test_means_deviations_and_differences_stand_beside_the_papers_figures(page: Page) -> None:
    rows = {row[0]: dict(zip(tables.quality(_comparison()).columns, row, strict=True)) for row in _quality_rows()}
    assert rows["Retraining"]["AUC"] == "0.7600 ± 0.0141"
    assert rows["Retraining"]["paper's AUC, LLaMA-7B"] == "0.7428"
    assert rows["APA (ND)"]["Δ to retraining"] == "−0.0150 ± 0.0071"
    assert rows["APA (ND)"]["paper's Δ"] == "−0.0172"
    assert rows["Lethe"]["Δ to retraining"] == "+0.0050 ± 0.0141"
    assert rows["Lethe"]["paper's AUC, LLaMA-7B"] == rows["like-share"]["UAUC"] == tables.UNKNOWN
    assert all(cell in page.texts for row in _quality_rows() for cell in row)


def test_costs_are_of_the_seeds_that_measured_them(page: Page) -> None:
    content = tables.cost(_comparison())
    rows = {row[0]: dict(zip(content.columns, row, strict=True)) for row in content.rows}
    assert rows["APA (ND)"]["forget a user s (shards)"] == "48.0 (3)"
    assert rows["APA (ND)"]["trainable parameters"] == "131,072"
    assert rows["like-share"]["forget a user s (shards)"] == tables.UNKNOWN
    assert all(cell in page.texts for row in content.rows for cell in row)
    assert any("2.50 times faster by APA (ND)" in text and "3.96 times" in text for text in page.texts)


def test_bars_are_labelled_with_their_means(page: Page) -> None:
    assert {"0.7462", "2.50", "48.0 (3)", "semantic", "bekm", "512", "level ND", "SISA"} <= set(page.texts)


def test_who_reads_it_can_do_it_again(page: Page) -> None:
    assert {COMMAND, "0123456789abcdef", "0, 1", "2026-11-21", "lora_rank", "2.13.0"} <= set(page.texts)
    assert "1,024 training, drawn from 8,000; 1,000 validation; 1,000 test" in page.texts


def test_of_one_seed_no_spread_is_shown() -> None:
    text = render(_comparison(seeds=(0,)), COMMAND)
    assert "0.7500" in Page(text).texts
    assert not re.search(r"\d ± \d", text)
    assert "no spread is known" in text
    assert "no spread is known" not in render(_comparison(), COMMAND)
    assert text.count("LineCollection") < render(_comparison(), COMMAND).count("LineCollection")


def test_of_data_that_the_paper_did_not_use_no_figure_of_it_is_shown() -> None:
    text = render(_comparison(dataset="ours"), COMMAND)
    assert "LLaMA" not in text
    assert "0.7428" not in text
    assert "3.96" not in text


def test_a_validation_run_is_not_taken_for_a_test() -> None:
    counts = {"training": 1024, "pool": 8000, "validation": 607, "test": 0, "scored validation": 393}
    validation_run = replace(_comparison(dataset="movielens-100k (validation)"), split=counts)
    page = Page(render(validation_run, COMMAND))
    assert "Comparison on MovieLens-100K (validation)" in page.texts
    assert any("No test sample was read" in text for text in page.texts)
    assert "1,024 training, drawn from 8,000; 607 validation; 0 test; 393 scored validation" in page.texts
    assert not any("LLaMA" in text or "0.7428" in text for text in page.texts)
    assert not any("on the test samples" in text for text in page.texts)
    assert not any("No test sample was read" in text for text in Page(render(_comparison(), COMMAND)).texts)


def test_without_studies_there_is_no_heading_for_them() -> None:
    page = Page(render(replace(_comparison(), studies=()), COMMAND))
    assert page.tags.count("svg") == 2
    assert "Studies" not in page.texts


def test_of_methods_that_forget_nothing_there_is_no_plot_of_forgetting() -> None:
    measured = tuple(each for each in _comparison().measured if each.method == "like-share")
    page = Page(render(replace(_comparison(), measured=measured, studies=()), COMMAND))
    assert page.tags.count("svg") == 1
    assert "Forgetting by method" not in page.texts


def test_a_name_is_never_taken_for_markup() -> None:
    text = render(_comparison(dataset="<script>1</script>"), "lethe --noun '<script>'")
    assert "script" not in Page(text).tags
    assert {"<script>1</script>", "lethe --noun '<script>'"} <= set(Page(text).texts)


def _quality_rows() -> Sequence[Sequence[str]]:
    return tables.quality(_comparison()).rows

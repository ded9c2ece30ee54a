"""`lethe quality`: hit rate and click-through of each generation, from impressions that are held."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from service.entrypoints.commands.console import print_report
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.entrypoints.http.quality_schemas import GenerationQuality, QualityAnswer

_SHOWN = 12  # characters of a generation's name


def quality(home: HomeOption = None, json_: JsonOption = False) -> None:
    """How the generations do among those whom they were shown to, without whoever is forgotten.

    Hit rate: share of impressions of which somebody liked an item. Click-through: share of shown items to which an event was
    attributed. Of fewer than 20 people no figures are told.
    """
    opened = open_home(home, {})
    answer = QualityAnswer.of(opened.ledger.impressions.quality(), opened.ledger.generation())
    if json_:
        print_report(answer.model_dump(mode="json"), json_)
        return
    if not answer.generations:
        typer.echo("no impressions are held; they are if LETHE_IMPRESSIONS_DAYS is set")
        return
    table = Table("generation", "people", "impressions", "hit rate", "click-through")
    for one in answer.generations:
        table.add_row(f"{one.generation[:_SHOWN]}{' (served)' if one.served else ''}", *_figures(one, answer))
    Console().print(table)


def _figures(one: GenerationQuality, answer: QualityAnswer) -> tuple[str, ...]:
    if one.people is None or one.hit_rate is None or one.click_through is None:
        return f"fewer than {answer.smallest_group}", "", "", ""
    return str(one.people), str(one.impressions), f"{one.hit_rate:.3f}", f"{one.click_through:.3f}"

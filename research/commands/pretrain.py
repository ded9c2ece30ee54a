"""`lethe pretrain`: public facts and simulated people -> a base model like the bundled one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from research.pretraining.pretrain import pretrain
from research.pretraining.recipe import ModelType, Recipe, going_on, untaught
from service.entrypoints.commands.console import print_report, progress_for_stderr
from service.entrypoints.commands.options import JsonOption
from service.errors import InvalidInput, InvalidSetting
from service.llm.tokenizer import digest_of_files

_DEFAULTS = Recipe()


def pretrain_model(
    corpus: Annotated[Path, typer.Option(help="Folder with the public data; docs/base-model.md lists its files")],
    out: Annotated[Path, typer.Option(help="Folder for the model; a run that was stopped goes on from it")],
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Second stage: go on from this model, with lessons of how people differ"),
    ] = None,
    architecture: Annotated[
        ModelType, typer.Option(help="llama: the bundled model's; t5: an encoder–decoder of about its size")
    ] = ModelType.LLAMA,
    facts_only: Annotated[
        bool, typer.Option("--facts-only", help="Leave out every lesson of taste: no people, nothing of what is better")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Training steps")] = _DEFAULTS.steps,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and of every lesson")] = _DEFAULTS.seed,
    device: Annotated[str, typer.Option(help="cpu | cuda | cuda:N")] = "cpu",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Let torch compile the model first: faster, needs a C++ compiler")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Make a base model like the bundled one. Seeded; started again with the same options, it goes on where it stopped."""
    try:
        with progress_for_stderr() as progress:
            recipe = _recipe(Recipe(seed=seed, steps=steps, architecture=architecture.value), start, facts_only)
            report = pretrain(corpus, out, recipe, device, progress, compiled=compiled, start=start)
    except FileNotFoundError as missing:
        raise InvalidInput(
            f"the corpus lacks a file: {missing.filename}; docs/base-model.md lists what it holds"
        ) from None
    print_report(report, json_)


def _recipe(stated: Recipe, start: Path | None, facts_only: bool) -> Recipe:
    if start is None:
        return untaught(stated) if facts_only else stated
    if facts_only:
        raise InvalidSetting("--from goes on with lessons of how people differ, which --facts-only leaves out")
    return going_on(stated, digest_of_files(start))

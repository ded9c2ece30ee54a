"""`lethe bench deletions`: people who leave a real server at a steady rate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import count
from time import time
from typing import Annotated, Any

import typer

from adapters_store.files import MissingArtifact
from research.benchmarks import serving
from research.benchmarks.deletions import Live, SteadyDeletions
from research.commands.bench import OutOption, tell
from research.commands.bench_load import built_of, served_by
from research.commands.scratch import scratch_home, stated
from service.data import importers
from service.entrypoints.bootstrap import Home
from service.entrypoints.commands.options import BUILD_SETTINGS, JsonOption, with_settings
from service.generation import Manifest
from service.ledger import Event


@with_settings(BUILD_SETTINGS)
def bench_deletions(
    given: dict[str, Any],
    per_minute: Annotated[float, typer.Option(min=0.1, help="People who leave in a minute")] = 16,
    minutes: Annotated[float, typer.Option(min=0.05, help="For so long")] = 3,
    people: Annotated[int, typer.Option(min=20, max=400, help="Simulated people of whom the generation is made")] = 400,
    full_builds: Annotated[
        bool, typer.Option(help="Rows of everybody come while the second half leaves: one full build after the other")
    ] = False,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """The demo, served, while people leave at a steady rate: what share of it is live, and when each is forgotten."""
    scheduled = {"build_after_interactions": 1} if full_builds else {}
    with scratch_home(stated(given) | scheduled) as opened:
        known = built_of(opened, importers.demo(), people)
        leaving = known[: max(1, round(per_minute * minutes))]
        arrive = arrivals_of(opened, known[len(leaving) :]) if full_builds else None
        port = serving.free_port()
        with served_by(opened, port):
            sections = SteadyDeletions(port, look_of(opened), 60 / per_minute).run(leaving, arrive)
        manifest = _manifest(opened, opened.ledger.mask().generation)
    told = {"people": people, "adapters": len(manifest.adapters), "memories": len(manifest.memories)}
    tell("deletions", told | {name: str(value) for name, value in stated(given).items()}, sections, out, json_)


def arrivals_of(opened: Home, people: Sequence[str]) -> Callable[[], object]:
    """Lets a row of each of these come: once more their oldest opinion, and each time the other way round."""
    oldest = {user: rows[0] for user, rows in opened.ledger.view().interactions.items() if user in set(people)}
    times = count(int(time()))

    def arrive() -> None:
        now = next(times)
        opened.ledger.take_events([Event(replace(row, liked=bool(now % 2), timestamp=now)) for row in oldest.values()])

    return arrive


def look_of(opened: Home) -> Callable[[], Live]:
    """Says what of the published generation may be used now, by the installation's ledger."""
    manifests: dict[str | None, Manifest] = {}

    def look() -> Live:
        mask = opened.ledger.mask()
        if mask.generation not in manifests:
            try:
                manifests[mask.generation] = _manifest(opened, mask.generation)
            except MissingArtifact:  # the next one was published in between
                return look()
        manifest = manifests[mask.generation]
        return Live(
            _share([adapter.digest for adapter in manifest.adapters], mask.adapters),
            _share([memory.digest for memory in manifest.memories], mask.memories),
        )

    return look


def _manifest(opened: Home, generation: str | None) -> Manifest:
    return Manifest.of(opened.store.generation(str(generation)).manifest)


def _share(digests: Sequence[str], masked: Collection[str]) -> float:
    return 1 - sum(digest in masked for digest in digests) / max(1, len(digests))

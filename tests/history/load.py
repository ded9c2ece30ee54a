"""A long history: two replicas, many clients, deletions and retraining; then the checker's verdict.

    python -m tests.history.load --operations 20000 --clients 8 --seed 1

Prints what was done, how long a deletion took until it was masked, and every broken promise; exit code 1 if there is any.
With `--servers` the ledger is in a PostgreSQL and bells and quotas are in a Redis, both started for the run, and the replicas
want an API key.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import transformers
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import save_tiny_model, tiny_tokenizer
from tests.e2e.conftest import Installation
from tests.forks import Begin, Forks, begin_afresh
from tests.servers import servers_of

from .checker import ACCEPTED, OK, History, check
from .observer import Observer
from .replicas import SETTINGS, Replica, import_people, two_replicas
from .visitors import People, Plan, Run

_FORGET_EVERY = 60
_PAUSE_SECONDS = 0.03  # without pauses, clients and servers would leave retraining next to no processor time


@dataclass(frozen=True, slots=True)
class Outcome:
    """A history and how it was made."""

    history: History
    seconds: float
    mask_buckets: dict[float, float]  # as both servers measured: at most so many seconds -> how many deletions


def perform(
    installation: Installation,
    rated: Mapping[str, Sequence[str]],
    plan: Plan,
    begin: Begin,
    key: str | None = None,
) -> Outcome:
    """Put the load on two replicas of a built installation of these people."""
    people = People(rated, random.Random(plan.seed))
    with two_replicas(installation, begin, key) as replicas, Observer(ledger_url(installation)) as observer:
        run = Run(plan, replicas, people, observer)
        run.perform()
        return Outcome(run.history(), run.seconds, _mask_buckets(replicas))


def ledger_url(installation: Installation) -> str:
    return installation.environment.get("LETHE_DATABASE_URL", f"sqlite:///{installation.home / 'ledger.sqlite'}")


def _mask_buckets(replicas: Iterable[Replica]) -> dict[float, float]:
    sums: dict[float, float] = {}
    for replica in replicas:
        for family in text_string_to_metric_families(replica.get("/metrics")[1].decode()):
            for sample in family.samples if family.name == "lethe_forget_mask_seconds" else ():
                if sample.name.endswith("_bucket"):
                    bound = float(sample.labels["le"])
                    sums[bound] = sums.get(bound, 0) + sample.value
    return sums


def report(outcome: Outcome) -> str:
    history = outcome.history
    answers = [answer for answer in history.recommended if answer.status == OK]
    accepted = [wish for wish in history.forgotten if wish.status == ACCEPTED]
    operations = len(history.recommended) + len(history.forgotten)
    statuses = Counter(one.status for one in history.recommended) + Counter(one.status for one in history.forgotten)
    latencies = sorted(wish.end - wish.begin for wish in accepted)
    return "\n".join(
        [
            f"operations: {operations} in {outcome.seconds:.0f} s, {operations / outcome.seconds:.0f} a second",
            f"statuses: {dict(sorted(statuses.items()))}",
            f"deletions: {len(accepted)}, of which {sum(wish.whole for wish in accepted)} of whole persons; "
            f"{len(history.completed)} receipts",
            f"items hidden: {sum(one.status == OK for one in history.hidden)}",
            f"answers by replica: {dict(Counter(answer.replica for answer in answers))}",
            f"generations seen: {len({answer.generation for answer in answers})}",
            f"witnesses: {len(_union(wish.adapters for wish in accepted))} adapters, "
            f"{len(_union(wish.rows for wish in accepted))} validation rows",
            "request to masked, as the clients saw it: "
            + ", ".join(f"{name} {1000 * _quantile(latencies, q):.1f} ms" for name, q in _QUANTILES.items()),
            "request to masked, in the servers: "
            + ", ".join(f"{name} ≤ {1000 * _bucket(outcome.mask_buckets, q):g} ms" for name, q in _QUANTILES.items()),
        ]
    )


_QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)


def _quantile(ordered: Sequence[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def _bucket(buckets: dict[float, float], q: float) -> float:
    return min(bound for bound, count in buckets.items() if count >= q * max(buckets.values()))


def _key_of(installation: Installation) -> str:
    file = installation.folder / "key"
    scopes = "recommend,explain,forget,rights,receipts,operate,items"
    installation.lethe("keys", "create", "--name", "clients", "--scopes", scopes, "--to", str(file))
    return file.read_text().strip()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--servers", action="store_true", help="on a PostgreSQL and a Redis, with keys")
    given = parser.parse_args(arguments)
    print(f"seed: {given.seed}", flush=True)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        model = Path(scratch) / "model"
        save_tiny_model(model, "llama", tiny_tokenizer(480), {})
        settings = SETTINGS | (servers_of(stack, Path(scratch)) if given.servers else {})
        installation = Installation(Path(scratch), model, stack.enter_context(Forks()), **settings)
        plan = Plan(given.operations, given.clients, given.seed, _FORGET_EVERY, _PAUSE_SECONDS)
        rated = import_people(installation, plan.people)
        installation.build()
        outcome = perform(installation, rated, plan, begin_afresh, _key_of(installation) if given.servers else None)
    print(report(outcome))
    violations = check(outcome.history)
    print(f"violations: {len(violations)}", *(f"{one.rule}: {one.what}" for one in violations[:50]), sep="\n  ")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())

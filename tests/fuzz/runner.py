"""Fuzz a real server: every documented request and what is made of it, with every kind of key.

    python -m tests.fuzz.runner --cases 100000 --seed 1

Prints how many requests were made, how they were answered, and every broken promise; exit code 1 if there is any. The promises:
no failure (a 503 that says when to come again is none), nothing that the OpenAPI document does not say, and no person, title of
a history or key in a refusal, a log line or a metric.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import transformers

from tests.conftest import save_tiny_model, tiny_tokenizer
from tests.forks import Forks

from .contract import Outcome, explore
from .house import House, installed, keys_of, opened
from .mutations import Mutator
from .verdict import Fault, Judge
from .wire import Connection

_AT_ONCE = 4
_SHARE_OF_CONTRACT = 0.15  # of all cases; the others are mutations of our own, which cost less
_OPERATIONS_TIMES_PHASES = 60  # schemathesis makes about so many cases for each example that it may try


@dataclass
class Tally:
    """What came of our own mutations."""

    cases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)


def mutate(house: House, judge: Judge, document: dict[str, Any], cases: int, seed: int) -> Tally:
    """That many mutations, from a few callers at once."""
    tally = Tally()

    def call(number: int) -> None:
        mutator = Mutator(document, Random(seed * 1_000 + number), list(house.keys))
        connection = Connection(house.server.port)
        for _ in range(cases // _AT_ONCE):
            asked = mutator.asked()
            try:
                answer = connection.ask(asked, house.keys[asked.key])
            except TimeoutError:
                connection.close()
                tally.faults.append(Fault("silence", "no answer within 30 s", asked))
                continue
            tally.cases[asked.what] += 1
            tally.statuses[answer.status] += 1
            tally.faults += judge.faults(asked, answer)
        connection.close()

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for called in [threads.submit(call, number) for number in range(_AT_ONCE)]:
            called.result()
    return tally


def documented(house: House) -> dict[str, Any]:
    """The OpenAPI document that the server gives."""
    return dict(house.server.client.get("/openapi.json", headers=_bearer(house)).json())


def judge_of(house: House) -> Judge:
    return Judge(documented(house), house.secrets())


def leaks(house: House, judge: Judge) -> list[str]:
    """Lines of the log, and metrics, that hold somebody or a key."""
    lines = house.installation.log.read_bytes().splitlines()
    lines += house.server.client.get("/metrics", headers=_bearer(house)).content.splitlines()
    return [line.decode(errors="replace") for line in lines if judge.holds(line)]


def _bearer(house: House) -> dict[str, str]:
    return {"Authorization": f"Bearer {house.keys['all']}"}


def report(explored: Outcome, tally: Tally, leaked: Sequence[str], seconds: float) -> str:
    """What was done and found, as lines."""
    total = explored.cases.total() + tally.cases.total()
    kinds = Counter(fault.kind for fault in tally.faults)
    lines = [
        f"cases: {total} in {seconds:.0f} s, of which {explored.cases.total()} of schemathesis",
        f"of schemathesis: {dict(explored.cases)}, answered {dict(sorted(explored.statuses.items()))}",
        f"of our own mutations: {dict(sorted(tally.cases.items()))}, answered {dict(sorted(tally.statuses.items()))}",
        f"broken promises: {sum(explored.failed.values())} in checks, {dict(kinds)} of mutations, {len(leaked)} leaks",
        *(f"  {kind} ({explored.failed[kind]}): {text}" for kind, text in explored.failures.items()),
        *(f"  error: {error}" for error in explored.errors[:20]),
        *(f"  not tried: {told}" for told in sorted(set(explored.untried))),
        *(f"  {_told(fault)}" for fault in _one_of_each(tally.faults)),
        *(f"  leak: {line[:500]}" for line in leaked[:20]),
    ]
    return "\n".join(lines)


def _one_of_each(faults: Sequence[Fault]) -> list[Fault]:
    found: dict[tuple[str, ...], Fault] = {}
    for fault in faults:
        found.setdefault((fault.kind, fault.what[:60], fault.asked.what, str(fault.asked.template)), fault)
    return list(found.values())


def _told(fault: Fault) -> str:
    asked = fault.asked
    return (
        f"{fault.kind}: {fault.what} ({asked.what}, key {asked.key}): {asked.method} {asked.target[:200]!r} "
        f"{[(name, value[:80]) for name, value in asked.headers][:6]} {asked.body[:500]!r}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args(arguments)
    print(f"seed: {given.seed}", flush=True)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch, Forks() as forks:
        model = Path(scratch) / "model"
        save_tiny_model(model, "llama", tiny_tokenizer(480), {})
        installation = installed(Path(scratch), model, forks)
        with opened(installation, keys_of(installation)) as house:
            judge, began = judge_of(house), time.monotonic()
            tally = mutate(house, judge, documented(house), round(given.cases * (1 - _SHARE_OF_CONTRACT)), given.seed)
            print(report(Outcome(), tally, [], time.monotonic() - began), flush=True)
            examples = max(1, round(given.cases * _SHARE_OF_CONTRACT / _OPERATIONS_TIMES_PHASES))
            explored = explore(house, judge, examples, given.seed)
            leaked = leaks(house, judge)
            print(report(explored, tally, leaked, time.monotonic() - began))
    return 1 if explored.failed or explored.errors or tally.faults or leaked else 0


if __name__ == "__main__":
    sys.exit(main())

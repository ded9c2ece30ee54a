"""Where processes are killed is where the sources say that they may be."""

from __future__ import annotations

from pathlib import Path

from .steps import OF_A_RESTRAINT, OF_A_STREAM, OF_AN_ENCRYPTED_STORE, OF_THE_SERVER, OF_THE_WORKER, announced

REPOSITORY = Path(__file__).parents[2]


def test_every_step_that_the_sources_announce_is_one_at_which_processes_are_killed() -> None:
    announced_steps = set(announced([REPOSITORY / "service", REPOSITORY / "adapters_store"]))
    # A set, as a folder and a bucket announce the same.
    elsewhere = (*OF_A_RESTRAINT, *OF_A_STREAM, *OF_AN_ENCRYPTED_STORE)
    assert sorted(announced_steps) == sorted([*OF_THE_SERVER, *OF_THE_WORKER, *elsewhere])

"""The demo's people are who the simulator makes, and stand in the distribution as a file."""

from __future__ import annotations

from importlib import resources

from research.pretraining.demo_people import written


def test_the_bundled_people_are_those_whom_the_simulator_makes() -> None:
    bundled = resources.files("service.bundled").joinpath("demo_people.csv").read_text(encoding="utf-8")
    assert bundled == written()

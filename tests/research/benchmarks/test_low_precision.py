"""`research/benchmarks/low_precision.py` with a tiny model: it compares what it says it compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from research.benchmarks import low_precision
from research.benchmarks.models import SHAPES, random_model
from service.config import BUNDLED_MODEL
from service.llm.frozen import FrozenModel

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def rows() -> dict[Any, Mapping[str, Any]]:
    return {row["contestant"]: row for row in low_precision.measure(_tiny, rows=3, tokens=8, rounds=1).rows}


def _tiny(dtype: str) -> FrozenModel:
    return random_model(SHAPES["tiny"], BUNDLED_MODEL, dtype, "cpu")


def test_every_way_reads_the_same_model_up_to_its_rounding(rows: dict[Any, Mapping[str, Any]]) -> None:
    away = {name: row["from float32"] for name, row in rows.items()}
    assert away.pop("float32") == 0.0
    assert len(away) == 3
    assert all(0.0 < distance < 0.2 for distance in away.values())
    assert away["bfloat16"] < away["int8 weights, bfloat16"]


def test_activations_that_are_rounded_together_depend_on_their_batch(rows: dict[Any, Mapping[str, Any]]) -> None:
    assert rows["int8 products"]["alone from in batch"] > 10 * rows["float32"]["alone from in batch"]
    assert rows["int8 products"]["alone from in batch"] > 1e-4

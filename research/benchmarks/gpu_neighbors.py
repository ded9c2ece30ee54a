"""Neighbor search on the processor and on the GPU, in turns and to the same rows: the part of `gpu.sh` that needs faiss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from research.benchmarks.interleaved import Contestant, Floor, Timing, race
from service.routing.neighbors import Neighbors, index_place

_N = 64  # neighbors that decide a request's weights
_AGREE = 0.99  # share of neighbors that are the same; ties and last bits may differ


def neighbor_rows(
    line: Callable[..., dict[str, Any]], device: str, rows: int, width: int, queries: int, rounds: int
) -> list[dict[str, Any]]:
    """Searches a second among `rows` of `width`, `queries` at a time and one; plain and with a hundredth of the rows masked."""
    place = index_place(device)
    stored, asked = _unit(rows, width, 0), _unit(queries, width, 1)
    indexes = {"CPU": Neighbors(stored)}
    if place.clone is not None:
        indexes["GPU"] = Neighbors(stored, place)
    found = []
    for masked in (range(0), range(0, rows, 100)):
        _require_agreement(indexes, asked, masked)
        for some in (asked, asked[:1]):
            about = f"{len(some)} of {rows:,} x {width}, {len(masked)} masked"
            found += [_row(line, timing, about) for timing in _race(indexes, some, masked, rounds)]
    return found + ([] if place.clone is not None else [line(what="neighbors on the GPU", note=place.where)])


def _race(indexes: dict[str, Neighbors], asked: NDArray[np.float32], masked: range, rounds: int) -> tuple[Timing, ...]:
    count, width = next(iter(indexes.values())).count, asked.shape[1]
    floor = Floor(0.0, 2.0 * count * width * len(asked))
    runs = [
        Contestant(name, partial(index.nearest, asked, _N, masked), len(asked), floor)
        for name, index in indexes.items()
    ]
    return race(runs, rounds, warmups=2)  # a search returns when it is done


def _row(line: Callable[..., dict[str, Any]], timing: Timing, about: str) -> dict[str, Any]:
    speed = timing.floor.flops / timing.median_seconds / 1e12
    told = {"samples/s": timing.throughput, "TFLOP/s of floor": speed, "p50 ms": 1e3 * timing.median_seconds}
    return line(what=f"neighbors on the {timing.name}, {about}", **told)


def _require_agreement(indexes: dict[str, Neighbors], asked: NDArray[np.float32], masked: range) -> None:
    results = [index.nearest(asked, _N, masked) for index in indexes.values()]
    if any((other == results[0]).mean() < _AGREE for other in results[1:]):
        raise RuntimeError("the two indexes find other neighbors")


def _unit(rows: int, width: int, seed: int) -> NDArray[np.float32]:
    made = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)

"""A task runs in a process of its own, which finds its function by name; so these tests run the build's own tasks."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.building.planning.embedding import EmbeddingTask, embed_groups
from service.building.workers.process_pool import ProcessPool, TaskFailed
from service.errors import ModelUnsuitable
from service.llm.spec import ModelSpec

PRELOAD = ("service.building.training.training", "service.building.training.validation")


@pytest.fixture
def spec(tiny_models: Callable[..., Path]) -> ModelSpec:
    return ModelSpec(str(tiny_models("llama")))


def _tasks(spec: ModelSpec, count: int) -> list[EmbeddingTask]:
    return [EmbeddingTask(spec, (([5 + number, 6, 7],), ([8, 9],))) for number in range(count)]


def _nothing(steps: int) -> None:
    pass


def test_every_task_has_its_result_under_its_number_and_every_step_is_told(spec: ModelSpec) -> None:
    steps: list[int] = []
    found = dict(ProcessPool(2, PRELOAD).run(embed_groups, _tasks(spec, 5), steps.append))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert sum(steps) == 10
    for number, task in enumerate(_tasks(spec, 5)):
        np.testing.assert_allclose(found[number], embed_groups(task, _nothing), rtol=1e-4, atol=1e-5)


def test_without_tasks_no_process_is_started() -> None:
    assert list(ProcessPool(2, PRELOAD).run(embed_groups, [])) == []


def test_an_error_of_ours_reaches_the_caller_as_it_is(tmp_path: Path) -> None:
    task = EmbeddingTask(ModelSpec(str(tmp_path / "missing")), (([5],),))
    with pytest.raises(ModelUnsuitable, match="neither a folder nor a reachable"):
        list(ProcessPool(1, PRELOAD).run(embed_groups, [task]))


@pytest.mark.parametrize(("token", "kind"), [(10**9, "IndexError"), (None, "TypeError")])
def test_another_error_is_told_by_its_type_alone(spec: ModelSpec, token: Any, kind: str) -> None:
    with pytest.raises(TaskFailed, match=rf"^a build process failed with {kind}$"):
        list(ProcessPool(1, PRELOAD).run(embed_groups, [EmbeddingTask(spec, (([token],),))]))


def test_a_process_that_is_killed_is_a_failed_task(spec: ModelSpec) -> None:
    def kill(steps: int) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    long = EmbeddingTask(spec, (([5, 6, 7],),) * 2000)
    with pytest.raises(TaskFailed, match="killed or ran out of memory"):
        list(ProcessPool(1, PRELOAD).run(embed_groups, [long], kill))
    assert multiprocessing.active_children() == []


def test_whoever_stops_listening_leaves_no_process_behind(spec: ModelSpec) -> None:
    results = ProcessPool(2, PRELOAD).run(embed_groups, _tasks(spec, 4))
    next(results)
    assert isinstance(results, Generator)
    results.close()
    assert multiprocessing.active_children() == []

"""A task runs in a process of its own, which finds its function by name; so these tests run the build's own tasks."""

from __future__ import annotations

import ast
import multiprocessing
import subprocess
import sys
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


def test_a_task_runs_beside_those_that_are_run_meanwhile_and_is_heard_whenever_it_is_asked(spec: ModelSpec) -> None:
    pool, (first, *others) = ProcessPool(2, PRELOAD), _tasks(spec, 4)
    with pool.beside(embed_groups, first) as result:
        found = dict(pool.run(embed_groups, others))
        beside = result()
    assert sorted(found) == [0, 1, 2]
    np.testing.assert_allclose(beside, embed_groups(first, _nothing), rtol=1e-4, atol=1e-5)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("processes", [1, 2])
def test_a_task_beside_others_takes_one_of_their_places(spec: ModelSpec, processes: int) -> None:
    pool, living = ProcessPool(processes, PRELOAD), [0]
    with pool.beside(embed_groups, EmbeddingTask(spec, (([5, 6, 7],),) * 200)) as result:
        steps = pool.run(embed_groups, _tasks(spec, 3), lambda _: living.append(len(multiprocessing.active_children())))
        assert len(list(steps)) == 3
        assert len(result()) == 200
    assert max(living) <= processes


def test_a_task_beside_others_waits_for_a_place_that_they_leave_idle(spec: ModelSpec) -> None:
    pool = ProcessPool(1, PRELOAD)
    with pool.beside(embed_groups, _tasks(spec, 1)[0]) as result:
        for _ in pool.run(embed_groups, _tasks(spec, 3)):
            assert multiprocessing.active_children() == []
        assert len(result()) == 2


def test_what_a_task_beside_others_raised_comes_where_its_result_would(spec: ModelSpec) -> None:
    pool = ProcessPool(2, PRELOAD)
    with pool.beside(embed_groups, EmbeddingTask(spec, (([10**9],),))) as result:
        assert len(list(pool.run(embed_groups, _tasks(spec, 2)))) == 2
        with pytest.raises(TaskFailed, match=r"^a build process failed with IndexError$"):
            result()


def test_a_task_beside_others_ends_with_whoever_began_it(spec: ModelSpec) -> None:
    pool = ProcessPool(2, PRELOAD)
    with (
        pytest.raises(KeyboardInterrupt),
        pool.beside(embed_groups, EmbeddingTask(spec, (([5, 6, 7],),) * 20_000)),
    ):
        raise KeyboardInterrupt
    assert multiprocessing.active_children() == []
    assert len(list(pool.run(embed_groups, _tasks(spec, 3)))) == 3


def _modules_of_tasks() -> list[str]:
    """Where a function stands that takes a task and reports its steps."""
    root = Path(__file__).parents[2]
    return [
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in (root / "service").rglob("*.py")
        if any(_is_task(statement) for statement in ast.parse(path.read_text()).body)
    ]


def _is_task(statement: ast.stmt) -> bool:
    annotated = (
        [ast.unparse(a.annotation) for a in statement.args.args if a.annotation]
        if isinstance(statement, ast.FunctionDef)
        else []
    )
    return len(annotated) == 2 and annotated[1] == "Report"


@pytest.mark.thorough
def test_no_task_imports_what_the_fork_server_could_have_imported_for_it() -> None:
    modules = _modules_of_tasks()
    assert len(modules) == 5
    program = (
        "import sys, service.building.preloaded\n"
        "before = set(sys.modules)\n"
        f"for name in {modules}: __import__(name)\n"
        "print(sorted(set(sys.modules) - before))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"

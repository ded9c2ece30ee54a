"""Runs tasks in fresh processes of one thread each, several at a time.

A task's bits must not depend on what ran before it in a process, nor on how many threads a machine has; so every task gets
a process of its own, and the number of processes changes the time only. Processes fork from a server that has imported the
libraries and, at most, loaded a model and tried it as every task would.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

import torch
import torch.utils.deterministic

from service.errors import LetheError

Task = TypeVar("Task")
Result = TypeVar("Result")
Report = Callable[[int], None]  # a task calls it with the number of steps it has just finished

_NICENESS = 10  # training yields to serving
_PRELOADED = "service.building.preloaded"  # by name: its modules import this one


class TaskFailed(LetheError):
    """A build process ended without a result."""


class TaskRunner(Protocol):
    """Runs tasks, each as if nothing had run before it: what a build needs of a `ProcessPool`."""

    processes: int  # how many tasks run at a time, at most

    def run(
        self, function: Callable[[Task, Report], Result], tasks: Sequence[Task], on_steps: Report = ...
    ) -> Iterator[tuple[int, Result]]:
        """Yield (number of the task, its result) as results come. Raises what a task raised."""
        ...

    def beside(
        self, function: Callable[[Task, Report], Result], task: Task
    ) -> AbstractContextManager[Callable[[], Result]]:
        """A task for a place that `run` leaves idle; what is given waits for its result, and raises what it raised."""
        ...


@dataclass(frozen=True, slots=True)
class GpuShare:
    """What tasks may take of a GPU that also serves: of its memory, and under MPS of its processors at low priority."""

    device: str
    share: float  # above 0, at most 1


class ProcessPool:
    """At most `processes` tasks at a time. `preload` names further modules that the fork server imports once.

    `gpu_share` bounds what all of them together take of a GPU that also serves.
    """

    def __init__(self, processes: int, preload: Sequence[str] = (), gpu_share: GpuShare | None = None) -> None:
        self.processes = max(1, processes)
        self._gpu_share = None if gpu_share is None else replace(gpu_share, share=gpu_share.share / self.processes)
        self._beside: list[_Patient] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*preload, _PRELOADED])

    def prepare(self) -> None:
        """Begin to import what tasks need, so that the first task does not wait for it."""
        if self._context.get_start_method() == "forkserver":
            forkserver.ensure_running()

    def run(
        self, function: Callable[[Task, Report], Result], tasks: Sequence[Task], on_steps: Report = lambda steps: None
    ) -> Iterator[tuple[int, Result]]:
        """Yield (number of the task, its result) as results come.

        Raises:
            LetheError: what a task raised.
            TaskFailed: a process died (killed, out of memory), or raised what is not a LetheError.
        """
        waiting = list(enumerate(tasks))[::-1]
        running: dict[_Begun, int] = {}
        try:
            while waiting or running:
                while waiting and self._is_idle(running):
                    number, task = waiting.pop()
                    running[self._start(function, task, on_steps)] = number
                for patient in self._beside:
                    if not waiting and self._is_idle(running):
                        patient.begin()
                for begun in _that_ended([*running, *self._begun_beside()]):
                    if begun in running:
                        yield running.pop(begun), begun.result()
        finally:
            for begun in running:
                begun.end()

    @contextmanager
    def beside(self, function: Callable[[Task, Report], Result], task: Task) -> Iterator[Callable[[], Result]]:
        """A task that begins once `run` leaves a place idle, or when its result is asked for: what is given waits for it.

        It raises as `run` does. A task that nobody has waited for is ended.
        """
        patient = _Patient(lambda: self._start(function, task, lambda steps: None))
        self._beside.append(patient)
        try:
            yield patient.result
        finally:
            patient.end()
            self._beside.remove(patient)

    def _is_idle(self, running: Collection[_Begun]) -> bool:
        return len(running) + len(self._begun_beside()) < self.processes

    def _begun_beside(self) -> list[_Begun]:
        return [patient.begun for patient in self._beside if patient.begun is not None and not patient.begun.ended]

    def _start(self, function: Callable[[Task, Report], Result], task: Task, on_steps: Report) -> _Begun:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(theirs, function, task, self._gpu_share), daemon=True)
        process.start()
        theirs.close()
        return _Begun(ours, process, on_steps)


class _Begun:
    """A task in its process, and what it has said."""

    def __init__(self, connection: Connection, process: Any, on_steps: Report) -> None:
        self.connection, self._process, self._on_steps = connection, process, on_steps
        self._said: tuple[str, Any] | None = None

    @property
    def ended(self) -> bool:
        return self._said is not None

    def hear(self) -> None:
        """Wait for the next that it says."""
        kind, value = _receive(self.connection)
        if kind == "steps":
            self._on_steps(value)
            return
        self._said = kind, value
        self._process.join()
        self.connection.close()

    def result(self) -> Any:
        """Its result, once it has one. Raises what it raised."""
        while self._said is None:
            self.hear()
        kind, value = self._said
        if kind == "error":
            raise value
        return value

    def end(self) -> None:
        """Leave no process behind."""
        if not self.ended:
            self._said = "error", TaskFailed("nobody waited for it")
            self._process.kill()
            self._process.join()
            self.connection.close()


class _Patient:
    """A task that waits for a place."""

    def __init__(self, start: Callable[[], _Begun]) -> None:
        self.begun: _Begun | None = None
        self._start = start

    def begin(self) -> _Begun:
        """In a process of its own, unless it has begun."""
        if self.begun is None:
            self.begun = self._start()
        return self.begun

    def result(self) -> Any:
        """Its result, once it has one, even if there was no place for it until now. Raises what it raised."""
        return self.begin().result()

    def end(self) -> None:
        """Leave no process behind."""
        if self.begun is not None:
            self.begun.end()


def _that_ended(tasks: Sequence[_Begun]) -> list[_Begun]:
    """Hear what there is to be heard of tasks that have not ended, or wait for it; those that it was the last of."""
    ready = set(wait([begun.connection for begun in tasks]))
    heard = [begun for begun in tasks if begun.connection in ready]
    for begun in heard:
        begun.hear()
    return [begun for begun in heard if begun.ended]


def _receive(connection: Connection) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = connection.recv()
    except EOFError:
        return "error", TaskFailed("a build process ended without a result: it was killed or ran out of memory")
    return message


def _work(
    connection: Connection, function: Callable[[Any, Report], Any], task: Any, gpu_share: GpuShare | None
) -> None:
    _die_with_parent()
    os.setpriority(os.PRIO_PROCESS, 0, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it cuBLAS may add in another order each time
    _yield_the_gpu(gpu_share)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False  # it takes the kernel that was fastest just now
    # Nobody reads memory before writing it, so filling it first only takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    with suppress(BrokenPipeError):
        try:
            connection.send(("result", function(task, lambda steps: connection.send(("steps", steps)))))
        except LetheError as error:
            connection.send(("error", error))
        except (RuntimeError, OSError, ValueError, LookupError, TypeError, AttributeError, MemoryError) as error:
            # The type alone: its text could quote a sample.
            connection.send(("error", TaskFailed(f"a build process failed with {type(error).__name__}")))


def _yield_the_gpu(gpu_share: GpuShare | None) -> None:
    """A stream's priority counts within one process alone, so beside a server only MPS can tell the two apart."""
    if gpu_share is None:
        return
    os.environ["CUDA_MPS_CLIENT_PRIORITY"] = "1"  # 0 is normal, 1 below it
    os.environ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(max(1, round(100 * gpu_share.share)))
    if gpu_share.share < 1:
        torch.cuda.set_per_process_memory_fraction(gpu_share.share, gpu_share.device)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

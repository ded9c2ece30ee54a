"""A process that has imported the command line once, and forks for every command: a fork is what a fresh start would be.

A fresh interpreter takes seconds to import the libraries, which would be most of what the tests do, and would leave no
time for killing. Reads one JSON object a line from standard input: a command to begin, answered with its process id, or
the id of a process that has ended, answered with its exit code. When standard input closes, it ends all that it started.

The commands run as they are, but for one class: training processes, which a worker forks from a fork server that it has
started afresh, are forks of the worker itself here. It too has imported the libraries and computed nothing.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers.models.llama.modeling_llama  # noqa: F401 - this and uvicorn's: every fork would import them anew
import uvicorn.lifespan.on
import uvicorn.loops.auto
import uvicorn.protocols.http.auto
import uvicorn.protocols.websockets.auto  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from service.building.workers.process_pool import GpuShare, ProcessPool
from service.entrypoints import building
from service.entrypoints.commands.lazy import loaded
from service.entrypoints.commands.main import SERVICE, main


class ForkingProcessPool(ProcessPool):
    """Every task in a fork of this process."""

    def __init__(self, processes: int, preload: Sequence[str] = (), gpu_share: GpuShare | None = None) -> None:
        super().__init__(processes, preload, gpu_share)
        self._context = multiprocessing.get_context("fork")  # type: ignore[assignment] # in the fork server's place


def kill_when_told(armed: Path) -> None:
    """End this process by SIGKILL at a step of the service: the file names it, and which of its occurrences is meant."""
    one_at_a_time = threading.Lock()

    def hook(event: str, _arguments: tuple[object, ...]) -> None:
        if event.startswith("lethe."):
            with one_at_a_time:
                _perhaps_die(event.removeprefix("lethe."), armed)

    sys.addaudithook(hook)


def _perhaps_die(step: str, armed: Path) -> None:
    try:
        wanted, occurrence = armed.read_text().split()
    except FileNotFoundError:
        return
    if wanted != step:
        return
    if int(occurrence) > 1:
        armed.write_text(f"{wanted} {int(occurrence) - 1}")
        return
    armed.unlink()
    os.kill(os.getpid(), signal.SIGKILL)


def _become(command: dict[str, Any]) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.environ.clear()
    os.environ.update(command["environment"])
    random.seed()
    if command["armed"] is not None:
        kill_when_told(Path(command["armed"]))
    sys.argv = ["lethe", *command["arguments"]]
    main()


def _fork(command: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        _become(command)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - a fork may not return into the loop of its parent
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _answer_commands() -> None:
    living: set[int] = set()
    for line in sys.stdin:
        command = json.loads(line)
        if (ended := command.get("reap")) is not None:
            print(os.waitstatus_to_exitcode(os.waitpid(ended, 0)[1]), flush=True)
            living.discard(ended)
        else:
            born = _fork(command)
            living.add(born)
            print(born, flush=True)
    for pid in living:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    building.ProcessPool = ForkingProcessPool  # type: ignore[attr-defined] # a command has no constructor to give it to
    for command in SERVICE.values():
        loaded(command)  # and so is everything that it imports
    # A thousand regular expressions, which transformers compiles on its first loading of any model, and then keeps.
    get_checkpoint_conversion_mapping("llama")
    gc.freeze()  # what is here already is everybody's, and nobody's garbage
    _answer_commands()

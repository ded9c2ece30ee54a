"""A process that has imported the command line once and forks for every command: a fork is what a fresh start would be.

Tests would otherwise spend most of their time on importing the same libraries. Reads one JSON
object a line from standard input: a command to begin, answered with its process id, or the id of a process to wait for,
answered with its exit code.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from service.entrypoints.cli import main


def _become(command: dict[str, Any]) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(command["environment"])
    sys.argv = ["lethe", *command["arguments"]]
    main()


def _begin(command: dict[str, Any]) -> int:
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


def _answer(command: dict[str, Any]) -> int:
    if "wait_for" in command:
        return os.waitstatus_to_exitcode(os.waitpid(command["wait_for"], 0)[1])
    return _begin(command)


if __name__ == "__main__":
    for line in sys.stdin:
        print(_answer(json.loads(line)), flush=True)

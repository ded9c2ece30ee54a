"""A process that has imported the command line once and forks for every command: a fork is what a fresh start would be.

Reads one JSON object a line from standard input (arguments, environment, files for standard output and error), and
answers each with a line that holds the exit code.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

from service.entrypoints.cli import main


def _become(command: dict[str, object]) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(str(command[name]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(command["environment"])  # type: ignore[call-overload]
    sys.argv = ["lethe", *command["arguments"]]  # type: ignore[misc]
    main()


def _run(command: dict[str, object]) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
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


if __name__ == "__main__":
    for line in sys.stdin:
        print(_run(json.loads(line)), flush=True)

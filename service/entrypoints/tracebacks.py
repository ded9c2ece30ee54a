"""Where an error happened, without its message: a driver's message may quote the row that it choked on."""

from __future__ import annotations

from types import TracebackType


def describe(error: BaseException) -> str:
    """The type of an exception and where it was raised, without its message."""
    inner = frames(error.__traceback__)[-1:]
    return f"{type(error).__name__} at {inner[0] if inner else 'an unknown place'}"


def frames(traceback: TracebackType | None) -> list[str]:
    """One line a frame, the outermost first: file, line and function."""
    found = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        found.append(f"{code.co_filename}:{traceback.tb_lineno} in {code.co_name}")
        traceback = traceback.tb_next
    return found

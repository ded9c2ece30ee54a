"""When a device's memory is full: the request is refused, what can be given back is, and the next one finds room."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from service.errors import OutOfMemory

Result = TypeVar("Result")


def within_memory(run: Callable[[], Result], release: Callable[[], None] = lambda: None) -> Result:
    """What `run` returns.

    Raises:
        OutOfMemory: the device's memory was full; by then `release` was called and torch's own reserve given back.
    """
    try:
        return run()
    except torch.OutOfMemoryError:
        pass  # its traceback holds the tensors that filled the memory, so it must be gone before anything is given back
    release()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise OutOfMemory("The memory of this server's device is full. Try again later, or ask about fewer candidates.")

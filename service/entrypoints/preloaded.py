"""What the fork server of a service's builds does once: it loads and checks a small model, as the environment names it.

Tasks of another model, or of one that a command line named, load it themselves.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from service.config import load_settings
from service.errors import LetheError
from service.llm.frozen import load_for_children
from service.llm.spec import ModelSpec

_SMALL = 2**28  # bytes of files; who only waits should not hold more

torch.set_num_threads(1)  # threads would not survive the forks
with suppress(LetheError, OSError):  # a task will say what is wrong
    settings = load_settings()
    files = [path.stat().st_size for path in Path(settings.model).glob("*.safetensors")]
    if settings.device == "cpu" and 0 < sum(files) <= _SMALL:
        load_for_children(ModelSpec(settings.model, settings.model_revision, settings.dtype, settings.device))

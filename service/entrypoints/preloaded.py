"""What the fork server of a service's builds does once: it loads and checks a small model, as the environment names it.

Tasks of another model, or of one that a command line named, load it themselves.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from service.config import Settings, load_settings
from service.errors import LetheError
from service.llm.devices import gpu_driver_here
from service.llm.frozen import load_for_children
from service.llm.spec import ModelSpec

_SMALL = 2**28  # bytes of files; who only waits should not hold more


def _builds_on_the_processor(settings: Settings) -> bool:
    # The driver must not be asked here: who asks cannot be forked any more. Where in doubt, a task loads its own model.
    return not gpu_driver_here() if "auto" in (asked := {settings.device, settings.train_device}) else asked == {"cpu"}


torch.set_num_threads(1)  # threads would not survive the forks
with suppress(LetheError, OSError):  # a task will say what is wrong
    settings = load_settings()
    files = [path.stat().st_size for path in Path(settings.model).glob("*.safetensors")]
    if _builds_on_the_processor(settings) and 0 < sum(files) <= _SMALL:
        dtype = "float32" if settings.dtype == "auto" else settings.dtype
        load_for_children(ModelSpec(settings.model, settings.model_revision, dtype, "cpu"))

"""What the fork server does once so that no task's process has to: imports, and what libraries prepare on their first use.

Nothing is computed here that a result could depend on.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from importlib import import_module

with suppress(ImportError):
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    # A thousand regular expressions, whatever the model: most of the time that loading a small one takes.
    get_checkpoint_conversion_mapping("llama")

import_module("transformers.models.llama.modeling_llama")  # the bundled model's

for task in ("planning.embedding", "workers.prefill_task", "training.training", "training.validation", "item_model"):
    import_module(
        f"service.building.{task}"
    )  # where a task finds its function, and PEFT with it: a quarter of a second

gc.freeze()  # what is here is nobody's garbage; a collection would copy its pages into every fork

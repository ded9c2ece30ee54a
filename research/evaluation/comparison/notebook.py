"""Results on disk, each under the digest of what it was made from: a comparison that was killed goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapters_store import digest_of

_FORMAT = "lethe-comparison-1"


class Notebook:
    """A folder of JSON files, one a result."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def recall(self, kind: str, inputs: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What `make` gave (JSON values) when it was first called for these inputs.

        `inputs` are JSON values that hold all that the result depends on.
        """
        path = self._folder / f"{digest_of([_FORMAT, kind, inputs])}.json"
        if path.exists():
            return json.loads(path.read_text())["result"]
        text = json.dumps({"kind": kind, "inputs": inputs, "result": make()}, allow_nan=False)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(text)
        os.replace(unfinished, path)
        return json.loads(text)["result"]

"""The scripts of `benchmarks/`, as modules: they are not installed, and no folder that holds them is on the path."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from tests.test_architecture import ROOT


def script(name: str) -> Any:
    """`benchmarks/<name>.py`, run anew."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses ask for the module that they are defined in
    spec.loader.exec_module(module)
    return module

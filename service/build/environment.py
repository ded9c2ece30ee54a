"""What the promise of equal bytes is made for: another library, processor or device may round another last bit."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")


def environment_of(device: str) -> dict[str, str]:
    """Platform, processor, device and library versions that computations on `device` depend on."""
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{library: version(library) for library in _LIBRARIES},
    }

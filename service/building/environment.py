"""What the promise of equal bytes is made for: another library, processor, device or kernel may round another last bit.

Libraries choose kernels when they run: by the processor's vendor and family, by the instructions it has, by the size of its
caches, and by variables. So each of these is named, and two machines of one kind that choose differently are two environments.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")
_CPUINFO = Path("/proc/cpuinfo")
# As Linux calls them, first on x86 and then on ARM.
_IDENTITY = ("vendor_id", "cpu family", "model", "cache size", "CPU implementer", "CPU architecture", "CPU part")
_X86_NUMERIC = re.compile(r"(amx|avx|f16c|fma|s?sse)")  # other flags change with the system's version, and no bit


def environment_of(device: str, variables: Mapping[str, str], cpuinfo: str | None = None) -> dict[str, str]:
    """Platform, processor, kernels, device and library versions that computations on `device` depend on.

    `variables` are those that choose kernels. `cpuinfo` describes a processor as Linux does; by default it is this one's.
    """
    described = _facts(_this_processor() if cpuinfo is None else cpuinfo)
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": ", ".join(f"{name} {described[name]}" for name in _IDENTITY if name in described),
        "instructions": _instructions(described),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "math": _math(),
        "variables": " ".join(f"{name}={value}" for name, value in sorted(variables.items())),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{library: version(library) for library in _LIBRARIES},
    }


def _this_processor() -> str:
    # Systems without that file tell in their own words what they know; on Windows that is vendor, family and model.
    return _CPUINFO.read_text() if _CPUINFO.exists() else f"model: {platform.processor()}"


def _facts(cpuinfo: str) -> dict[str, str]:
    """What /proc/cpuinfo says of the first processor: the others of a machine are like it."""
    lines = (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _instructions(facts: Mapping[str, str]) -> str:
    """Those for which numeric libraries have kernels of their own."""
    of_x86 = [flag for flag in facts.get("flags", "").split() if _X86_NUMERIC.match(flag)]
    return " ".join(sorted(of_x86 + facts.get("Features", "").split()))


def _math() -> str:
    # torch's version does not tell them where they are packaged apart from it, and either may be missing or switched off.
    stated = re.findall(r"(Math Kernel Library Version|MKL-DNN) (\S+)", torch.__config__.show())
    named = [f"{'oneDNN' if name == 'MKL-DNN' else 'MKL'} {number}" for name, number in stated]
    return ", ".join([*named, f"oneDNN {'on' if torch.backends.mkldnn.enabled else 'off'}"])

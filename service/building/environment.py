"""What the promise of equal bytes is made for: another library, processor, device or kernel may round another last bit.

Libraries choose kernels when they run: by the processor's vendor and family, by the instructions it has, by the size of its
caches, and by variables. So each of these is named, and two machines of one kind that choose differently are two environments.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib.metadata import distributions, version
from pathlib import Path

import torch

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")
_CPUINFO = Path("/proc/cpuinfo")
_DRIVER = Path("/proc/driver/nvidia/version")
_OF_CUDA = re.compile(r"(nvidia-c|nvidia-nv|triton)", re.IGNORECASE)
# As Linux calls them, first on x86 and then on ARM.
_IDENTITY = ("vendor_id", "cpu family", "model", "cache size", "CPU implementer", "CPU architecture", "CPU part")
_X86_NUMERIC = re.compile(r"(amx|avx|f16c|fma|s?sse)")  # other flags change with the system's version, and no bit


def environment_of(
    device: str, variables: Mapping[str, str], cpuinfo: str | None = None, gpu: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Platform, processor, kernels, device and library versions that computations on `device` depend on.

    `variables` are those that choose kernels. `cpuinfo` describes a processor as Linux does; by default it is this one's.
    `gpu` is what `gpu_facts` says of a GPU; by default it is asked of `device`. A processor's environment has nothing of it.
    """
    of_gpu = {} if device == "cpu" else gpu_facts(device) if gpu is None else gpu
    described = _facts(_this_processor() if cpuinfo is None else cpuinfo)
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": ", ".join(f"{name} {described[name]}" for name in _IDENTITY if name in described),
        "instructions": _instructions(described),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "math": _math(),
        "variables": " ".join(f"{name}={value}" for name, value in sorted(variables.items())),
        "device": of_gpu.get("name", device),
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{library: version(library) for library in _LIBRARIES},
        **{f"gpu {fact}": value for fact, value in of_gpu.items() if fact != "name"},
    }


def gpu_facts(device: str, driver: str | None = None) -> dict[str, str]:
    """What decides the bits of a GPU beside torch's version: its kind, the driver, the libraries that bring kernels.

    Which GPU of one kind it is, its clock and its serial number are not among them. `driver` describes the driver as Linux
    does; by default it is this machine's.
    """
    found = torch.cuda.get_device_properties(device)
    told = driver if driver is not None else _DRIVER.read_text() if _DRIVER.exists() else ""
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "processors": str(found.multi_processor_count),  # kernels divide sums by their number
        "memory": str(found.total_memory),  # so do workspaces
        "driver": driver_version(told),
        **library_versions(),
    }


def driver_version(told: str) -> str:
    """The driver's version, from what Linux tells of it; empty where nothing is told."""
    named = re.search(r"Kernel Module.*?(\d+\.[\d.]*\d)", told)
    return named[1] if named else ""


def library_versions() -> dict[str, str]:
    """CUDA, cuDNN and whatever of CUDA came as packages of their own."""
    packaged = {found.name.lower(): found.version for found in distributions() if _OF_CUDA.match(found.name or "")}
    return {
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "libraries": " ".join(f"{name}={packaged[name]}" for name in sorted(packaged)),
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

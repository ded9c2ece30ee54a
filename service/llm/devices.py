"""Which device computes, in which precision, and why: pure choices over what torch sees of this machine.

A fork server must not ask the driver: whoever it starts could not use a GPU any more. It asks `gpu_driver_here` instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from service.errors import InvalidSetting

_DRIVER = Path("/proc/driver/nvidia/version")
_HAS_BFLOAT16 = (8, 0)  # compute capability from which the matrix units take it (Ampere)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as torch names it."""

    name: str
    capability: tuple[int, int]
    memory: int  # bytes


@dataclass(frozen=True, slots=True)
class SeenDevices:
    """What torch sees here. `built`: it was built with CUDA at all."""

    gpus: tuple[Gpu, ...] = ()
    built: bool = False

    @classmethod
    def look(cls) -> SeenDevices:
        """Ask torch, and so the driver."""
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return cls(tuple(_gpu(number) for number in range(count)), torch.backends.cuda.is_built())


@dataclass(frozen=True, slots=True)
class Computing:
    """Where the frozen model serves and where it trains, in which precision, and in words why."""

    device: str
    dtype: str
    train_device: str
    why: str

    @property
    def shares_a_gpu(self) -> bool:
        """Whether training and serving are on one GPU."""
        return self.device == self.train_device and self.device != "cpu"


def choose_computing(device: str, dtype: str, train_device: str, seen: SeenDevices) -> Computing:
    """From the settings, each of which may be `auto`, what they come to on a machine like `seen`.

    Raises:
        InvalidSetting: a GPU is named that torch does not see.
    """
    serving, why_device = _device_of("LETHE_DEVICE", device, seen)
    precision, why_dtype = _dtype_of(dtype, serving, seen)
    training, why_training = _training_device(train_device, serving, seen)
    return Computing(serving, precision, training, f"{why_device}; {why_dtype}; {why_training}")


def gpu_driver_here() -> bool:
    """Whether there may be a GPU for torch, found out without the driver."""
    return torch.backends.cuda.is_built() and _DRIVER.exists()


def _gpu(number: int) -> Gpu:
    found = torch.cuda.get_device_properties(number)
    return Gpu(found.name, (found.major, found.minor), found.total_memory)


def _device_of(setting: str, asked: str, seen: SeenDevices) -> tuple[str, str]:
    if asked == "cpu":
        return "cpu", "cpu, as it was set"
    if asked != "auto":
        number = int(asked.partition(":")[2] or 0)
        _require_gpu(setting, asked, number, seen)
        return f"cuda:{number}", f"cuda:{number} ({seen.gpus[number].name}), as it was set"
    if seen.gpus:
        return "cuda:0", f"cuda:0 ({seen.gpus[0].name}), the first GPU that torch sees"
    return "cpu", f"cpu, as {_why_no_gpu(seen)}"


def _dtype_of(asked: str, device: str, seen: SeenDevices) -> tuple[str, str]:
    if asked != "auto":
        return asked, f"{asked}, as it was set"
    if device == "cpu":
        return "float32", "float32, as on every processor"
    if seen.gpus[_number(device)].capability >= _HAS_BFLOAT16:
        return "bfloat16", "bfloat16, which this GPU has"
    return "float32", "float32, as this GPU has no bfloat16"


def _training_device(asked: str, serving: str, seen: SeenDevices) -> tuple[str, str]:
    if asked != "auto":
        device, why = _device_of("LETHE_TRAIN_DEVICE", asked, seen)
        return device, f"training on {why}"
    others = [] if serving == "cpu" else _alike(_number(serving), seen)
    if others:
        return f"cuda:{others[-1]}", f"training on cuda:{others[-1]}, a GPU of the same kind that does not serve"
    return serving, "training on the same device"


def _alike(number: int, seen: SeenDevices) -> list[int]:
    return [other for other, gpu in enumerate(seen.gpus) if other != number and gpu == seen.gpus[number]]


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _why_no_gpu(seen: SeenDevices) -> str:
    return "torch sees no GPU" if seen.built else "this torch was built without CUDA"


def _require_gpu(setting: str, asked: str, number: int, seen: SeenDevices) -> None:
    if number >= len(seen.gpus):
        there = f"torch sees {len(seen.gpus)} GPU(s)" if seen.gpus else _why_no_gpu(seen)
        raise InvalidSetting(f"{setting} names {asked}, but {there}; set it to auto or cpu, or give torch that GPU")

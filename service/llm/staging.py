"""From the host's memory to a device without waiting: nothing of a forward pass may hold up the thread that launches it."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one type on `device`, in one copy from pinned memory that nobody waits for; on a processor these themselves.

    The copy comes before whatever is launched on the same stream afterwards. The pinned memory is torch's own, which uses it
    again only once the copy is done.
    """
    if device.type == "cpu":
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    staged = flat.pin_memory() if device.type == "cuda" else flat
    parts = staged.to(device, non_blocking=True).split([tensor.numel() for tensor in tensors])
    return tuple(part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))

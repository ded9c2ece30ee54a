"""Memory that a process shares with those it starts: a file without a name, on no disk, that ends with its last user."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any

import torch
from torch import Tensor

AVAILABLE = hasattr(os, "memfd_create")
_ALIGNMENT = 64  # bytes, as torch aligns what it allocates: a product's last bits may depend on it


@dataclass(frozen=True, slots=True)
class Block:
    """Where tensors lie."""

    offset: int
    size: int  # bytes, in whole pages
    tensors: tuple[tuple[torch.dtype, tuple[int, ...]], ...]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], offset: int) -> Block:
        """The room that these take from `offset` on."""
        size = sum(_rounded(tensor.nbytes, _ALIGNMENT) for tensor in tensors)
        return cls(offset, whole_pages(size), tuple((tensor.dtype, tuple(tensor.shape)) for tensor in tensors))

    @property
    def end(self) -> int:
        return self.offset + self.size


class SharedMemory:
    """May be given to a process when it is started. Room takes no memory until it is written."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = os.memfd_create("lethe-readings") if descriptor is None else descriptor
        self._size = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherited, (DupFd(self._descriptor),)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def reserve(self, size: int) -> int:
        """Room for `size` bytes more, in whole pages; where it begins."""
        offset = self._size
        self._size += size
        os.ftruncate(self._descriptor, self._size)
        return offset

    def write(self, block: Block, tensors: Sequence[Tensor]) -> None:
        """Copy these to where the block says."""
        for assignment, tensor in zip(self.read(block), tensors, strict=True):
            assignment.copy_(tensor)

    def read(self, block: Block) -> list[Tensor]:
        """Views of what lies there."""
        memory = mmap.mmap(self._descriptor, block.size, offset=block.offset)
        found: list[Tensor] = []
        start = 0
        for dtype, shape in block.tensors:
            count = torch.Size(shape).numel()
            flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=start) if count else torch.empty(0)
            found.append(flat.view(shape))
            start += _rounded(flat.nbytes, _ALIGNMENT)
        return found

    def wipe(self, offset: int, size: int) -> None:
        """Give whole pages back to the system; who looks there again finds zeros."""
        if size:
            with mmap.mmap(self._descriptor, size, offset=offset) as view:
                view.madvise(mmap.MADV_REMOVE)


def whole_pages(size: int) -> int:
    """`size` bytes in whole pages, at least one."""
    return _rounded(max(size, 1), mmap.PAGESIZE)


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _inherited(descriptor: Any) -> SharedMemory:
    return SharedMemory(descriptor.detach())

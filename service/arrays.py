"""Arrays as bytes in NumPy's own format: how builds write them and scoring reads them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def array_bytes(array: NDArray[Any]) -> bytes:
    """The array in NumPy's own format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def load_array(content: bytes) -> NDArray[np.float32]:
    """The array that `array_bytes` wrote; never unpickled."""
    array: NDArray[np.float32] = np.load(io.BytesIO(content), allow_pickle=False)
    return array

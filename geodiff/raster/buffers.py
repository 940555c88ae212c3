"""Memory that is used again: fresh memory from the system costs a page fault every 4 KiB, which is a good part of the
time of a small image.

A buffer is free when nothing but this module refers to it: arrays and tensors made of it hold a reference for as long
as they live, so there is nothing to give back.
"""

from __future__ import annotations

import sys
import threading
from math import prod

import numpy as np
from numpy.typing import DTypeLike

#: Bytes that are kept at most.
LIMIT = 1 << 28
_LINE = 64
_lock = threading.Lock()
#: Each with the index of its first byte on a cache line.
_buffers: list[tuple[np.ndarray, int]] = []
_probe = [np.empty(0)]
_UNUSED = sys.getrefcount(_probe[0])


def take(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array that starts on a cache line, not initialised."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    with _lock:
        room, start = _room(size)
        return room[start : start + size].view(dtype).reshape(shape)


def _room(size: int) -> tuple[np.ndarray, int]:
    """A free buffer of at least `size` bytes and not many more, else a new one."""
    for i in range(len(_buffers) - 1, -1, -1):
        if size <= len(_buffers[i][0]) - _LINE <= size + size // 4 and sys.getrefcount(_buffers[i][0]) == _UNUSED:
            _buffers.append(_buffers.pop(i))  # the one used last is last
            return _buffers[-1]
    fresh = np.empty(size + size // 8 + _LINE, np.uint8)
    _buffers.append((fresh, -fresh.ctypes.data % _LINE))
    while sum(len(each) for each, _ in _buffers[:-1]) > LIMIT:
        del _buffers[0]
    return _buffers[-1]

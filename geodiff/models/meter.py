"""What a computation costs: operations and peak memory, counted on the meta device or measured elsewhere.

On the meta device nothing is computed and nothing stored, so the full network is counted on any machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from geodiff.models.attention import BACKENDS, set_attention

#: Stands in for a fused kernel: the output's memory and nothing else, whatever the device.
FUSED = "fused"


class MemoryMeter(TorchDispatchMode):
    """Counts the bytes of tensors that are alive: `live` now, `peak` at most, of those made inside.

    Work space inside kernels is not seen, nor what a memory allocator rounds up or keeps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = {tensor.untyped_storage() for tensor in tree_iter((args, kwargs)) if isinstance(tensor, Tensor)}
        output = func(*args, **(kwargs or {}))
        for tensor in tree_iter(output):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), given)
        return output

    def _count(self, storage: Any, given: set[Any]) -> None:
        if storage in given or storage in self._known:
            return
        size = storage.nbytes()
        self._known.add(storage)
        weakref.finalize(storage, self._free, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _free(self, size: int) -> None:
        self.live -= size


@dataclass(frozen=True)
class Cost:
    """flops: two for each multiply and add. peak: bytes of intermediate tensors at most, weights not among them."""

    flops: int
    peak: int


@contextmanager
def fused_attention(*networks: nn.Module) -> Iterator[None]:
    """Inside, our attention takes the memory of a fused kernel and counts no operations; results mean nothing."""
    BACKENDS[FUSED] = lambda query, key, value: torch.empty_like(query)
    for network in networks:
        set_attention(network, FUSED)
    try:
        yield
    finally:
        for network in networks:
            set_attention(network, "sdpa")
        del BACKENDS[FUSED]


def cost(run: Any, *networks: nn.Module) -> Cost:
    """Operations and peak memory of `run()`, which calls `networks`; run twice, because a fused kernel hides its
    operations and an open one takes memory that a fused one does not.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    meter = MemoryMeter()
    with torch.no_grad(), fused_attention(*networks), meter:
        run()
    return Cost(counter.get_total_flops(), meter.peak)


def weight_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))

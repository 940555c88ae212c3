"""Randomness of training, drawn for each sample by itself.

What a sample meets (noise, timestep, what is dropped) depends on the seed and on its number in the run alone, so a step
is the same on one process or on several, taken at once or in parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Draws:
    """Random numbers for a batch of samples.

    seed: of the run. positions: number of each sample in the run, counted from its first step. device: where the
    numbers are wanted; large fields of noise are drawn there, and differ from one kind of device to another.
    """

    def __init__(self, seed: int, positions: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        seeds = [hash((seed, position)) % 2**63 for position in positions]
        self._small = [torch.Generator().manual_seed(one) for one in seeds]
        self._large = self._small
        if self.device.type != "cpu":
            self._large = [torch.Generator(self.device).manual_seed(one) for one in seeds]

    def __len__(self) -> int:
        return len(self._small)

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) in 0..1."""
        return torch.stack([torch.rand(shape, generator=one) for one in self._small]).to(self.device)

    def chance(self, probability: float) -> Tensor:
        """(B,) bool, true with this probability."""
        return self.uniform() < probability

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) of mean 0 and variance 1."""
        return torch.stack([torch.randn(shape, generator=one, device=self.device) for one in self._large])

"""Adaptive density control for bound Gaussians (3D Gaussian splatting, section 5; GaussianAvatars, section 3.3).

Children stay on their parent's triangle. Every function works on a dictionary of fields whose first axis is the
Gaussians, so that optimiser moments and statistics follow by the same calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geodiff.errors import ConfigError
from geodiff.geometry import quat_to_matrix
from geodiff.types import Camera
from recon.layers.rigged import Fields


@dataclass(frozen=True)
class DensityConfig:
    """When and how Gaussians are added and removed.

    start, stop: first and last iteration, as shares of the run. every: iterations between two rounds. max_gaussians:
    cap on the number. gradient: mean screen-space gradient (in half images) above which a Gaussian is cloned or split.
    growth: at most this share is added in a round. split_scale: metres; larger ones split, smaller ones clone.
    min_opacity: below it a Gaussian is removed, unless it is the last of its triangle.
    """

    enabled: bool = True
    start: float = 0.15
    stop: float = 0.7
    every: int = 200
    max_gaussians: int = 25_000
    gradient: float = 2e-4
    growth: float = 0.1
    split_scale: float = 0.003
    min_opacity: float = 0.01

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"density.every must be at least 1, got {self.every}: density.enabled=false turns it off")


@dataclass
class DensityStats:
    """Gradients gathered since the last round: total (N,) and number of views (N,) that saw the Gaussian."""

    total: Tensor
    count: Tensor

    @staticmethod
    def zeros(count: int, device: torch.device | str = "cpu") -> DensityStats:
        return DensityStats(torch.zeros(count, device=device), torch.zeros(count, device=device))

    def add(self, gradient: Tensor, means: Tensor, camera: Camera) -> None:
        """Adds one view. gradient, means: (N, 3) of the world means.

        A pixel of motion is z / f metres of motion across the line of sight, so the gradient on the screen follows from
        the one in the world; it is expressed in half image widths, as its usual thresholds are.
        """
        rotation = camera.viewmat[:3, :3]
        depth = means @ rotation[2] + camera.viewmat[2, 3]
        across = gradient @ rotation[:2].T
        norm = across.square().sum(-1).sqrt() * (depth / camera.K[0, 0] * (camera.width / 2)).abs()
        self.total += norm
        self.count += norm > 0

    def mean(self) -> Tensor:
        return self.total / self.count.clamp_min(1)


def last_of_triangle(binding: Tensor, opacities: Tensor, num_faces: int) -> Tensor:
    """(N,) bool: the most opaque Gaussian of each triangle, which is never removed."""
    best = torch.full((num_faces,), -torch.inf, device=binding.device)
    best.scatter_reduce_(0, binding, opacities, "amax")
    return opacities >= best[binding]


def choose(
    fields: Fields, binding: Tensor, world_scales: Tensor, stats: DensityStats, config: DensityConfig, num_faces: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Which Gaussians to keep, to clone and to split: (N,) bool each. world_scales: (N, 3) metres."""
    count = len(binding)
    opacities = torch.sigmoid(fields["opacity_logits"].detach())
    keep = (opacities > config.min_opacity) | last_of_triangle(binding, opacities, num_faces)
    gradient = torch.where(keep, stats.mean(), torch.zeros_like(stats.total))
    room = min(config.max_gaussians - int(keep.sum()), int(config.growth * count))
    grow = torch.zeros(count, dtype=torch.bool, device=binding.device)
    if room > 0:
        strongest = gradient.topk(min(room, count)).indices
        grow[strongest] = gradient[strongest] > config.gradient
    split = grow & (world_scales.amax(-1) > config.split_scale)
    return keep, grow & ~split, split


def grow_and_prune(
    fields: Fields, keep: Tensor, clone: Tensor, split: Tensor, generator: torch.Generator
) -> tuple[Fields, Tensor]:
    """Applies a choice. Returns the new fields and, for each new Gaussian, the old one it came from, (M,) int64.

    A clone is an exact copy. A split Gaussian becomes two, drawn from its own density, 1.6 times smaller.
    """
    kept = (keep & ~split).nonzero()[:, 0]
    cloned, halved = clone.nonzero()[:, 0], split.nonzero()[:, 0]
    source = torch.cat([kept, cloned, halved, halved])
    grown = {name: value.detach()[source].clone() for name, value in fields.items()}
    if len(halved):
        children = slice(len(kept) + len(cloned), None)
        noise = torch.randn(2 * len(halved), 3, generator=generator).to(source.device)
        offset = grown["log_scales"][children].exp() * noise
        rotation = quat_to_matrix(grown["quats"][children])
        grown["means"][children] += (rotation @ offset[:, :, None])[:, :, 0]
        grown["log_scales"][children] -= torch.log(torch.tensor(1.6))
    return grown, source

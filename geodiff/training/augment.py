"""Augmentations of the driving crops (paper 3.1), so that the expression latent carries neither place nor colour."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from geodiff.errors import ConfigError
from geodiff.training.draws import Draws


@dataclass(frozen=True)
class AugmentConfig:
    """How much driving crops are changed.

    strength: scales all of it; 0 leaves the crops alone. Half the widths of uniform draws about no change: brightness
    (of the range -1..1), contrast (log of the factor), saturation (of the factor), zoom (log of the scale), roll
    (radians), shift (of half a side). Largest values of draws from 0 on: blur (share of a 3x3 mean), noise (standard
    deviation).
    """

    strength: float = 1.0
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.4
    blur: float = 1.0
    noise: float = 0.06
    zoom: float = 0.2
    roll: float = 0.25
    shift: float = 0.12

    def __post_init__(self) -> None:
        if self.strength < 0 or not 0 <= self.strength * self.blur <= 1:
            raise ConfigError(
                f"`augment.strength` must be 0 or more and strength times blur at most 1; found {self.strength} and "
                f"{self.blur}."
            )


def augment_crops(crops: Tensor, draws: Draws, config: AugmentConfig) -> Tensor:
    """Pixel-wise and spatial changes, drawn for each clip: its frames stay comparable. crops: (B, T, 3, S, S) in
    -1..1."""
    if config.strength == 0:
        return crops
    values = config.strength * draws.uniform(9).to(crops)

    def both_ways(index: int, width: float) -> Tensor:
        return ((2 * values[:, index] - config.strength) * width)[:, None, None, None, None]

    def upwards(index: int, largest: float) -> Tensor:
        # Half of all crops stay as they are.
        return ((2 * values[:, index] - config.strength).clamp(min=0) * largest)[:, None, None, None, None]

    place = both_ways(7, config.shift), both_ways(8, config.shift)
    x = _warp(crops, both_ways(0, config.zoom), both_ways(1, config.roll), *place)
    x = x * both_ways(2, config.contrast).exp() + both_ways(3, config.brightness)
    grey = x.mean(dim=2, keepdim=True)
    x = grey + (x - grey) * (1 + both_ways(4, config.saturation))
    blurred = F.avg_pool2d(x.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False).view_as(x)
    x = torch.lerp(x, blurred, upwards(5, config.blur))
    noise = draws.normal(*x.shape[1:]).to(x)
    return (x + noise * upwards(6, config.noise)).clamp(-1, 1)


def _warp(crops: Tensor, log_scale: Tensor, angle: Tensor, shift_x: Tensor, shift_y: Tensor) -> Tensor:
    """Scaling, rotation (radians) and translation (in half sides) of each clip; the border is repeated."""
    log_scale, angle, shift_x, shift_y = (p.flatten() for p in (log_scale, angle, shift_x, shift_y))
    cos, sin = angle.cos() * log_scale.exp(), angle.sin() * log_scale.exp()
    matrix = torch.stack((torch.stack((cos, -sin, shift_x), dim=1), torch.stack((sin, cos, shift_y), dim=1)), dim=1)
    flat = crops.flatten(0, 1)
    grid = F.affine_grid(matrix.repeat_interleave(crops.shape[1], dim=0), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, padding_mode="border", align_corners=False).view_as(crops)

"""A perceptual term of the photometric loss, for those who have the weights of LPIPS (Zhang et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from geodiff.errors import ConfigError
from geodiff.metrics.checks import NotMeasured
from geodiff.metrics.perceptual import Lpips, load_lpips


@dataclass(frozen=True)
class PerceptualConfig:
    """weight: 0 is off. weights: folder of the networks (docs/metrics.md); None looks where metrics do. net: alex or
    vgg."""

    weight: float = 0.0
    weights: str | None = None
    net: str = "alex"

    def __post_init__(self) -> None:
        if self.net not in ("alex", "vgg"):
            raise ConfigError(f"losses.perceptual.net must be alex or vgg, got {self.net!r}")


class PerceptualLoss:
    """LPIPS of two images (H, W, 3) in 0..1 by weight; differentiable in the first."""

    def __init__(self, network: Lpips, weight: float, device: torch.device) -> None:
        self._network, self._weight = network.to(device), weight

    @staticmethod
    def of(config: PerceptualConfig, device: torch.device) -> PerceptualLoss | None:
        """The loss, or None where it is off. Raises ConfigError where it is on and its weights are not there."""
        if config.weight <= 0:
            return None
        try:
            network = load_lpips(config.net, Path(config.weights) if config.weights else None)
        except NotMeasured as error:
            raise ConfigError(
                f"losses.perceptual.weight={config.weight} needs the weights of LPIPS, and {error}; or set it to 0"
            ) from error
        return PerceptualLoss(network, config.weight, device)

    def __call__(self, image: Tensor, truth: Tensor) -> Tensor:
        x, y = (picture.permute(2, 0, 1)[None] * 2 - 1 for picture in (image, truth))
        maps = self._network.layer_maps(x, y)
        return self._weight * torch.stack([layer.mean() for layer in maps]).sum()

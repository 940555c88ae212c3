"""An MLP that changes each Gaussian with the expression (GeoDiff4D, section 3.3: per-primitive attribute residuals).

Input: a learnt latent of the Gaussian, and the expression code, which is the same for all of them. Output: residuals of
position, rotation, scale, opacity and colour in the units of the stored fields. The last layer starts at zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.layers.rigged import Fields

#: Widths of the outputs, by field.
OUTPUTS = {"means": 3, "quats": 4, "log_scales": 3, "opacity_logits": 1, "sh_dc": 3}
#: What one unit of output changes, in the units of the fields.
STEPS = {"means": 0.3, "quats": 0.1, "log_scales": 0.3, "opacity_logits": 1.0, "sh_dc": 0.3}


@dataclass(frozen=True)
class AttributeConfig:
    """The MLP and its training.

    latent: numbers a Gaussian. hidden: of the hidden layer. rate: Adam's. start: share of the run before
    which it rests. small: weight of the mean square of its outputs. noise: of the code while fitting, in deviations.
    """

    enabled: bool = False
    latent: int = 8
    hidden: int = 32
    rate: float = 1e-3
    start: float = 0.1
    small: float = 0.02
    noise: float = 0.3


class AttributeNet(nn.Module):
    """Latents (N, d) and code (tokens, width) -> outputs (N, 14), in steps of `STEPS`."""

    def __init__(self, config: AttributeConfig, tokens: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.own = nn.Linear(config.latent, config.hidden, bias=False)
        self.shared = nn.Linear(tokens * width, config.hidden)
        self.last = nn.Linear(config.hidden, sum(OUTPUTS.values()))
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, latents: Tensor, code: Tensor) -> Tensor:
        # The code's part of the first layer is the same for all Gaussians, so it is worked out once.
        return self.last(functional.relu(self.own(latents) + self.shared(code.flatten())))


def add_residuals(fields: Fields, outputs: Tensor) -> Fields:
    """Fields of N Gaussians with the residuals of outputs (N, 14)."""
    parts = dict(zip(OUTPUTS, outputs.split(list(OUTPUTS.values()), 1), strict=True))
    changed = {name: fields[name] + STEPS[name] * part.view_as(fields[name]) for name, part in parts.items()}
    return {**fields, **changed}


def first_latents(count: int, config: AttributeConfig, seed: int) -> Tensor:
    """(N, d) small random latents, so that Gaussians can be told apart."""
    return 0.5 * torch.randn(count, config.latent, generator=torch.Generator().manual_seed(seed))

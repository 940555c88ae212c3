"""A U-Net that bends the head by its expression (GeoDiff4D, section 3.3; after CAP4D's deformation maps).

Input: where the surface is, texel by texel, when the expression alone moves it: canonical space, no global pose, no
residual of the shape. Output: how far each texel moves from there, in the same space, before the joints turn it. The
expression code enters by cross-attention at the coarsest level. The last layer starts at zero, so the start is the
identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from geodiff.errors import ConfigError


@dataclass(frozen=True)
class DeformConfig:
    """The U-Net and its training.

    grid: texels a side. patch: texels a side that the network takes together. channels: of its levels, each half the
    size of the one before. heads: of the attention. reach: metres that one unit of output moves. rate: Adam's. start:
    share of the run before which it rests. smooth, small: weights of the losses that keep neighbours together and
    movements small, in millimetres. noise: of the code while fitting, in its deviations.
    """

    enabled: bool = False
    grid: int = 128
    patch: int = 4
    channels: list[int] | None = None
    heads: int = 2
    reach: float = 0.01
    rate: float = 1e-3
    start: float = 0.1
    smooth: float = 0.01
    small: float = 0.0001
    noise: float = 0.3

    def __post_init__(self) -> None:
        levels = len(self.widths)
        if self.grid % (self.patch * 2 ** (levels - 1)):
            raise ConfigError(
                f"deform.grid must be a multiple of {self.patch * 2 ** (levels - 1)} for patches of {self.patch} and "
                f"{levels} levels, got {self.grid}"
            )
        if any(width % self.heads or width < 1 for width in self.widths):
            raise ConfigError(f"deform.channels must be multiples of {self.heads} heads, got {self.widths}")

    @property
    def widths(self) -> list[int]:
        return self.channels or [16, 32]


class _Block(nn.Module):
    """Two 3x3 convolutions beside a short cut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.second(functional.silu(self.first(functional.silu(x))))


class _Attention(nn.Module):
    """Places look at the code's tokens. x: (1, C, H, W); tokens: (K, W) -> (1, C, H, W)."""

    def __init__(self, channels: int, tokens: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(width, channels, bias=False)
        self.value = nn.Linear(width, channels)
        self.out = nn.Linear(channels, channels)
        #: A single token leaves attention nothing to choose from; learnt ones beside it make it depend on the place.
        self.own = nn.Parameter(0.1 * torch.randn(4, width))
        self.mix = nn.Linear(width, 4 * width) if tokens == 1 else None

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        if self.mix is not None:
            tokens = torch.cat([tokens, self.mix(tokens).view(4, -1)])
        tokens = torch.cat([tokens, self.own])
        places = x.flatten(2).transpose(1, 2)
        query, key, value = (
            t.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for t in (self.query(places), self.key(tokens)[None], self.value(tokens)[None])
        )
        seen = functional.scaled_dot_product_attention(query, key, value)
        seen = self.out(seen.transpose(-3, -2).flatten(-2)).transpose(1, 2)
        return x + seen.view(1, channels, height, width)


class DeformNet(nn.Module):
    """Position map (S, S, 3) and mask, expression code (tokens, width) -> movement of the texels (S * S, 3), metres."""

    def __init__(self, config: DeformConfig, tokens: int, width: int) -> None:
        super().__init__()
        self.config = config
        widths, texels = config.widths, config.patch**2
        self.first = nn.Conv2d(4 * texels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip([widths[0], *widths], widths, strict=False))
        self.attend = _Attention(widths[-1], tokens, width, config.heads)
        self.middle = _Block(widths[-1], widths[-1])
        pairs = list(zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True))
        self.up = nn.ModuleList(_Block(a + b, b) for a, b in pairs)
        self.last = nn.Conv2d(widths[0], 3 * texels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, positions: Tensor, tokens: Tensor) -> Tensor:
        """positions: (4, S, S), about -1..1, the last channel being the mask."""
        x = self.first(functional.pixel_unshuffle(positions[None], self.config.patch))
        kept = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else functional.avg_pool2d(x, 2))
            kept.append(x)
        x = self.middle(self.attend(kept.pop(), tokens))
        for block in self.up:
            x = block(torch.cat([functional.interpolate(x, scale_factor=2.0), kept.pop()], 1))
        moved = functional.pixel_shuffle(self.last(functional.silu(x)), self.config.patch)
        return self.config.reach * moved[0].flatten(1).T

"""The pose-free expression encoder (paper 3.1): a face crop to a few tokens."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from geodiff.errors import ConfigError


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm, halving the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        small = F.avg_pool2d(x, 2)
        hidden = self.conv1(F.silu(F.avg_pool2d(self.norm1(x), 2)))
        return self.skip(small) + self.conv2(F.silu(self.norm2(hidden)))


class ExpressionEncoder(ModelMixin, ConfigMixin):
    """(N, 3, crop, crop) face crops in [-1, 1] to (N, tokens, width) expression latents.

    Everything passes through `bottleneck` numbers, which leaves no room for the appearance (paper 3.1). `null`
    stands for "no expression given" in guidance: learned, or zeros.
    """

    @register_to_config
    def __init__(
        self,
        tokens: int = 32,
        width: int = 16,
        channels: tuple[int, ...] = (64, 128, 256, 512),
        bottleneck: int = 512,
        crop: int = 64,
        null_kind: str = "learned",
    ) -> None:
        super().__init__()
        if null_kind not in ("learned", "zero"):
            raise ConfigError(f"`null_kind` must be learned or zero; found {null_kind!r}.")
        stages = len(channels)
        side = crop // 2**stages
        if side < 1 or crop % 2**stages:
            raise ConfigError(
                f"The face crop must be a multiple of {2**stages} pixels for {stages} stages; found {crop}."
            )
        self.first = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.Sequential(
            *(ResidualBlock(channels[max(i - 1, 0)], channels[i]) for i in range(stages)),
            nn.GroupNorm(8, channels[-1]),
            nn.SiLU(),
        )
        self.squeeze = nn.Linear(channels[-1] * side * side, bottleneck)
        self.expand = nn.Sequential(nn.SiLU(), nn.Linear(bottleneck, tokens * width))
        self.norm = nn.LayerNorm(width)
        self.null = nn.Parameter(torch.zeros(tokens, width), requires_grad=null_kind == "learned")

    def forward(self, crops: Tensor) -> Tensor:
        size = self.config.crop
        if crops.shape[-2:] != (size, size):
            crops = F.interpolate(crops, size=(size, size), mode="bilinear", antialias=True)
        code = self.squeeze(self.blocks(self.first(crops)).flatten(1))
        tokens = self.expand(code).unflatten(1, (self.config.tokens, self.config.width))
        return self.norm(tokens)

    def drop(self, tokens: Tensor, dropped: Tensor) -> Tensor:
        """(B, T, tokens, width) with the null tokens in the clips where dropped (B,) is true."""
        return torch.where(dropped[:, None, None, None], self.null.to(tokens.dtype), tokens)

    def weights_hash(self) -> str:
        """Hex SHA-256 of the weights in half precision, recorded by clip sets and avatars; storage precision does
        not change it.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().to(torch.float16).contiguous().numpy().tobytes())
        return digest.hexdigest()

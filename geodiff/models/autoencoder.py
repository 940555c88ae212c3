"""Images to latents and back, behind one small interface.

`encode` takes (N, 3, H, W) in [-1, 1] and returns (N, channels, H / factor, W / factor) of about unit variance;
`decode` is its inverse. `factor` and `channels` are read from the autoencoder wherever a latent's shape is needed.

- `KLAutoencoder`, `TinyAutoencoder`: the learned ones of diffusers (Stable Diffusion's latents), weights needed.
- `WaveletAutoencoder`: a fixed, invertible transform that needs no training; the preview networks use it.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from geodiff.errors import ConfigError, InputError


class Autoencoder(ModelMixin, ConfigMixin):
    """What the rest of the program knows of an autoencoder."""

    factor: int
    channels: int

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> (N, channels, H / factor, W / factor)."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """(N, channels, h, w) -> (N, 3, h * factor, w * factor), about [-1, 1], not clamped."""

    def pixel_weights(self) -> Tensor:
        """(channels,) with mean 1: how much a squared error of each channel weighs in the squared error of pixels."""
        return torch.ones(self.channels)

    def set_tiles(self, side: int) -> None:
        """Work in overlapping tiles of `side` pixels, their seams blended; 0 for the whole image. Ignored where the
        transform is small anyway.
        """

    def check_size(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if height % self.factor or width % self.factor or not height or not width:
            raise InputError(
                f"Image sides must be multiples of {self.factor} for this autoencoder; found {height}x{width}: "
                "resize the image."
            )


class WaveletAutoencoder(Autoencoder):
    """A wavelet-packet transform: log2(factor) levels of the biorthogonal CDF 9/7 filter pair, every band split again.

    The filters are those of JPEG 2000's lossy mode, by lifting with symmetric extension, close to orthonormal, so
    that a squared error of (unweighted) latents is about that of pixels. Basis functions are smooth and overlap
    their neighbours: a network output of low rank over the channels blurs, it does not show a grid of blocks.

    Channels: 3 * factor**2, bands ordered from low to high frequency, three colours each. Amplitudes of natural
    images fall about as 1 / frequency; each band is multiplied by the inverse of that law raised to `whitening`, so
    that with 1 all bands have about unit variance and with 0 the transform is orthonormal up to one factor.
    """

    @register_to_config
    def __init__(self, factor: int = 8, whitening: float = 1.0) -> None:
        super().__init__()
        levels = factor.bit_length() - 1
        if factor < 2 or 2**levels != factor:
            raise ConfigError(
                f"The wavelet factor must be a power of two of at least 2; found {factor}: use 2, 4 or 8."
            )
        self.factor = factor
        self.levels = levels
        self.channels = 3 * factor**2
        bands = sorted(itertools.product(range(factor), repeat=2), key=lambda band: (sum(b * b for b in band), band))
        order = torch.tensor([row * factor + column for row, column in bands])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("inverse_order", order.argsort(), persistent=False)
        gains = torch.tensor([band_amplitude(band, factor) for band in bands]) ** -whitening
        if whitening < 1:
            # The gains leave the mean energy at 1 under the amplitude law.
            law = torch.tensor([band_amplitude(band, factor) for band in bands])
            gains = gains / (gains * law).square().mean().sqrt()
        self.register_buffer("gains", gains.repeat_interleave(3)[:, None, None], persistent=False)
        # A module without parameters has no dtype or device of its own in diffusers' eyes.
        self.register_buffer("anchor", torch.zeros(()), persistent=True)

    def encode(self, images: Tensor) -> Tensor:
        self.check_size(images)
        rows, columns = (packet_matrix(n, self.levels).to(images) for n in images.shape[-2:])
        count, _, height, width = images.shape
        with torch.autocast(images.device.type, enabled=False):  # The transform is exact in the images' own precision.
            coefficients = rows @ images @ columns.T
        f = self.factor
        split = coefficients.reshape(count, 3, f, height // f, f, width // f)
        bands = split.permute(0, 2, 4, 1, 3, 5).reshape(count, f * f, 3, height // f, width // f)
        return bands[:, self.order].flatten(1, 2) * self.gains

    def decode(self, latents: Tensor) -> Tensor:
        count, _, h, w = latents.shape
        f = self.factor
        bands = (latents / self.gains).reshape(count, f * f, 3, h, w)[:, self.inverse_order]
        coefficients = bands.reshape(count, f, f, 3, h, w).permute(0, 3, 1, 4, 2, 5).reshape(count, 3, f * h, f * w)
        rows, columns = (packet_matrix(f * n, self.levels, inverse=True).to(latents) for n in (h, w))
        with torch.autocast(latents.device.type, enabled=False):
            return rows @ coefficients @ columns.T

    def pixel_weights(self) -> Tensor:
        weights = self.gains.flatten() ** -2
        return weights / weights.mean()


def band_amplitude(band: tuple[int, ...], factor: int) -> float:
    """Typical standard deviation of a band's coefficients, from portraits in [-1, 1] on white and their normal maps."""
    frequency = (band[0] ** 2 + band[1] ** 2) ** 0.5
    return 0.6 * factor if frequency == 0 else 0.09 * factor / frequency**1.2


# Lifting coefficients of the CDF 9/7 pair (Daubechies and Sweldens 1998, section 7.7) and its scaling.
LIFTING = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
SCALING = 1.149604398860241


def split_bands(signal: Tensor) -> tuple[Tensor, Tensor]:
    """One CDF 9/7 analysis step along the first axis (even length): the low and the high band, each half as long."""
    even, odd = signal[0::2].clone(), signal[1::2].clone()
    for predict, update in zip(LIFTING[0::2], LIFTING[1::2], strict=True):
        odd += predict * (even + _later(even))
        even += update * (odd + _earlier(odd))
    return even * SCALING, odd / SCALING


def merge_bands(low: Tensor, high: Tensor) -> Tensor:
    """The exact inverse of `split_bands`."""
    even, odd = low / SCALING, high * SCALING
    for predict, update in zip(LIFTING[-2::-2], LIFTING[-1::-2], strict=True):
        even = even - update * (odd + _earlier(odd))
        odd = odd - predict * (even + _later(even))
    return torch.stack((even, odd), dim=1).flatten(0, 1)


def _later(even: Tensor) -> Tensor:
    """The even neighbour after each odd sample; mirrored at the end."""
    return torch.cat((even[1:], even[-1:]))


def _earlier(odd: Tensor) -> Tensor:
    """The odd neighbour before each even sample; mirrored at the start."""
    return torch.cat((odd[:1], odd[:-1]))


def _analyse(signal: Tensor, levels: int) -> list[Tensor]:
    """All 2**levels bands in order of rising frequency. A high band holds its frequencies reversed, hence the swaps."""
    if levels == 0:
        return [signal]
    low, high = split_bands(signal)
    return _analyse(low, levels - 1) + _analyse(high, levels - 1)[::-1]


def _synthesise(bands: list[Tensor]) -> Tensor:
    if len(bands) == 1:
        return bands[0]
    half = len(bands) // 2
    return merge_bands(_synthesise(bands[:half]), _synthesise(bands[half:][::-1]))


@lru_cache(maxsize=32)
def packet_matrix(size: int, levels: int, inverse: bool = False) -> Tensor:
    """(size, size) matrix of the one-dimensional transform: it maps samples to the bands one after the other.

    The two-dimensional transform is separable; two dense products are faster on a CPU than lifting in many small steps.
    """
    identity = torch.eye(size, dtype=torch.float64)
    if inverse:
        return _synthesise(list(identity.chunk(2**levels))).float()
    return torch.cat(_analyse(identity, levels)).float()


class KLAutoencoder(Autoencoder):
    """`diffusers.AutoencoderKL`; the mean of the posterior is the latent.

    settings: its arguments; by default Stable Diffusion 1.5's (4 channels, factor 8).
    """

    network_class: type = AutoencoderKL
    defaults: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
    }

    @register_to_config
    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.network = self.network_class(**(self.defaults | (settings or {})))
        self.channels = self.network.config.latent_channels
        self.factor = 2 ** (
            len(self.network.config.block_out_channels) - 1
        )  # Both kinds halve the size between levels.
        self.scale = self.network.config.scaling_factor

    def encode(self, images: Tensor) -> Tensor:
        self.check_size(images)
        return self.network.encode(images).latent_dist.mode() * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents / self.scale).sample

    def set_tiles(self, side: int) -> None:
        self.network.use_tiling = bool(side)
        if side % self.factor:
            raise ConfigError(f"Tiles must be multiples of {self.factor} pixels for this autoencoder; found {side}.")
        if side:
            self.network.tile_sample_min_size, self.network.tile_latent_min_size = side, side // self.factor


class TinyAutoencoder(KLAutoencoder):
    """`diffusers.AutoencoderTiny`: a small stand-in that reads and writes the KL autoencoder's latents."""

    network_class = AutoencoderTiny
    defaults: dict[str, Any] = {}

    def encode(self, images: Tensor) -> Tensor:
        self.check_size(images)
        return self.network.encode(images).latents * self.scale


AUTOENCODERS: dict[str, type[Autoencoder]] = {
    "wavelet": WaveletAutoencoder,
    "kl": KLAutoencoder,
    "tiny": TinyAutoencoder,
}


def encode_clip(autoencoder: Autoencoder, frames: Tensor) -> Tensor:
    """(..., T, 3, H, W) in [-1, 1] -> (..., C, T, h, w); any leading axes."""
    latents = autoencoder.encode(frames.flatten(0, -4))
    return latents.unflatten(0, frames.shape[:-3]).transpose(-4, -3)


def decode_clip(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    """(..., C, T, h, w) -> (..., T, 3, H, W); any leading axes."""
    frames = latents.transpose(-4, -3)
    return autoencoder.decode(frames.flatten(0, -4)).unflatten(0, frames.shape[:-3])


__all__ = [
    "AUTOENCODERS",
    "Autoencoder",
    "KLAutoencoder",
    "TinyAutoencoder",
    "WaveletAutoencoder",
    "decode_clip",
    "encode_clip",
]

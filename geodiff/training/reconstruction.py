"""Training of a learned autoencoder on frames and normal maps alike: L1, edges, and a pull towards a unit Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geodiff.errors import ConfigError
from geodiff.models.autoencoder import AUTOENCODERS, Autoencoder, KLAutoencoder, TinyAutoencoder
from geodiff.training.draws import Draws

#: Least variance of a latent channel that the pull towards a unit Gaussian reckons with.
LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class ReconstructionConfig:
    """kind: of autoencoder, a name in AUTOENCODERS; empty for the model's own. gradient: weight of an L1 term on the
    differences to the next pixel, beside that of the pixels' own. mask: extra weight inside the subject. kl: weight of
    the divergence of the latents from a unit Gaussian."""

    kind: str = ""
    gradient: float = 1.0
    mask: float = 1.0
    kl: float = 1e-4

    def __post_init__(self) -> None:
        if self.kind and self.kind not in AUTOENCODERS:
            raise ConfigError(f"`reconstruction.kind` must be one of {', '.join(AUTOENCODERS)}; found {self.kind!r}.")


class ReconstructionObjective(nn.Module):
    """A batch of samples to one loss; both domains go through the same autoencoder, as in use."""

    def __init__(self, autoencoder: Autoencoder, config: ReconstructionConfig) -> None:
        super().__init__()
        if not any(parameter.numel() for parameter in autoencoder.parameters()):
            raise ConfigError(
                "only a learned autoencoder can be trained, and the wavelet one is a fixed transform: choose "
                "reconstruction.kind=tiny or kl"
            )
        self.trained = nn.ModuleDict({"autoencoder": autoencoder.requires_grad_(True)})
        self.config = config

    @property
    def autoencoder(self) -> Autoencoder:
        module = self.trained["autoencoder"]
        assert isinstance(module, Autoencoder)
        return module

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        pictures = torch.stack((batch["images"], batch["normals"]), dim=1)
        weights = 1 + self.config.mask * batch["masks"][:, None]
        if "frame_mask" in batch:
            weights = weights * batch["frame_mask"][:, None, :, None, None, None]
        weights = weights / weights.mean(dim=(1, 2, 3, 4, 5), keepdim=True).clamp(min=1e-8)
        decoded, divergence = self._round_trip(pictures.flatten(0, 2), draws)
        error = (decoded.float().view_as(pictures) - pictures) * weights
        per_domain = error.abs().mean(dim=(0, 2, 3, 4, 5))
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = per_domain.sum() + self.config.gradient * edges + self.config.kl * divergence
        parts = {"image": per_domain[0], "normal": per_domain[1], "gradient": edges, "kl": divergence}
        return loss, {name: value.detach() for name, value in parts.items()}

    def _round_trip(self, pictures: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Decoded pictures, and the latents' divergence from a unit Gaussian, nats a number."""
        autoencoder = self.autoencoder
        if isinstance(autoencoder, KLAutoencoder) and not isinstance(autoencoder, TinyAutoencoder):
            posterior = autoencoder.network.encode(pictures).latent_dist
            noise = draws.normal(len(pictures) // len(draws), *posterior.mean.shape[1:]).flatten(0, 1)
            latents = posterior.mean + posterior.std * noise
            return autoencoder.network.decode(latents).sample, posterior.kl().sum() / latents.numel()
        latents = autoencoder.encode(pictures)
        # Without a posterior of its own: that of each channel's mean and variance.
        variance, mean = torch.var_mean(latents.float(), dim=(0, 2, 3))
        variance = variance.clamp(min=LEAST_VARIANCE)
        return autoencoder.decode(latents), 0.5 * (mean.square() + variance - 1 - variance.log()).mean()


@torch.no_grad()
def reconstruction_figures(autoencoder: Autoencoder, batch: dict[str, Tensor]) -> tuple[dict[str, float], Tensor]:
    """PSNR of frames (dB, values 0..1, whole frame), mean normal error (degrees, where the truth has one) and the
    latents' standard deviation; and the pictures (B, 2, T, 3, S, S)."""
    pictures = torch.stack((batch["images"], batch["normals"]), dim=1)
    latents = autoencoder.encode(pictures.flatten(0, 2))
    decoded = autoencoder.decode(latents).float().view_as(pictures)
    squared = ((decoded[:, 0].clamp(-1, 1) - batch["images"]) / 2).square().mean()
    truth = batch["normals"]
    inside = (truth.norm(dim=2) > 0.5).flatten()
    cosine = F.cosine_similarity(decoded[:, 1], truth, dim=2).flatten()[inside].clamp(-1, 1)
    figures = {
        "psnr": -10 * math.log10(max(float(squared), 1e-10)),
        "normal_degrees": float(torch.rad2deg(cosine.acos()).mean()) if len(cosine) else math.nan,
        "latent_std": float(latents.float().std()),
    }
    return figures, decoded

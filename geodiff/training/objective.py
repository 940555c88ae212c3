"""The training objective: a batch of clips to one loss (paper 3.1, 3.2, 4.1, A.1).

A batch is the dictionary that the dataset yields, stacked along a leading B; T frames per clip, S pixels a side, axes
as in `geodiff.geometry`, images and normals in [-1, 1], channel first:
    reference_image, reference_normals, reference_pose_map (B, 3, S, S)
    images, normals, pose_maps, proposals, proposal_normals (B, T, 3, S, S); masks, visibility (B, T, 1, S, S) in 0..1
    driving (B, T, 3, crop, crop): face crops that carry the expression, ideally from another view of the same moment
    frame_mask (B, T), optional: 0 where a clip is padded
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from torch import Tensor, nn

from geodiff.models.autoencoder import decode_clip, encode_clip
from geodiff.models.joint_unet import Condition, to_latent_size
from geodiff.models.networks import Networks, build_scheduler
from geodiff.training.augment import AugmentConfig, augment_crops
from geodiff.training.draws import Draws

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class LossConfig:
    """What counts how much.

    image, normal: weight of each domain. mask, hidden: extra weight inside the subject's mask, and there where the
    proposal does not see. band: power of the autoencoder's pixel weights on the channels (sample prediction only): 1
    counts errors as pixels do, 0 counts all channels alike. pixel, gradient: weights of an L1 term on decoded frames
    and on their image gradients. expression_drop, proposal_drop: probabilities, per clip. time_bias: above 1 draws
    noisy timesteps more often. augment: of the driving crops.
    """

    image: float = 1.0
    normal: float = 1.0
    mask: float = 2.0
    hidden: float = 1.0
    band: float = 0.85
    pixel: float = 0.0
    gradient: float = 0.0
    expression_drop: float = 0.1
    proposal_drop: float = 0.1
    time_bias: float = 1.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class Prepared:
    """A batch as the networks see it. latents: (B, D, C, T, h, w) clean; reference: (B, Dr, C, h, w)."""

    latents: Tensor
    reference: Tensor
    reference_pose: Tensor
    pose_map: Tensor
    proposal: Tensor | None
    visibility: Tensor | None


@torch.no_grad()
def prepare(networks: Networks, batch: Batch) -> Prepared:
    """Encode everything that is an image and bring the maps to latent size."""
    autoencoder, config = networks.autoencoder, networks.config
    count = len(batch["images"])
    clips = [torch.stack((batch["images"], batch["normals"]), dim=1)]
    if config.proposal:
        clips.append(torch.stack((batch["proposals"], batch["proposal_normals"]), dim=1))
    encoded = encode_clip(autoencoder, torch.cat(clips))
    references = torch.stack((batch["reference_image"], batch["reference_normals"]), dim=1)
    reference = autoencoder.encode(references[:, : config.reference_domains].flatten(0, 1)).unflatten(0, (count, -1))
    size = (encoded.shape[-2], encoded.shape[-1])
    return Prepared(
        latents=encoded[:count],
        reference=reference,
        reference_pose=F.interpolate(batch["reference_pose_map"], size=size, mode="area"),
        pose_map=to_latent_size(batch["pose_maps"].transpose(1, 2), size),
        proposal=encoded[count:] if config.proposal else None,
        visibility=to_latent_size(batch["visibility"].transpose(1, 2), size) if config.proposal else None,
    )


def build_condition(
    networks: Networks, prepared: Prepared, expression: Tensor, kept: Tensor | None = None
) -> Condition:
    """Run the reference net and put the condition together; kept (B,) is 0 where the whole proposal is dropped."""
    proposal, visibility = prepared.proposal, prepared.visibility
    if kept is not None and proposal is not None and visibility is not None:
        factor = kept[:, None, None, None, None]
        proposal, visibility = proposal * factor[..., None], visibility * factor
    return Condition(
        pose_map=prepared.pose_map,
        expression=expression,
        reference=networks.reference_net(prepared.reference, prepared.reference_pose),
        proposal=proposal,
        visibility=visibility,
    )


class Objective(nn.Module):
    """All trained networks as one module whose forward is the loss, so that one wrapper covers them in distributed
    training.
    """

    def __init__(self, networks: Networks, config: LossConfig) -> None:
        super().__init__()
        self.networks = networks
        self.config = config
        self.trained = nn.ModuleDict(networks.trained())
        self.scheduler = build_scheduler(networks.config)
        weights = networks.autoencoder.pixel_weights() ** config.band
        if networks.config.prediction != "sample":
            weights = torch.ones_like(weights)
        self.channel_weights: Tensor
        self.register_buffer("channel_weights", weights / weights.mean(), persistent=False)

    def forward(self, batch: Batch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, the mean of its clips', and its parts; draws: for as many clips."""
        networks, config = self.networks, self.config
        device = batch["images"].device
        with torch.autocast(device.type, enabled=False):
            prepared = prepare(networks, batch)
        expression = self._expression(batch["driving"], draws)
        kept = 1.0 - draws.chance(config.proposal_drop).to(prepared.latents.dtype)
        condition = build_condition(networks, prepared, expression, kept)

        timesteps = self._draw_timesteps(draws)
        # The same for both domains (paper 3.2).
        noise = draws.normal(1, *prepared.latents.shape[2:]).expand_as(prepared.latents)
        noisy = self.scheduler.add_noise(prepared.latents, noise, timesteps)
        prediction = networks.unet(noisy, timesteps, condition).float()
        target = self._target(prepared.latents, noise, timesteps)

        weights = self._weights(batch, condition.visibility, prediction.shape[-2:])
        squared = (prediction - target).square() * self.channel_weights[:, None, None, None] * weights
        per_domain = squared.mean(dim=(0, 2, 3, 4, 5))
        loss = config.image * per_domain[0] + config.normal * per_domain[1]
        parts = {"image": per_domain[0].detach(), "normal": per_domain[1].detach()}
        if config.pixel or config.gradient:
            clean = clean_latents(self.scheduler, prediction, noisy, timesteps)
            pixel, gradient = self._pixel_terms(clean, batch)
            loss = loss + config.pixel * pixel + config.gradient * gradient
            parts |= {"pixel": pixel.detach(), "gradient": gradient.detach()}
        return loss, parts

    def _expression(self, driving: Tensor, draws: Draws) -> Tensor:
        encoder = self.networks.expression_encoder
        crops = augment_crops(driving, draws, self.config.augment)
        tokens = encoder(crops.flatten(0, 1)).unflatten(0, driving.shape[:2])
        return encoder.drop(tokens, draws.chance(self.config.expression_drop))

    def _draw_timesteps(self, draws: Draws) -> Tensor:
        total = self.scheduler.config.num_train_timesteps
        uniform = draws.uniform() ** (1 / self.config.time_bias)
        return (uniform * total).long().clamp(max=total - 1)

    def _target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        kind = self.networks.config.prediction
        if kind == "sample":
            return latents
        if kind == "epsilon":
            return noise
        return self.scheduler.get_velocity(latents, noise.contiguous(), timesteps)

    def _weights(self, batch: Batch, visibility: Tensor | None, size: torch.Size) -> Tensor:
        """(B, 1, 1, T, h, w), zero in padded frames, of mean 1 in each clip: clips count alike, in whatever batch."""
        masks = to_latent_size(batch["masks"].transpose(1, 2), (size[0], size[1]))
        hidden = masks * (1 - visibility) if visibility is not None else torch.zeros_like(masks)
        weights = 1 + self.config.mask * masks + self.config.hidden * hidden
        if "frame_mask" in batch:
            weights = weights * batch["frame_mask"][:, None, :, None, None]
        return (weights / weights.mean(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1e-8))[:, None]

    def _pixel_terms(self, clean: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """L1 of decoded frames, and of their differences to the next pixel, inside and around the subject alike."""
        decoded = decode_clip(self.networks.autoencoder, clean)
        error = decoded - torch.stack((batch["images"], batch["normals"]), dim=1)
        if "frame_mask" in batch:
            error = error * batch["frame_mask"][:, None, :, None, None, None]
        gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        return error.abs().mean(), gradient


def clean_latents(scheduler: DDIMScheduler, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """The clean latents that a prediction of any kind stands for."""
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return prediction
    signal = scheduler.alphas_cumprod.to(noisy)[timesteps].view(-1, *[1] * (noisy.ndim - 1))
    if kind == "epsilon":
        return (noisy - (1 - signal).sqrt() * prediction) / signal.sqrt()
    return signal.sqrt() * noisy - (1 - signal).sqrt() * prediction

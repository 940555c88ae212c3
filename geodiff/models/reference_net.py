"""The reference net (paper 3.2): a 2D UNet run once on the portrait; its self-attention states serve the denoiser as
keys.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from geodiff.errors import ConfigError
from geodiff.models.attention import KeepsProcessors, ReferenceFeatures, install_processors, spatial_attentions
from geodiff.models.joint_unet import NUM_DOMAINS, POSE_CHANNELS, UNetConfig, domain_labels, unet_arguments


class ReferenceNet(KeepsProcessors, ModelMixin, ConfigMixin):
    """Reference latents and pose map to `ReferenceFeatures`.

    domains: 2 reads the portrait and its normal map, joined by Domain-Spatial attention; 1 reads the portrait alone.
    size: a `UNetConfig` as a dictionary; the levels must be as wide as the denoiser's; with fewer layers only
    attention layers of the same name are served. Whatever lies behind the last attention is left out, and the rest
    of that last layer is frozen: neither gets a gradient.
    """

    @register_to_config
    def __init__(self, latent_channels: int, token_width: int, size: dict | None = None, domains: int = 2) -> None:
        super().__init__()
        if domains not in (1, NUM_DOMAINS):
            raise ConfigError(f"The reference net reads 1 or {NUM_DOMAINS} domains; found {domains}.")
        levels = UNetConfig(**(size or {}))
        arguments = unet_arguments(levels, latent_channels + POSE_CHANNELS, latent_channels, token_width, motion=False)
        self.unet = UNet2DConditionModel(**arguments)
        install_processors(self.unet)
        self._drop_unused()

    def _drop_unused(self) -> None:
        unet = self.unet
        last = max(i for i, block in enumerate(unet.up_blocks) if getattr(block, "has_cross_attention", False))
        unet.up_blocks = unet.up_blocks[: last + 1]
        unet.up_blocks[last].upsamplers = None
        unet.conv_norm_out, unet.conv_out = None, nn.Identity()
        transformer = unet.up_blocks[last].attentions[-1]
        transformer.requires_grad_(False)
        for kept in (transformer.norm, transformer.proj_in, *(b.norm1 for b in transformer.transformer_blocks[-1:])):
            kept.requires_grad_(True)

    def forward(self, latents: Tensor, pose_map: Tensor) -> ReferenceFeatures:
        """latents: (B, domains, C, h, w) of the portrait (and its normals); pose_map: (B, 3, h, w) at latent size."""
        batch, domains = latents.shape[:2]
        if domains != self.config.domains:
            raise ValueError(f"the reference net reads {self.config.domains} domains, got {domains}")
        pose = pose_map[:, None].expand(-1, domains, -1, -1, -1)
        hidden = torch.cat((latents, pose), dim=2).flatten(0, 1).to(self.unet.conv_in.weight.dtype)
        features = ReferenceFeatures()
        self.unet(
            hidden,
            torch.zeros(batch * domains, device=hidden.device, dtype=torch.long),
            hidden.new_zeros(batch * domains, 1, self.config.token_width),
            timestep_cond=domain_labels(batch, domains, hidden),
            cross_attention_kwargs={"write_to": features, "num_domains": domains, "num_frames": 1},
            return_dict=False,
        )
        return features

    def checkpoint_gradients(self) -> None:
        """Trade time for memory in training; the states that the denoiser reads keep their gradients."""
        self.unet.enable_gradient_checkpointing()

    @property
    def layers(self) -> list[str]:
        """Names of the attention layers that are stored."""
        return list(spatial_attentions(self.unet))

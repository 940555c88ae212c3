"""The joint image-normal denoiser (paper 3.2): a UNet of diffusers with Domain-Spatial attention and a domain label.

Latents are (B, D, C, T, h, w), D = 2: domain 0 is the image, domain 1 the normal map. Convolutions see (b d t) c h w.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel, UNetMotionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geodiff.errors import ConfigError
from geodiff.models.attention import (
    KeepsProcessors,
    ReferenceFeatures,
    install_processors,
    project_layer,
    spatial_attentions,
)

NUM_DOMAINS = 2
POSE_CHANNELS = 3
PREDICTIONS = ("sample", "epsilon", "v_prediction")


@dataclass(frozen=True)
class UNetConfig:
    """The size of a UNet; the defaults are Stable Diffusion 1.5's.

    channels, attention: per level, from full latent resolution down: width, and whether it has attention. heads:
    attention heads per level, or one number for all; a head should be at least 32 wide. layers: residual blocks per
    level, per level or one number. temporal_layers: transformer layers of each motion module, per level; 0 leaves a
    linear layer per position.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[bool, ...] = (True, True, True, False)
    heads: int | tuple[int, ...] = 8
    layers: int | tuple[int, ...] = 2
    groups: int = 32
    temporal_layers: int | tuple[int, ...] = 1
    max_frames: int = 32

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.attention):
            raise ConfigError(
                f"A UNet needs `attention` for every level; found {len(self.channels)} widths and "
                f"{len(self.attention)} flags: give as many of each."
            )


def unet_arguments(config: UNetConfig, in_channels: int, out_channels: int, token_width: int, motion: bool) -> dict:
    """Keyword arguments of `UNetMotionModel` or, without motion, `UNet2DConditionModel`."""
    suffix = "Motion" if motion else "2D"
    levels = len(config.channels)
    per_level = {name: _per_level(getattr(config, name), levels) for name in ("heads", "layers", "temporal_layers")}
    arguments = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "block_out_channels": tuple(config.channels),
        "layers_per_block": per_level["layers"],
        "down_block_types": tuple(f"{'CrossAttn' if a else ''}DownBlock{suffix}" for a in config.attention),
        "up_block_types": tuple(f"{'CrossAttn' if a else ''}UpBlock{suffix}" for a in reversed(config.attention)),
        "norm_num_groups": config.groups,
        "cross_attention_dim": token_width,
        "time_cond_proj_dim": NUM_DOMAINS,
    }
    if motion:
        return arguments | {
            "num_attention_heads": per_level["heads"],
            "motion_num_attention_heads": per_level["heads"],
            "motion_max_seq_length": config.max_frames,
            "temporal_transformer_layers_per_block": per_level["temporal_layers"],
            "reverse_temporal_transformer_layers_per_block": per_level["temporal_layers"][::-1],
        }
    # `attention_head_dim` means the number of heads in this class.
    return arguments | {"attention_head_dim": per_level["heads"]}


def _per_level(value: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    return (value,) * levels if isinstance(value, int) else tuple(value)


@dataclass(frozen=True)
class Condition:
    """What the denoiser is given for a batch of B clips of T frames.

    pose_map: (B, 3, T, h, w) head pose map in [-1, 1] at latent size. expression: (B, T, tokens, width). reference:
    features of the reference net, or None. proposal: (B, D, C, T, h, w) latents of the proposal image and of the
    mesh's normals, zero where dropped, or None. visibility: (B, 1, T, h, w) in 0..1, zero where the proposal is
    dropped, or None.
    """

    pose_map: Tensor
    expression: Tensor
    reference: ReferenceFeatures | None = None
    proposal: Tensor | None = None
    visibility: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Number of clips, number of frames."""
        return self.expression.shape[0], self.expression.shape[1]

    def frames(self, index: slice) -> Condition:
        """Some frames of every clip."""
        return replace(
            self,
            pose_map=self.pose_map[:, :, index],
            expression=self.expression[:, index],
            proposal=None if self.proposal is None else self.proposal[:, :, :, index],
            visibility=None if self.visibility is None else self.visibility[:, :, index],
        )

    def clips(self, index: slice) -> Condition:
        """Some clips of the batch."""
        return replace(
            self,
            pose_map=self.pose_map[index],
            expression=self.expression[index],
            reference=None if self.reference is None else self.reference.select(index),
            proposal=None if self.proposal is None else self.proposal[index],
            visibility=None if self.visibility is None else self.visibility[index],
        )

    def with_expression(self, tokens: Tensor) -> Condition:
        """The same with another expression; (tokens, width) or any shape that expands to (B, T, tokens, width)."""
        return replace(self, expression=tokens.to(self.expression).expand_as(self.expression))

    def stacked_on(self, other: Condition) -> Condition:
        """Twice the batch: the clips of `other`, then these. All but the expression must be equal in both."""

        def double(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else torch.cat((tensor, tensor))

        return Condition(
            pose_map=torch.cat((self.pose_map, self.pose_map)),
            expression=torch.cat((other.expression, self.expression)),
            reference=None if self.reference is None else self.reference.repeat(2),
            proposal=double(self.proposal),
            visibility=double(self.visibility),
        )


def to_latent_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, c, T, H, W) -> (B, c, T, h, w): interpolated, not encoded (paper 3.2); the mean over each latent's cell."""
    batch, _, frames = maps.shape[:3]
    small = F.interpolate(maps.transpose(1, 2).flatten(0, 1), size=size, mode="area")
    return small.unflatten(0, (batch, frames)).transpose(1, 2)


def domain_labels(batch: int, num_domains: int, like: Tensor) -> Tensor:
    """(B * D, 2) one-hot domain labels for rows in (b d) order. A reference net of one domain sees label 0 only."""
    return torch.eye(NUM_DOMAINS, device=like.device, dtype=like.dtype)[:num_domains].repeat(batch, 1)


class JointUNet(KeepsProcessors, ModelMixin, ConfigMixin):
    """denoiser(sample (B, D, C, T, h, w), timestep (B,), condition) -> prediction of the same shape.

    prediction: what the output means: `sample` (the clean latents; where a proposal is given the network's output is
    added to it), `epsilon` or `v_prediction` (the paper's form). proposal: whether proposal latents and visibility
    are input channels; without them and with a 4-channel autoencoder this is the paper's network of 7 input
    channels. domain_attention: whether both domains of a frame attend to each other (the paper's ablation leaves it
    out). motion: with temporal modules (stage 2) or the 2D network of stage 1, which treats the frames of a clip
    one by one.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        token_width: int,
        size: dict | None = None,
        prediction: str = "sample",
        proposal: bool = True,
        motion: bool = False,
        domain_attention: bool = True,
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ConfigError(f"`prediction` must be one of {', '.join(PREDICTIONS)}; found {prediction!r}.")
        levels = UNetConfig(**(size or {}))
        in_channels = latent_channels + POSE_CHANNELS + (latent_channels + 1 if proposal else 0)
        network = UNetMotionModel if motion else UNet2DConditionModel
        self.unet = network(**unet_arguments(levels, in_channels, latent_channels, token_width, motion))
        install_processors(self.unet)
        for module in self.motion_modules():
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
        if prediction == "sample":
            # The untrained network reproduces the proposal.
            nn.init.zeros_(self.unet.conv_out.weight)
            nn.init.zeros_(self.unet.conv_out.bias)

    def motion_modules(self) -> list[AnimateDiffTransformer3D]:
        return [module for module in self.unet.modules() if isinstance(module, AnimateDiffTransformer3D)]

    def forward(self, sample: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        batch, domains, _, frames, _, _ = sample.shape
        # Conditions and latents may come in full precision to weights in half.
        hidden = self._inputs(sample, condition).to(self.unet.conv_in.weight.dtype)
        expression = condition.expression[:, None].expand(-1, domains, -1, -1, -1).flatten(0, 2).to(hidden)
        labels = domain_labels(batch, domains, hidden)
        timesteps = timestep.reshape(-1).expand(batch).repeat_interleave(domains)
        options = {"bank": condition.reference, "num_domains": domains, "num_frames": frames}
        if not self.config.domain_attention:
            options |= {"num_domains": 1, "num_frames": domains * frames}
        if self.config.motion:
            output = self.unet(
                hidden, timesteps, expression, timestep_cond=labels, cross_attention_kwargs=options, return_dict=False
            )[0]
        else:
            output = self.unet(
                hidden.transpose(1, 2).flatten(0, 1),
                timesteps.repeat_interleave(frames),
                expression,
                timestep_cond=labels.repeat_interleave(frames, dim=0),
                cross_attention_kwargs=options,
                return_dict=False,
            )[0]
            output = output.unflatten(0, (batch * domains, frames)).transpose(1, 2)
        output = output.unflatten(0, (batch, domains))
        if self.config.prediction == "sample" and condition.proposal is not None:
            output = output + condition.proposal
        return output

    def _inputs(self, sample: Tensor, condition: Condition) -> Tensor:
        """Everything that enters through the first convolution, ((b d), channels, T, h, w)."""
        batch, domains, _, frames, height, width = sample.shape

        def both(tensor: Tensor) -> Tensor:
            return tensor[:, None].expand(-1, domains, -1, -1, -1, -1)

        parts = [sample, both(condition.pose_map)]
        if self.config.proposal:
            if condition.proposal is None or condition.visibility is None:
                parts += [torch.zeros_like(sample), sample.new_zeros(batch, domains, 1, frames, height, width)]
            else:
                parts += [condition.proposal, both(condition.visibility)]
        return torch.cat(parts, dim=2).flatten(0, 1)

    def project_reference(self, features: ReferenceFeatures) -> ReferenceFeatures:
        """The same features with keys and values projected, once for all frames, steps and branches of a clip."""
        plain = ReferenceFeatures(features.states)
        layers = spatial_attentions(self.unet).items()
        found = {name: project_layer(attn, name, plain) for name, attn in layers}
        return ReferenceFeatures(features.states, {name: pair for name, pair in found.items() if pair is not None})

    def checkpoint_gradients(self) -> None:
        """Trade time for memory in training; diffusers' own switch leaves out the motion modules, this one does not."""
        self.enable_gradient_checkpointing()
        for module in self.motion_modules():
            module.forward = _checkpointed(module)

    def load_2d(self, state: dict[str, Tensor]) -> None:
        """Take the weights of the 2D network of stage 1; motion modules keep theirs. Raises ValueError if anything
        else differs.
        """
        missing, unexpected = self.load_state_dict(state, strict=False)
        missing = [name for name in missing if "motion_modules" not in name]
        if missing or unexpected:
            raise ValueError(f"not the 2D form of this network: missing {missing[:3]}, unexpected {unexpected[:3]}")


def _checkpointed(module: nn.Module):  # noqa: ANN202 - a forward function
    forward = type(module).forward

    def run(*args, **kwargs):  # noqa: ANN002, ANN003, ANN202
        if not torch.is_grad_enabled():
            return forward(module, *args, **kwargs)
        return checkpoint(forward, module, *args, use_reentrant=False, **kwargs)

    return run

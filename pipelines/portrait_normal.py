"""The generator as a diffusers pipeline: a portrait and per-frame conditions to frames and normal maps (paper 3.2,
A.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor

from geodiff import assets
from geodiff.conditioning import Condition as FrameCondition
from geodiff.conditioning import Reference
from geodiff.errors import InputError
from geodiff.models.attention import ReferenceFeatures, set_attention
from geodiff.models.autoencoder import Autoencoder
from geodiff.models.expression_encoder import ExpressionEncoder
from geodiff.models.joint_unet import Condition, JointUNet, to_latent_size
from geodiff.models.networks import ModelConfig, Networks, build_scheduler, channels_last
from geodiff.models.reference_net import ReferenceNet
from geodiff.models.runtime import Residency, RuntimeConfig, prepare
from geodiff.models.sampling import SamplingConfig, sample

#: Frames whose maps and face crops are taken to the device at once.
CHUNK = 16


@dataclass(frozen=True)
class Identity:
    """A portrait as the networks see it, computed once for all views.

    latents: (1, 2, C, h, w) of the portrait and its normal map. features: keys and values of the reference net.
    size: side of the images in pixels.
    """

    latents: Tensor
    features: ReferenceFeatures
    size: int


@dataclass
class PortraitNormalOutput(BaseOutput):
    """images: (T, H, W, 3) float32 in 0..1. normals: (T, H, W, 3) float32 as decoded, camera space: their length is the
    confidence that there is foreground. Both have a leading view axis if several views were asked for.
    """

    images: np.ndarray
    normals: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """(..., H, W) length of the decoded normals: about 1 on the subject, 0 on the background."""
        return np.linalg.norm(self.normals, axis=-1)

    @property
    def unit_normals(self) -> np.ndarray:
        """(..., H, W, 3) unit vectors, also where there is no foreground."""
        return self.normals / np.maximum(self.confidence, 1e-6)[..., None]


class PortraitNormalPipeline(DiffusionPipeline):
    """Load with `PortraitNormalPipeline.from_pretrained(folder)`; the generic class of diffusers cannot find these
    networks.

    The folder is what `Networks.save` writes: `model.json` and one safetensors file per network, of any precision.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        reference_net: ReferenceNet,
        expression_encoder: ExpressionEncoder,
        unet: JointUNet,
        scheduler: DDIMScheduler,
        model_config: ModelConfig | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            autoencoder=autoencoder,
            reference_net=reference_net,
            expression_encoder=expression_encoder,
            unet=unet,
            scheduler=scheduler,
        )
        self.model_config = model_config or ModelConfig()
        self.runtime = RuntimeConfig().resolved()
        self._residency: Residency | None = None
        self._autocast: torch.dtype | None = None

    def prepare(
        self, runtime: RuntimeConfig, device: torch.device | str, dtype: torch.dtype | None = None
    ) -> PortraitNormalPipeline:
        """Set up, once, how the networks run on `device`. dtype: bfloat16 or float16 for the denoiser and the reference
        net, as weights or under autocast; None for the weights' own precision. Returns itself.
        """
        self.runtime = runtime.resolved()
        self._residency = prepare(self.networks, runtime, device, dtype)
        self._autocast = None if self.runtime.half_weights else dtype
        return self

    def set_use_memory_efficient_attention_xformers(self, valid: bool, attention_op: Any = None) -> None:
        """diffusers' own switch would replace our processors; this one sets their kernel."""
        for network in (self.unet, self.reference_net):
            set_attention(network, "xformers" if valid else "sdpa")

    @classmethod
    def from_networks(cls, networks: Networks) -> PortraitNormalPipeline:
        """A pipeline around networks that are already there."""
        networks.eval()
        for module in networks.trained().values():
            channels_last(module)
        return cls(
            networks.autoencoder,
            networks.reference_net,
            networks.expression_encoder,
            networks.unet,
            build_scheduler(networks.config),
            networks.config,
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, torch_dtype: torch.dtype = torch.float32, **_: Any
    ) -> PortraitNormalPipeline:
        """From a folder of weights, in either layout, or a hub id; files become `torch_dtype`. Raises AssetError."""
        return cls.from_networks(Networks.load(assets.find_weights(str(pretrained_model_name_or_path)), torch_dtype))

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, dtype: torch.dtype = torch.float32, **_: Any
    ) -> None:
        """Write the networks, in half precision with `dtype=torch.float16`."""
        self.networks.save(save_directory, dtype)

    @property
    def networks(self) -> Networks:
        return Networks(self.model_config, self.autoencoder, self.reference_net, self.expression_encoder, self.unet)

    @property
    def expression_hash(self) -> str:
        """Hash of the expression encoder's weights; clip sets and avatars record it."""
        return self.expression_encoder.weights_hash()

    @torch.no_grad()
    def encode_expression(self, crops: Tensor) -> Tensor:
        """(T, 3, S, S) face crops in [-1, 1] -> (T, tokens, width) expression latents, float32 on the CPU."""
        with self._using("expression_encoder"):
            return torch.cat([self.expression_encoder(self._put(part)).float().cpu() for part in crops.split(CHUNK)])

    @torch.no_grad()
    def encode_reference(self, reference: Reference) -> Identity:
        """Run the reference net on a portrait (paper 3.2); the result serves any number of views."""
        image = _to_tensor(reference.image) * 2 - 1
        latents = self._encode(torch.stack((image, _to_tensor(reference.normals))))[None]
        pose = to_latent_size(self._put(_to_tensor(reference.pose_map)[None, :, None]), self._latent_size(latents))
        with self._using("reference_net"):
            features = self.reference_net(latents[:, : self.reference_net.config.domains], pose[:, :, 0])
        with self._using("unet"):
            return Identity(latents, self.unet.project_reference(features), reference.size)

    @torch.no_grad()
    def __call__(
        self,
        reference: Reference | Identity,
        conditions: Sequence[FrameCondition] | Sequence[Sequence[FrameCondition]],
        expression: Tensor,
        *,
        sampling: SamplingConfig | None = None,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
        compute_dtype: torch.dtype | None = None,
    ) -> PortraitNormalOutput:
        """Generate one view of T frames, or several.

        reference: the portrait, or what `encode_reference` made of it. conditions: T conditions of one view, or a
        list of that for each view. expression: (T, tokens, width) latents, or (T, 3, S, S) face crops in [-1, 1].
        progress(done, total) is called after every denoising step. compute_dtype: bfloat16 or float16 runs the
        denoiser under autocast, unless `prepare` said how it runs. Raises InputError if the numbers of frames or the
        sizes differ.
        """
        identity = reference if isinstance(reference, Identity) else self.encode_reference(reference)
        several = not isinstance(conditions[0], FrameCondition)
        views = cast(Sequence[Sequence[FrameCondition]], conditions if several else [conditions])
        tokens = expression if expression.ndim == 3 else self.encode_expression(expression)
        self._check(identity, views, tokens)
        condition = self._condition(identity, views, tokens)
        half = compute_dtype if self._residency is None else self._autocast
        autocast = torch.autocast(self._device.type, half or torch.bfloat16, enabled=half is not None)
        with self._using("unet"), autocast:
            latents = sample(
                self.unet,
                self.scheduler,
                condition,
                self._put(self.expression_encoder.null),
                (identity.latents.shape[2], *self._latent_size(identity.latents)),
                config=self.runtime.sampling(sampling or SamplingConfig()),
                reference=identity.latents,
                generator=generator,
                progress=progress,
            )
        images, normals = self._decode(latents)
        return PortraitNormalOutput(images if several else images[0], normals if several else normals[0])

    def _check(self, identity: Identity, views: Sequence[Sequence[FrameCondition]], tokens: Tensor) -> None:
        lengths = {len(view) for view in views} | {len(tokens)}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(
                f"Every view needs one condition per expression; found lengths {sorted(lengths)}: give as many of each."
            )
        sides = {frame.proposal.shape[0] for view in views for frame in view} | {identity.size}
        if len(sides) != 1:
            raise InputError(
                f"Reference and conditions must have one size; found sides {sorted(sides)}: render them alike."
            )

    def _condition(self, identity: Identity, views: Sequence[Sequence[FrameCondition]], tokens: Tensor) -> Condition:
        """All views as one batch at latent size."""
        size = self._latent_size(identity.latents)

        def maps(name: str) -> Tensor:
            """(B, c, T, h, w) of one map of all frames, made small a few frames at a time."""
            return torch.cat([torch.cat([small(part, name) for part in _chunks(view)], dim=2) for view in views])

        def small(frames: Sequence[FrameCondition], name: str) -> Tensor:
            stack = torch.stack([_to_tensor(getattr(frame, name)) for frame in frames], dim=1)
            return to_latent_size(self._put(stack[None]), size)

        proposal = visibility = None
        if self.model_config.proposal:
            proposal = torch.stack([self._proposal(view) for view in views])
            visibility = maps("visibility")
        return Condition(
            pose_map=maps("pose_map"),
            expression=self._put(tokens)[None].expand(len(views), -1, -1, -1),
            reference=identity.features,
            proposal=proposal,
            visibility=visibility,
        )

    def _proposal(self, view: Sequence[FrameCondition]) -> Tensor:
        """(D, C, T, h, w) latents of a view's proposals and mesh normals."""
        parts = []
        for frames in _chunks(view):
            images = torch.stack([_to_tensor(frame.proposal) * 2 - 1 for frame in frames])
            normals = torch.stack([_to_tensor(frame.normals) for frame in frames])
            parts.append(torch.stack([self._encode(images), self._encode(normals)]))
        return torch.cat(parts, dim=1).transpose(1, 2)

    def _encode(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, h, w) on the device, a few at a time."""
        with self._using("autoencoder"):
            chunks = pictures.split(self.runtime.vae_batch)
            return torch.cat([self.autoencoder.encode(self._put(chunk)) for chunk in chunks])

    def _decode(self, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(B, 2, C, T, h, w) -> images (B, T, H, W, 3) in 0..1 and normals (B, T, H, W, 3)."""
        flat = latents.transpose(2, 3).flatten(0, 2)
        with self._using("autoencoder"):
            chunks = [self.autoencoder.decode(chunk).float().cpu() for chunk in flat.split(self.runtime.vae_batch)]
        frames = torch.cat(chunks).unflatten(0, (*latents.shape[:2], -1)).permute(0, 1, 2, 4, 5, 3).numpy()
        return np.clip(frames[:, 0] * 0.5 + 0.5, 0.0, 1.0), np.ascontiguousarray(frames[:, 1])

    def _using(self, name: str) -> AbstractContextManager[None]:
        """Around every use of a network: where only the one at work lies on the device, it is this one."""
        return nullcontext() if self._residency is None else self._residency.using(name)

    @property
    def _device(self) -> torch.device:
        return self.expression_encoder.null.device if self._residency is None else self._residency.device

    def _put(self, tensor: Tensor) -> Tensor:
        """On the device of the work, in the precision of the networks that stay in full precision."""
        return tensor.to(self._device, self.expression_encoder.null.dtype)

    @staticmethod
    def _latent_size(latents: Tensor) -> tuple[int, int]:
        return latents.shape[-2], latents.shape[-1]


def _chunks(frames: Sequence[FrameCondition]) -> Iterator[Sequence[FrameCondition]]:
    return (frames[i : i + CHUNK] for i in range(0, len(frames), CHUNK))


def _to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, C) or (H, W) array -> (C, H, W) float32 tensor."""
    values = image if image.ndim == 3 else image[..., None]
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32))

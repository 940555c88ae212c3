"""GeoDiff4D's avatar: Gaussians bound to the head's triangles, fitted to generated frames and normals (section 3.3).

The base is GaussianAvatars (Qian et al. 2024) with the normal loss of equation 2 and learnable residuals of the head
parameters. The paper's further refinements, per-vertex deformations from a U-Net and per-Gaussian residuals from an
MLP, are not part of this method yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodiff.clipset import ClipSet
from geodiff.config import to_container
from geodiff.errors import ConfigError
from geodiff.head.model import HeadModel
from geodiff.metrics.image import evaluation_mask, psnr, ssim
from geodiff.types import Camera, Drive, Gaussians, HeadParams
from recon.avatar import Avatar, AvatarInfo, render
from recon.frames import FrameSet, collect
from recon.layers.density import DensityConfig
from recon.layers.fitting import FitConfig, LearningRates, LossWeights, RiggedProblem
from recon.layers.hull import HullConfig, grow_scalp
from recon.layers.initialise import (
    Placement,
    fill_unseen,
    observe_colors,
    paint_unseen,
    place_on_triangles,
    portrait_texture,
    to_harmonic,
)
from recon.layers.refinement import RefinementConfig
from recon.layers.rigged import bound_frames, fields_of, pose_fields, splats_of
from recon.methods.base import FitContext
from recon.optimise import Schedule, optimise
from recon.ply import Splats, read_ply, world_splats, write_ply


@dataclass(frozen=True)
class GeoDiff4DConfig:
    """Settings of the method; the defaults are the preview's.

    gaussians: number at the start. iterations: optimiser steps. sh_degree: spherical harmonics, 0 to 3; low degrees
    keep side views of monocular sets whole. opacity: at the start. color_views: frames that colours start from.
    checkpoint_seconds: time between two checkpoints.
    """

    gaussians: int = 18_000
    iterations: int = 2500
    sh_degree: int = 0
    opacity: float = 0.85
    color_views: int = 48
    seed: int = 0
    checkpoint_seconds: float = 20.0
    losses: LossWeights = field(default_factory=LossWeights)
    rates: LearningRates = field(default_factory=LearningRates)
    density: DensityConfig = field(default_factory=DensityConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    hull: HullConfig = field(default_factory=HullConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.sh_degree <= 3:
            raise ConfigError(f"sh_degree must be 0 to 3, got {self.sh_degree}: 0 is right for monocular clip sets")
        if self.iterations < 1 or self.gaussians < 1:
            raise ConfigError(
                f"iterations and gaussians must be at least 1, got {self.iterations} and {self.gaussians}"
            )
        if self.color_views < 1:
            raise ConfigError(f"color_views must be at least 1, got {self.color_views}: colours start from frames")


class GeoDiff4DAvatar(Avatar):
    """Gaussians that travel with their triangles."""

    method = "geodiff4d"

    def __init__(self, head: HeadModel, params: HeadParams, info: AvatarInfo, splats: Splats) -> None:
        super().__init__(head, params, info)
        if splats.binding is None:
            raise ValueError("the Gaussians of this method must be bound to triangles, these are not")
        self.splats = splats
        self._fields = fields_of(splats)

    def pose(self, drive: Drive, camera: Camera | None = None) -> Gaussians:
        assert self.splats.binding is not None
        with torch.no_grad():
            bound = bound_frames(self.head, self.own(drive.params), self.splats.binding)
            return pose_fields(self._fields, bound, camera)

    def write(self, folder: Path) -> dict[str, Any]:
        """point_cloud.ply holds triangle-local values (GaussianAvatars); splats.ply the neutral head in the world."""
        write_ply(folder / "point_cloud.ply", self.splats)
        posed = self.pose(self.neutral())
        write_ply(
            folder / "splats.ply", world_splats(posed.means, posed.quats, posed.scales, posed.opacities, posed.colors)
        )
        return {"gaussians": len(self.splats), "sh_degree": round(self.splats.sh.shape[1] ** 0.5) - 1}

    @classmethod
    def read(cls, folder: Path, head: HeadModel, params: HeadParams, info: AvatarInfo) -> GeoDiff4DAvatar:
        return cls(head, params, info, read_ply(folder / "point_cloud.ply"))


def fit(source: ClipSet, config: GeoDiff4DConfig, context: FitContext | None = None) -> GeoDiff4DAvatar:
    """Fits an avatar to a clip set; goes on from the context's checkpoint where there is one."""
    context = context or FitContext()
    frames = collect(source.clips(), source.held_out(), source.has_masks)
    return fit_frames(source.head, frames, config, context, portrait_texture(source.head, source))


def fit_frames(
    head: HeadModel,
    frames: FrameSet,
    config: GeoDiff4DConfig,
    context: FitContext | None = None,
    texture: Tensor | None = None,
) -> GeoDiff4DAvatar:
    """Fits an avatar to frames in memory. texture: as in `initial_gaussians`."""
    context = context or FitContext()
    if config.hull.enabled and frames.has_masks:
        offset = grow_scalp(head, frames.params, frames, config.hull)
        frames = replace(frames, params=frames.params.replace(static_offset=offset))
    placement = initial_gaussians(head, frames, config, texture)
    on_device = head.to(context.device), frames.to(context.device)
    placement = Placement(
        {k: v.to(context.device) for k, v in placement.fields.items()},
        *(v.to(context.device) for v in placement[1:]),
    )
    problem = RiggedProblem(*on_device, placement, _fit_config(config))
    schedule = Schedule(config.iterations, config.seed, config.checkpoint_seconds)
    optimise(problem, schedule, context.checkpoint, context.fingerprint, context.progress)
    splats = splats_of(problem.fields, problem.binding)
    splats = Splats(**{name: value.cpu() for name, value in vars(splats).items()})
    info = AvatarInfo(config=to_container(config), head_spec=context.head_spec, encoder=context.encoder)
    avatar = GeoDiff4DAvatar(head, problem.params.to("cpu"), info, splats)
    avatar.info = replace(info, metrics=held_out_metrics(avatar, frames))
    return avatar


def initial_gaussians(
    head: HeadModel, frames: FrameSet, config: GeoDiff4DConfig, texture: Tensor | None = None
) -> Placement:
    """Gaussians on the subject's neutral head, coloured from the frames that see them.

    texture: (U, U, 3) in 0..1, the portrait in the head's UV layout, for what no frame sees; None without a portrait.
    """
    subject = head.zeros().replace(shape=frames.params.shape, static_offset=frames.params.static_offset)
    vertices = head.vertices(subject)[0]
    count = min(config.gaussians, config.density.max_gaussians)
    placement = place_on_triangles(head, vertices, count, config.opacity, config.seed, config.sh_degree)
    stride = max(1, len(frames.train) // config.color_views)
    colors, facing = observe_colors(head, frames, placement.binding, placement.barycentrics, frames.train[::stride])
    colors = fill_unseen(head, placement.points, placement.binding, colors, facing)
    if texture is not None:
        colors = paint_unseen(head, texture, placement.binding, placement.barycentrics, colors, facing)
    placement.fields["sh_dc"] = to_harmonic(colors)
    return placement._replace(facing=facing)


def held_out_metrics(avatar: Avatar, frames: FrameSet, limit: int = 16) -> dict[str, float]:
    """PSNR and SSIM inside the dilated matte, over at most `limit` held-out frames; empty where there are none."""
    chosen = frames.held_out[:: max(1, len(frames.held_out) // limit)][:limit]
    figures: dict[str, list[float]] = {"psnr": [], "ssim": []}
    for index in chosen:
        matte = frames.mask(index)[..., 0].numpy()
        if not (matte > 0.5).any():
            continue
        drive = Drive(avatar.params.frame(int(frames.steps[index])))
        image = render(avatar, drive, frames.cameras[index]).rgb.numpy()
        truth, region = frames.image(index).numpy(), evaluation_mask(matte)
        figures["psnr"].append(psnr(image, truth, region))
        figures["ssim"].append(ssim(image, truth, region))
    return {name: float(np.mean(values)) for name, values in figures.items() if values}


def _fit_config(config: GeoDiff4DConfig) -> FitConfig:
    return FitConfig(config.iterations, config.seed, config.losses, config.rates, config.density, config.refinement)

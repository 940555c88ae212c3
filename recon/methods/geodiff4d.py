"""GeoDiff4D's avatar: Gaussians bound to the head's triangles, fitted to generated frames and normals (section 3.3).

The base is GaussianAvatars (Qian et al. 2024) with the normal loss of equation 2. On it come the paper's refinements:
residuals of all head parameters (`refinement`), deformations of the head by a U-Net (`deform`) and residuals of each
Gaussian by an MLP (`attributes`). Each can be switched off.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from geodiff.clipset import ClipSet
from geodiff.config import choose, to_container
from geodiff.errors import ConfigError
from geodiff.files import save_tensors
from geodiff.head.model import HeadModel
from geodiff.head.rigging import to_local
from geodiff.metrics.image import evaluation_mask, psnr, ssim
from geodiff.types import Camera, Drive, Gaussians, HeadParams, Motion
from recon.avatar import Avatar, AvatarInfo, read_manifest, render
from recon.frames import FrameSet, collect
from recon.layers.attributes import AttributeConfig
from recon.layers.behind import BehindConfig, with_unseen_views
from recon.layers.codes import LATENT
from recon.layers.corrections import Corrections
from recon.layers.deform import DeformConfig
from recon.layers.density import DensityConfig
from recon.layers.dynamics import Learnt, read_learnt, read_tensors
from recon.layers.fitting import FitConfig, LearningRates, LossWeights, RiggedProblem
from recon.layers.hull import HullConfig, carve, grow_scalp
from recon.layers.initialise import (
    SEPARATE,
    Placement,
    fill_unseen,
    observe_colors,
    paint_unseen,
    place_on_triangles,
    portrait_texture,
    to_harmonic,
)
from recon.layers.levels import measured, reduce
from recon.layers.posing import FastHead
from recon.layers.refinement import RefinementConfig
from recon.layers.response import Response, ResponseConfig
from recon.layers.retrack import retracked
from recon.layers.rigged import bound_frames, fields_of, pose_fields, splats_of
from recon.methods.base import FitContext
from recon.optimise import Schedule, optimise
from recon.ply import Splats, read_ply, world_splats, write_ply
from recon.watch import LogConfig, PlateauConfig

_Section = TypeVar("_Section")
#: Networks and corrections of an avatar.
NETWORKS = "networks.safetensors"
#: What some settings may be.
OPTIONS = {
    "indexing": ("auto", "multiview", "monocular"),
    "track": ("clips", "generated"),
    "code": ("auto", "latents", "parameters"),
}


@dataclass(frozen=True)
class GeoDiff4DConfig:
    """Settings of the method; the defaults are the preview's.

    gaussians: number at the start. iterations: optimiser steps. sh_degree: spherical harmonics, 0 to 3; low degrees
    keep side views of monocular sets whole. opacity: at the start. color_views: frames that colours start from.
    checkpoint_seconds: time between two checkpoints. indexing: "auto" as the clip set says, "multiview" or "monocular"
    (every frame has its own time and residuals, as in the paper). track: "clips" takes the clip set's parameters,
    "generated" tracks the frames anew. code: what deform and attributes are driven by: "latents" of the expression
    encoder, "parameters" of the head, or "auto": latents where the clip set has them.
    """

    gaussians: int = 18_000
    iterations: int = 2500
    sh_degree: int = 1
    opacity: float = 0.85
    color_views: int = 48
    seed: int = 0
    checkpoint_seconds: float = 20.0
    losses: LossWeights = field(default_factory=LossWeights)
    rates: LearningRates = field(default_factory=LearningRates)
    density: DensityConfig = field(default_factory=DensityConfig)
    indexing: str = "auto"
    track: str = "clips"
    code: str = "auto"
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    deform: DeformConfig = field(default_factory=DeformConfig)
    attributes: AttributeConfig = field(default_factory=AttributeConfig)
    response: ResponseConfig = field(default_factory=ResponseConfig)
    log: LogConfig = field(default_factory=LogConfig)
    plateau: PlateauConfig = field(default_factory=PlateauConfig)
    hull: HullConfig = field(default_factory=HullConfig)
    behind: BehindConfig = field(default_factory=BehindConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.sh_degree <= 3:
            raise ConfigError(f"sh_degree must be 0 to 3, got {self.sh_degree}: 0 is right for monocular clip sets")
        if self.iterations < 1 or self.gaussians < 1:
            raise ConfigError(
                f"iterations and gaussians must be at least 1, got {self.iterations} and {self.gaussians}"
            )
        for name, options in OPTIONS.items():
            choose(name, getattr(self, name), options)
        if self.color_views < 1:
            raise ConfigError(f"color_views must be at least 1, got {self.color_views}: colours start from frames")


class GeoDiff4DAvatar(Avatar):
    """Gaussians that travel with their triangles.

    learnt: its networks, None without any. corrections: what refinement learnt about head parameters, None without.
    response: what they do beside their triangles, None where they do nothing.
    """

    method = "geodiff4d"

    def __init__(
        self, head: HeadModel, params: HeadParams, info: AvatarInfo, splats: Splats, learnt: Learnt | None = None,
        corrections: Corrections | None = None, response: Response | None = None,
    ) -> None:  # fmt: skip
        super().__init__(head, params, info)
        if splats.binding is None:
            raise ValueError("the Gaussians of this method must be bound to triangles, these are not")
        self.splats, self.learnt, self.corrections, self.response = splats, learnt, corrections, response
        self._fields = fields_of(splats)
        self._fast = FastHead(head, params.static_offset)
        if learnt is not None and learnt.dynamics.codes.takes_latents:
            self.codes = (LATENT,)

    def pose(self, drive: Drive, camera: Camera | None = None) -> Gaussians:
        assert self.splats.binding is not None
        tracked = params = self.own(drive.params)
        if self.corrections is not None:
            tracked, params = self.corrections.both(params)
        with torch.no_grad():
            if self.learnt is None:
                vertices, fields = self._fast.vertices(params), self._fields
            else:
                latent = drive.codes[LATENT][0] if LATENT in drive.codes else None
                vertices, fields = self.learnt.pose(self._fast, self._fields, tracked, params, latent)
            if self.response is not None:
                fields = self.response.applied(fields, params, self.splats.binding)
            return pose_fields(fields, vertices, self.head.faces, self.splats.binding, camera)

    def level(self, count: int) -> GeoDiff4DAvatar:
        """The same avatar with its `count` most important Gaussians, the others merged into them.

        Raises ConfigError for a count below 1.
        """
        if count < 1:
            raise ConfigError(f"a level must keep at least 1 Gaussian, got {count}")
        if count >= len(self.splats):
            return self
        importance = measured([self.pose(drive) for drive in sample_drives(self)])
        # Merged with the mouth open, so that no lip takes in a part of the other.
        drive = sample_drives(self)[1]
        params = self.own(drive.params)
        binding = self.splats.binding
        assert binding is not None
        rest = GeoDiff4DAvatar(self.head, self.params, self.info, self.splats)
        kept, posed = reduce(rest.pose(drive), importance, count, face_groups(self.head)[binding])
        frames = bound_frames(rest._fast.vertices(params), self.head.faces, binding[kept])
        means, quats, scales = to_local(posed.means, posed.quats, posed.scales, frames)
        sh = self.splats.sh[kept].clone()
        sh[:, 0] = to_harmonic(posed.colors)[:, 0]
        logits = torch.logit(posed.opacities.clamp(1e-6, 1 - 1e-6))
        splats = Splats(means, quats, scales.clamp_min(1e-9).log(), logits, sh, binding[kept])
        learnt = self.learnt
        if learnt is not None and learnt.latents is not None and learnt.known is not None:
            learnt = replace(learnt, latents=learnt.latents[kept], known=learnt.known[kept])
        response = None if self.response is None else self.response.of(kept)
        return GeoDiff4DAvatar(self.head, self.params, self.info, splats, learnt, self.corrections, response)

    def write(self, folder: Path) -> dict[str, Any]:
        """point_cloud.ply holds triangle-local values (GaussianAvatars), without what the expression changes;
        splats.ply the neutral head in the world; networks.safetensors the networks, the corrections, the response."""
        write_ply(folder / "point_cloud.ply", self.splats)
        posed = self.pose(self.neutral())
        write_ply(
            folder / "splats.ply", world_splats(posed.means, posed.quats, posed.scales, posed.opacities, posed.colors)
        )
        tensors = {} if self.learnt is None else self.learnt.tensors()
        if self.corrections is not None:
            tensors |= self.corrections.tensors()
        if self.response is not None:
            tensors |= self.response.tensors()
        if tensors:
            save_tensors(folder / NETWORKS, {k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        return {
            "gaussians": len(self.splats), "sh_degree": round(self.splats.sh.shape[1] ** 0.5) - 1,
            "networks": self.learnt is not None, "corrections": self.corrections is not None,
            "response": self.response is not None,
        }  # fmt: skip

    @classmethod
    def read(cls, folder: Path, head: HeadModel, params: HeadParams, info: AvatarInfo) -> GeoDiff4DAvatar:
        splats = read_ply(folder / "point_cloud.ply")
        record = read_manifest(folder)
        learnt = corrections = response = None
        if record.get("networks") or record.get("corrections") or record.get("response"):
            path = folder / NETWORKS
            tensors = read_tensors(path)
            if record.get("networks"):
                parts = (
                    _recorded(DeformConfig, info.config, "deform"),
                    _recorded(AttributeConfig, info.config, "attributes"),
                )
                learnt = read_learnt(tensors, head, params, *parts, path)
            if record.get("corrections"):
                corrections = Corrections.of(tensors)
            if record.get("response"):
                config = _recorded(ResponseConfig, info.config, "response")
                response = Response.read(tensors, head, params, config, len(splats), path)
        return cls(head, params, info, splats, learnt, corrections, response)


def fit(source: ClipSet, config: GeoDiff4DConfig, context: FitContext | None = None) -> GeoDiff4DAvatar:
    """Fits an avatar to a clip set; goes on from the context's checkpoint where there is one.

    Raises ConfigError or ClipSetError where indexing, track or code ask for what the clip set cannot give.
    """
    context = context or FitContext()
    if config.indexing == "multiview" and source.indexing == "monocular":
        raise ConfigError(
            f"indexing=multiview needs views that share their times, and {source.folder} was made as one monocular "
            "video: use indexing=auto"
        )
    latents = source.expression if config.code != "parameters" else None
    if config.code == "latents" and latents is None:
        raise ConfigError(
            f"code=latents needs the expression latents of a generated clip set, and {source.folder} has none: use "
            "code=parameters"
        )
    clips = source.clips()
    if config.track == "generated":
        clips = retracked(clips, source.head)
    frames = collect(clips, source.held_out(), source.has_masks, latents, config.indexing == "monocular")
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
    if config.hull.enabled and frames.has_masks and not _has_offset(frames.params):
        offset = grow_scalp(head, frames.params, frames, config.hull)
        frames = replace(frames, params=frames.params.replace(static_offset=offset))
    if config.hull.enabled and frames.has_masks and config.hull.carve > 0:
        frames = replace(
            frames, params=frames.params.replace(static_offset=carve(head, frames.params, frames, config.hull))
        )
    if config.behind.enabled:
        frames = with_unseen_views(head, frames, config.behind, texture)
    placement = initial_gaussians(head, frames, config, texture)
    on_device = head.to(context.device), frames.to(context.device)
    placement = Placement(
        {k: v.to(context.device) for k, v in placement.fields.items()},
        *(v.to(context.device) for v in placement[1:]),
    )
    problem = RiggedProblem(*on_device, placement, _fit_config(config))
    schedule = Schedule(config.iterations, config.seed, config.checkpoint_seconds, config.log, config.plateau)
    optimise(problem, schedule, context.checkpoint, context.fingerprint, context.progress, context.folder)
    splats = splats_of(problem.fields, problem.binding)
    splats = Splats(**{name: value.cpu() for name, value in vars(splats).items()})
    info = AvatarInfo(config=to_container(config), head_spec=context.head_spec, encoder=context.encoder)
    refined = problem.params.to("cpu")
    learnt = None if problem.learnt is None else problem.learnt.to("cpu")
    corrections = Corrections.between(frames.params, refined) if config.refinement.enabled else None
    response = None if problem.response is None else problem.response.to("cpu")
    avatar = GeoDiff4DAvatar(head, refined, info, splats, learnt, corrections, response)
    avatar.info = replace(info, metrics=held_out_metrics(avatar, frames))
    return avatar


def _has_offset(params: HeadParams) -> bool:
    """Whether somebody fitted hair already: the hull, which nothing carves where no view looks along the surface,
    would only swell it."""
    return params.static_offset is not None and bool((params.static_offset != 0).any())


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


def sample_drives(avatar: Avatar) -> list[Drive]:
    """The avatar at rest, with its mouth open, and with its eyes shut and a smile, as far as its head can."""
    head, drives = avatar.head, [avatar.neutral()]
    smile = {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}
    for weights in ({"jawOpen": 0.8}, smile):
        still = {name: np.array([weight], np.float32) for name, weight in weights.items()}
        motion = Motion(still, np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32))
        drives.append(Drive(head.motion_params(motion, avatar.neutral().params)))
    return drives


def face_groups(head: HeadModel) -> Tensor:
    """(F,) int64: 0 for skin and hair, other numbers for eyeballs, teeth and the mouth."""
    group = torch.zeros(len(head.faces), dtype=torch.int64)
    for number, region in enumerate(SEPARATE, start=1):
        group[head.face_region(region)] = number
    return group


def held_out_metrics(avatar: Avatar, frames: FrameSet, limit: int = 16) -> dict[str, float]:
    """PSNR and SSIM inside the dilated matte, over at most `limit` held-out frames; empty where there are none."""
    chosen = frames.held_out[:: max(1, len(frames.held_out) // limit)][:limit]
    figures: dict[str, list[float]] = {"psnr": [], "ssim": []}
    for index in chosen:
        matte = frames.mask(index)[..., 0].numpy()
        if not (matte > 0.5).any():
            continue
        step = int(frames.steps[index])
        codes = {} if frames.latents is None else {LATENT: frames.latents[step : step + 1]}
        drive = Drive(frames.params.frame(step), codes)
        image = render(avatar, drive, frames.cameras[index]).rgb.numpy()
        truth, region = frames.image(index).numpy(), evaluation_mask(matte)
        figures["psnr"].append(psnr(image, truth, region))
        figures["ssim"].append(ssim(image, truth, region))
    return {name: float(np.mean(values)) for name, values in figures.items() if values}


def _recorded(schema: type[_Section], config: dict[str, Any], name: str) -> _Section:
    """A section of an avatar's configuration; what this version does not know any more, it did not need to read it."""
    section = config.get(name)
    known = {f.name for f in dataclasses.fields(schema)}  # type: ignore[arg-type]
    return schema(**{k: v for k, v in section.items() if k in known}) if isinstance(section, dict) else schema()


def _fit_config(config: GeoDiff4DConfig) -> FitConfig:
    return FitConfig(**{f.name: getattr(config, f.name) for f in dataclasses.fields(FitConfig)})

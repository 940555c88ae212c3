"""Optimising Gaussians that are bound to a head against the frames of a clip set."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from geodiff.head.model import HeadModel
from geodiff.raster.gaussians import rasterize
from geodiff.types import Camera, Gaussians, HeadParams
from recon import losses
from recon.frames import FrameSet
from recon.layers.attributes import AttributeConfig, first_latents
from recon.layers.codes import fit_codes
from recon.layers.deform import DeformConfig
from recon.layers.density import DensityConfig, DensityStats, choose, grow_and_prune
from recon.layers.dynamics import Dynamics, Learnt
from recon.layers.initialise import SEEN, Placement
from recon.layers.levels import influence
from recon.layers.normals import camera_normals
from recon.layers.perceptual import PerceptualConfig, PerceptualLoss
from recon.layers.refinement import RefinementConfig
from recon.layers.response import FIELD, Response, ResponseConfig, Surface, first_matrices, respond
from recon.layers.rig import Posed, Rig
from recon.layers.rigged import Fields, pose_fields

#: Pixels that a Gaussian must influence in some view to be optimised at all, and frames that are looked at for that.
SEEN_PIXELS, SEEN_FRAMES = 0.02, 24
#: Pixels below which the influence of one that is optimised counts as faint.
FAINT_PIXELS = 0.03
#: Held-out frames that a run is measured by while it lasts.
MEASURED = 8
#: Time steps whose changes of the surface are kept; those of longer sets are found anew at each step.
KEPT_CHANGES = 512
#: Share of the run after which they are found anew where refinement goes on changing the expression.
STALE = 0.05
#: Fields that carry colour.
COLOR_FIELDS = ("sh_dc", "sh_rest")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses; 0 turns one off.

    dssim: share of D-SSIM in the photometric loss. normal: equation 2 of GeoDiff4D. mask: alpha against the foreground
    mask. position, scale: GaussianAvatars' regularisers beyond the thresholds, in units of the triangle's scale (wider
    where there are fewer Gaussians than triangles). perceptual: LPIPS, off unless its weights are given.
    """

    dssim: float = 0.2
    normal: float = 0.1
    mask: float = 0.2
    position: float = 0.01
    position_threshold: float = 1.0
    scale: float = 1.0
    scale_threshold: float = 0.6
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)


@dataclass(frozen=True)
class LearningRates:
    """Adam's rates, in the units of the stored fields. means falls to means * means_final over the run.

    latent: of the attribute network's latents, where there is one. response: of what Gaussians do beside their
    triangles. From the share `hold` of the run on all but the means' fall, to `final` times themselves at its end.

    The defaults are for runs of a few thousand steps, in which Gaussians have to get from the tracked head to the true
    one, a few millimetres; GaussianAvatars' own, for 600,000 steps, are a quarter of them, and leave short runs 2 to
    5 dB short (docs/reconstruction.md).
    """

    means: float = 2e-2
    means_final: float = 0.02
    quats: float = 8e-3
    log_scales: float = 2.5e-2
    opacity_logits: float = 4e-2
    sh_dc: float = 1e-2
    sh_rest: float = 2e-3
    latent: float = 1e-2
    response: float = 1e-2
    hold: float = 0.5
    final: float = 0.05


@dataclass(frozen=True)
class FitConfig:
    """What `RiggedProblem` needs to know. iterations: length of the run, which schedules refer to."""

    iterations: int = 2500
    seed: int = 0
    losses: LossWeights = field(default_factory=LossWeights)
    rates: LearningRates = field(default_factory=LearningRates)
    density: DensityConfig = field(default_factory=DensityConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    deform: DeformConfig = field(default_factory=DeformConfig)
    attributes: AttributeConfig = field(default_factory=AttributeConfig)
    response: ResponseConfig = field(default_factory=ResponseConfig)


class RiggedProblem:
    """Bound Gaussians, their optimiser, and one step on one frame (the `Problem` that `optimise` runs)."""

    def __init__(self, head: HeadModel, frames: FrameSet, placement: Placement, config: FitConfig) -> None:
        self.head, self.frames, self.config = head, frames, config
        self.samples = frames.train
        self.binding, self.reach = placement.binding, placement.reach
        self.fields: Fields = {}
        first = dict(placement.fields)
        if config.attributes.enabled:
            latents = first_latents(len(self.binding), config.attributes, config.seed)
            first["latent"] = latents.to(self.binding.device)
        self._surface: Surface | None = None
        self._changes: dict[int, tuple[int, Tensor]] = {}
        if config.response.enabled:
            self._surface = Surface(head, frames.params, config.response.reach)
            first[FIELD] = first_matrices(len(self.binding)).to(self.binding.device)
        self._adopt(first)
        self.stats = DensityStats.zeros(len(self.binding), self.binding.device)
        self.rig = Rig(head, frames.params, config.refinement, self._dynamics(), frames.latents, config.iterations)
        self._white = torch.ones(3, device=self.binding.device)
        self._perceptual = PerceptualLoss.of(config.losses.perceptual, frames.device)
        # Without masks nothing says which pixels are the head's: neither alpha nor normals have a truth then.
        self._has_masks = frames.has_masks and config.losses.mask > 0
        self._has_normals = frames.has_masks and frames.normals is not None and config.losses.normal > 0
        self.seen = torch.ones(len(self.binding), dtype=torch.bool, device=self.binding.device)
        self.frontal = placement.facing > SEEN
        self.seen = self.influence() > SEEN_PIXELS

    def _dynamics(self) -> Dynamics | None:
        config, params = self.config, self.frames.params
        if not (config.deform.enabled or config.attributes.enabled):
            return None
        torch.manual_seed(config.seed)
        codes = fit_codes(params, self.frames.latents)
        made = Dynamics(self.head, params, codes, config.deform, config.attributes)
        return made.to(self.binding.device)

    @property
    def params(self) -> HeadParams:
        """Head parameters of all time steps, with what was learnt about them."""
        return self.rig.params

    @property
    def learnt(self) -> Learnt | None:
        """The networks, where there are any."""
        if self.rig.dynamics is None:
            return None
        latents = self.fields["latent"].detach() if "latent" in self.fields else None
        return Learnt(self.rig.dynamics.requires_grad_(False), latents, None if latents is None else self.seen)

    @property
    def response(self) -> Response | None:
        """What the Gaussians do beside their triangles, where that is learnt."""
        return None if self._surface is None else Response(self.fields[FIELD].detach(), self._surface)

    def posed(self, step: int, camera: Camera, share: float = 1.0, fitting: bool = False) -> tuple[Gaussians, Posed]:
        """The Gaussians at a time step in the world, after a share of the run."""
        posed = self.rig.pose(step, self.fields, self.seen, share, fitting)
        if self._surface is not None:
            iteration = round(share * self.config.iterations) if fitting else None
            posed = self._responded(posed, step, self._surface, iteration)
        return pose_fields(posed.fields, posed.vertices, self.head.faces, self.binding, camera), posed

    def _responded(self, posed: Posed, step: int, surface: Surface, iteration: int | None) -> Posed:
        """With what the Gaussians do beside their triangles. iteration: while fitting, in which refinement moves the
        surface too little for its changes to be found anew at each step; None for those of now."""
        found, changes = self._changes.get(step, (-1, None))
        old = iteration is None or iteration - found > self.config.iterations * STALE
        if changes is None or (old and self.rig.residual is not None):
            changes = surface.changes(self.params.frame(step))
            if iteration is not None and len(self._changes) < KEPT_CHANGES:
                self._changes[step] = iteration, changes
        moving = torch.stack([self.seen, self.seen & self.frontal], 1)
        return replace(posed, fields=respond(posed.fields, self.fields[FIELD], changes, self.binding, moving))

    def step(self, sample: int, iteration: int) -> dict[str, float]:
        """One Adam step on one frame."""
        camera = self.frames.cameras[sample]
        share = iteration / self.config.iterations
        gaussians, posed = self.posed(int(self.frames.steps[sample]), camera, share, fitting=True)
        gaussians.means.retain_grad()
        terms = {**self._losses(gaussians, sample, camera), **posed.terms}
        total = torch.stack(list(terms.values())).sum()
        self._optimiser.zero_grad(set_to_none=True)
        self.rig.zero_grad()
        total.backward()
        self._hold_unseen()
        self._set_rates(iteration)
        self._optimiser.step()
        self.rig.step(share)
        if self._growing(iteration):
            assert gaussians.means.grad is not None
            self.stats.add(gaussians.means.grad, gaussians.means.detach(), camera)
            if (iteration + 1) % self.config.density.every == 0:
                self._density_round(iteration, gaussians.scales.detach())
        told = {name: float(term.detach()) for name, term in terms.items()}
        return {"loss": float(total.detach()), **told, "gaussians": float(len(self.binding))}

    def measure(self) -> float | None:
        """PSNR over whole held-out frames in dB; None where none are held out."""
        chosen = self.frames.held_out[:: max(1, len(self.frames.held_out) // MEASURED)][:MEASURED]
        if not chosen:
            return None
        errors = [(self._rendered(sample) - self.frames.image(sample)).square().mean() for sample in chosen]
        return float(-10 * torch.stack(errors).clamp_min(1e-10).log10().mean())

    def picture(self) -> np.ndarray:
        """(H, 2 W, 3) uint8: a frame as it is now, beside the true one."""
        sample = (self.frames.held_out or self.samples)[0]
        both = torch.cat([self._rendered(sample).clamp(0, 1), self.frames.image(sample)], 1)
        return (both.cpu().numpy() * 255 + 0.5).astype(np.uint8)

    def _rendered(self, sample: int) -> Tensor:
        """(H, W, 3) of a frame's camera and time step, on white."""
        camera = self.frames.cameras[sample]
        with torch.no_grad():
            posed, _ = self.posed(int(self.frames.steps[sample]), camera)
            seen = rasterize(posed, camera.viewmat[None], camera.K[None], camera.width, camera.height)
        return seen.colors[0] + (1 - seen.alphas[0]) * self._white

    def _losses(self, gaussians: Gaussians, sample: int, camera: Camera) -> dict[str, Tensor]:
        weights, frames = self.config.losses, self.frames
        channels = gaussians
        if self._has_normals:
            normals = camera_normals(gaussians.means, gaussians.quats, gaussians.scales, camera)
            channels = replace(gaussians, colors=torch.cat([gaussians.colors, normals], 1))
        seen = rasterize(channels, camera.viewmat[None], camera.K[None], camera.width, camera.height)
        colors, alpha = seen.colors[0], seen.alphas[0]
        image = colors[..., :3] + (1 - alpha) * self._white
        mask = frames.mask(sample)
        terms = {"photometric": losses.photometric_loss(image, frames.image(sample), weights.dssim)}
        if self._has_masks:
            terms["mask"] = weights.mask * losses.mask_loss(alpha, mask)
        if self._perceptual is not None:
            terms["perceptual"] = self._perceptual(image, frames.image(sample))
        normal = frames.normal(sample) if self._has_normals else None
        if normal is not None:
            terms["normal"] = weights.normal * losses.normal_loss(colors[..., 3:6], normal, mask)
        if weights.position > 0:
            limit = weights.position_threshold * self.reach
            terms["position"] = weights.position * losses.position_loss(self.fields["means"], limit)
        if weights.scale > 0:
            limit = (weights.scale_threshold * self.reach)[:, None]
            terms["scale"] = weights.scale * losses.scale_loss(self.fields["log_scales"].exp(), limit)
        return terms

    def _adopt(self, fields: Fields) -> None:
        """Makes the fields leaves of the graph and starts a fresh optimiser for them."""
        self.fields = {name: value.detach().clone().requires_grad_(value.numel() > 0) for name, value in fields.items()}
        rates = self.config.rates
        groups = [
            {"params": [value], "lr": getattr(rates, name), "name": name}
            for name, value in self.fields.items()
            if value.numel()
        ]
        # Adam makes full steps of the faintest gradients, which would scatter Gaussians that no view sees: those that
        # influence less than a few hundredths of a pixel hardly move.
        width, height = self.frames.size
        self._optimiser = torch.optim.Adam(groups, lr=0.0, eps=FAINT_PIXELS / (width * height), fused=True)

    def _set_rates(self, iteration: int) -> None:
        rates = self.config.rates
        share = iteration / max(1, self.config.iterations - 1)
        settling = rates.final ** max(0.0, (share - rates.hold) / max(1e-6, 1 - rates.hold))
        for group in self._optimiser.param_groups:
            if group["name"] == "means":
                group["lr"] = rates.means * math.exp(math.log(rates.means_final) * share)
            else:
                group["lr"] = getattr(rates, str(group["name"])) * settling

    def influence(self) -> Tensor:
        """(N,) the most pixels that each Gaussian covers in one view, weighted by what reaches the camera."""
        most = torch.zeros(len(self.binding), device=self.binding.device)
        for sample in self.samples[:: max(1, len(self.samples) // SEEN_FRAMES)]:
            camera = self.frames.cameras[sample]
            with torch.no_grad():
                posed, _ = self.posed(int(self.frames.steps[sample]), camera)
            most = torch.maximum(most, influence([posed], [camera]))
        return most

    def _hold_unseen(self) -> None:
        """Gaussians that no view sees get only what leaks through others: noise, which Adam would amplify.

        Those that are only seen at the outline, where pixels mix with the background, keep their colours.
        """
        for name, value in self.fields.items():
            if value.grad is not None and name != FIELD:
                moving = self.seen & self.frontal if name in COLOR_FIELDS else self.seen
                value.grad.mul_(moving.view(-1, *[1] * (value.ndim - 1)))

    def _growing(self, iteration: int) -> bool:
        density = self.config.density
        share = iteration / self.config.iterations
        return density.enabled and density.start <= share < density.stop

    def _density_round(self, iteration: int, world_scales: Tensor) -> None:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + iteration)
        choice = choose(
            self.fields, self.binding, world_scales, self.stats, self.config.density, self.head.faces.shape[0]
        )
        fields, source = grow_and_prune(self.fields, *choice, generator)
        moments = {name: self._moments(name) for name in self.fields}
        self.binding, self.reach = self.binding[source], self.reach[source]
        self.seen, self.frontal = self.seen[source], self.frontal[source]
        self._adopt(fields)
        for name, (first, second, step) in moments.items():
            if self.fields[name].numel():
                self._set_moments(name, first[source], second[source], step)
        self.stats = DensityStats.zeros(len(self.binding), self.binding.device)

    def _moments(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        state = self._optimiser.state.get(self.fields[name], {})
        like = self.fields[name].detach()
        # Each its own zeros: a checkpoint holds no tensor twice.
        first, second = (state.get(part, torch.zeros_like(like)) for part in ("exp_avg", "exp_avg_sq"))
        return first, second, state.get("step", torch.tensor(0.0))

    def _set_moments(self, name: str, first: Tensor, second: Tensor, step: Tensor) -> None:
        self._optimiser.state[self.fields[name]] = {"step": step, "exp_avg": first, "exp_avg_sq": second}

    def state(self) -> dict[str, Tensor]:
        """Fields, optimiser moments, binding, statistics and head residuals."""
        state = {"binding": self.binding, "reach": self.reach, "seen": self.seen, "frontal": self.frontal}
        state.update({"total": self.stats.total, "count": self.stats.count})
        for name, value in self.fields.items():
            state[f"field.{name}"] = value
            for part, moment in zip(("first", "second", "step"), self._moments(name), strict=True):
                state[f"{part}.{name}"] = moment
        state.update(self.rig.state())
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        device = self.binding.device
        state = {name: value.to(device) for name, value in state.items()}
        self.binding, self.reach = state["binding"], state["reach"]
        self.seen, self.frontal = state["seen"], state["frontal"]
        self.stats = DensityStats(state["total"], state["count"])
        self._adopt({name: state[f"field.{name}"] for name in self.fields})
        for name, value in self.fields.items():
            if value.numel():
                self._set_moments(name, state[f"first.{name}"], state[f"second.{name}"], state[f"step.{name}"].cpu())
        self.rig.restore(state)

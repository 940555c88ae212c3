"""Levels of detail: the Gaussians that matter most, and the others merged into them.

What a Gaussian matters is measured: how much it adds to pictures from all around, over expressions that open the mouth
and shut the eyes. The least important ones are not thrown away but merged into the nearest one that stays, by matching
mass, mean and covariance, so that a level covers what the whole covered.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from geodiff.geometry import matrix_to_quat, orbit_camera, quat_to_matrix
from geodiff.raster.gaussians import rasterize
from geodiff.types import Camera, Gaussians

#: Yaw and elevation in degrees of the pictures that influence is measured in.
VIEWS = ((0, 0), (45, 0), (-45, 0), (90, 0), (-90, 0), (135, 10), (-135, 10), (180, 0), (0, 50), (0, -30))
#: Side of those pictures, and how many pixels high the Gaussians' extent is in them.
_SIDE, _SHARE = 192, 0.8
#: Share of a merged group's extent that its Gaussian takes: whole, groups of flat ones would puff up the outline.
_SWELL = 0.85
#: Cosine between shortest axes below which two Gaussians lie on different surfaces, as a distance in metres at 1.
_TURN = 0.01


class Level(NamedTuple):
    """What is left of N Gaussians: kept (M,) int64 numbers, ascending, and posed (M,) as they are after merging."""

    kept: Tensor
    posed: Gaussians


def influence(poses: list[Gaussians], cameras: list[Camera]) -> Tensor:
    """(N,) the most pixels that each Gaussian covers in one picture, weighted by what reaches the camera.

    poses: the same N Gaussians, without gradients, in several expressions.
    """
    most = torch.zeros(len(poses[0]), device=poses[0].means.device)
    for posed in poses:
        for camera in cameras:
            ones = torch.ones(len(posed), 1, device=most.device, requires_grad=True)
            held = replace(posed, colors=ones)
            seen = rasterize(held, camera.viewmat[None], camera.K[None], camera.width, camera.height)
            # What a Gaussian's colour adds to the image is the sum of its blending weights.
            (weights,) = torch.autograd.grad(seen.colors.sum(), ones)
            most = torch.maximum(most, weights[:, 0])
    return most


def around(posed: Gaussians) -> list[Camera]:
    """Cameras that see all of the Gaussians, from all sides."""
    low, high = posed.means.quantile(0.01, 0), posed.means.quantile(0.99, 0)
    focal = _SHARE * _SIDE / float((high - low).max())
    center = (low + high) / 2
    angles = ((math.radians(yaw), math.radians(elevation)) for yaw, elevation in VIEWS)
    return [orbit_camera(yaw, up, 1.0, center.cpu(), focal, _SIDE, _SIDE).to(center.device) for yaw, up in angles]


def reduce(posed: Gaussians, importance: Tensor, count: int, group: Tensor | None = None) -> Level:
    """The `count` most important of N Gaussians, with the others merged into them.

    posed: at rest. importance: (N,), as of `influence`. group: (N,) int64; Gaussians merge within their group alone
    (upper and lower lip, teeth, skin), and each group keeps its share. Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"a level must keep at least 1 Gaussian, got {count}")
    total = len(posed)
    if count >= total:
        return Level(torch.arange(total), posed)
    group = torch.zeros(total, dtype=torch.int64) if group is None else group.cpu()
    worth = importance.cpu() + 1e-9 * torch.arange(total, 0, -1) / total
    kept = torch.zeros(total, dtype=torch.bool)
    kept[worth.topk(count).indices] = True
    owner = _owners(posed, kept, group)
    return Level(kept.nonzero()[:, 0], _merged(posed, kept, owner))


def _owners(posed: Gaussians, kept: Tensor, group: Tensor) -> Tensor:
    """(N,) the kept Gaussian that each one goes into (itself if kept), -1 where its group keeps none."""
    axes = _shortest(posed).cpu()
    # Axes have no sign; products of their entries have none either.
    turned = _TURN * (axes[:, :, None] * axes[:, None, :]).flatten(1)
    places = torch.cat([posed.means.detach().cpu(), turned], 1).numpy()
    owner = torch.where(kept, torch.arange(len(kept)), torch.full((len(kept),), -1))
    for number in torch.unique(group).tolist():
        inside = group == number
        stay, go = (inside & kept).nonzero()[:, 0], (inside & ~kept).nonzero()[:, 0]
        if len(stay) and len(go):
            _, nearest = cKDTree(places[stay.numpy()]).query(places[go.numpy()])
            owner[go] = stay[torch.from_numpy(np.asarray(nearest))]
    return owner


def _shortest(posed: Gaussians) -> Tensor:
    rotation = quat_to_matrix(torch.nn.functional.normalize(posed.quats.detach(), dim=-1))
    place = posed.scales.detach().argmin(-1)
    return torch.gather(rotation, 2, place[:, None, None].expand(-1, 3, 1))[:, :, 0]


def _merged(posed: Gaussians, kept: Tensor, owner: Tensor) -> Gaussians:
    """The kept ones after the others went into them: mass-weighted mean, covariance and colour of each group."""
    whole = {name: getattr(posed, name).detach().cpu() for name in ("means", "quats", "scales", "opacities", "colors")}
    rotation = quat_to_matrix(torch.nn.functional.normalize(whole["quats"], dim=-1))
    covariance = rotation @ torch.diag_embed(whole["scales"].square()) @ rotation.transpose(1, 2)
    # What a flat Gaussian covers is the product of its two long axes.
    area = whole["scales"].sort(-1).values[:, 1:].prod(-1)
    mass = whole["opacities"] * area
    there = owner >= 0
    to, mass = owner[there], mass[there]

    def mean_of(values: Tensor) -> Tensor:
        shape = (-1, *[1] * (values.ndim - 1))
        total = torch.zeros_like(values).index_add(0, to, mass.view(shape) * values[there])
        weight = torch.zeros(len(owner)).index_add(0, to, mass).clamp_min(1e-20)
        return total / weight.view(shape)

    means = mean_of(whole["means"])
    spread = whole["means"] - means[owner.clamp_min(0)]
    covariance = mean_of(covariance + _SWELL * spread[:, :, None] * spread[:, None, :])
    crowd = torch.zeros(len(owner)).index_add(0, to, torch.ones(len(to)))
    alone = crowd <= 1
    variances, axes = torch.linalg.eigh(covariance[kept])
    axes[:, :, 0] *= torch.sign(torch.linalg.det(axes))[:, None]
    scales = variances.clamp_min(1e-12).sqrt()
    single = alone[kept]
    grown = scales.sort(-1).values[:, 1:].prod(-1).clamp_min(1e-20)
    held = torch.zeros(len(owner)).index_add(0, to, mass)[kept]
    opacity = torch.maximum(held / grown, whole["opacities"][kept]).clamp(max=0.99)
    pick = lambda new, name: torch.where(single.view(-1, *[1] * (new.ndim - 1)), whole[name][kept], new)  # noqa: E731
    return replace(
        posed, means=pick(means[kept], "means"), quats=pick(matrix_to_quat(axes), "quats"),
        scales=pick(scales, "scales"), opacities=pick(opacity, "opacities"), colors=pick(mean_of(whole["colors"])[kept],
        "colors"),
    )  # fmt: skip


def measured(poses: list[Gaussians]) -> Tensor:
    """(N,) influence over several poses, seen from all around the first of them."""
    return influence(poses, around(poses[0]))

"""The head's surface before the start, by the silhouettes (visual hull).

What the head model does not have, hair, grows: a vertex of the scalp moves out along its normal as far as all views see
foreground there. What reaches beyond the silhouettes, a neck that is too thick or hair that was guessed too large, is
carved: it moves in until they hold it. Both become static offsets, so that Gaussians start on the surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geodiff.geometry import project, vertex_normals
from geodiff.head.model import HeadModel
from geodiff.types import HeadParams
from recon.frames import FrameSet


@dataclass(frozen=True)
class HullConfig:
    """enabled: for heads whose hair nobody fitted: those with static offsets stay as they are. limit: furthest growth
    in metres. step: sampling of it in metres. views: frames that vote. smoothing: rounds. carve: furthest way inwards
    in metres, 0 for none; of fitted hair as well. steps: times of each view that vote on that."""

    enabled: bool = True
    limit: float = 0.06
    step: float = 0.003
    views: int = 24
    smoothing: int = 12
    carve: float = 0.03
    steps: int = 3


def carve(head: HeadModel, params: HeadParams, frames: FrameSet, config: HullConfig) -> Tensor:
    """Static offsets (V, 3) in metres, those of `params` included, with which scalp and neck stay within the masks.

    A view says that a point lies outside where most of its times do: at one of them the pose may be wrong.
    """
    region = (head.regions["scalp"] | head.regions["neck"]) & ~head.regions["face"]
    depths = torch.arange(0, round(config.carve / config.step) + 1) * config.step
    inside = torch.ones(int(region.sum()), len(depths), dtype=torch.bool)
    for view in torch.unique(frames.views).tolist():
        own = [i for i in frames.train if int(frames.views[i]) == view]
        votes = torch.zeros(inside.shape)
        chosen = own[:: max(1, len(own) // config.steps)]
        for sample in chosen:
            vertices = head.vertices(params.replace(**_moving(frames.params, int(frames.steps[sample]))))[0]
            normals = vertex_normals(vertices, head.faces)[region]
            points = vertices[region][:, None] - normals[:, None] * depths[None, :, None]
            votes += _is_foreground(points, frames, sample)
        inside &= votes >= 0.5 * len(chosen)
    # Where no depth is inside, the pose or the mask is wrong, not the surface.
    depth = torch.zeros(head.num_vertices)
    depth[region] = torch.where(inside.any(1), depths[inside.long().argmax(1)], torch.zeros(()))
    depth = _smooth(depth, head.faces, config.smoothing // 3) * region
    return _moved(head, params, -depth)


def grow_scalp(head: HeadModel, params: HeadParams, frames: FrameSet, config: HullConfig) -> Tensor:
    """Static offsets (V, 3) in metres that fill the foreground around the scalp, those of `params` included.

    params: the subject's, whose shape and offsets count.
    """
    scalp = head.regions["scalp"]
    steps = torch.arange(1, round(config.limit / config.step) + 1) * config.step
    free = torch.ones(int(scalp.sum()), len(steps), dtype=torch.bool)
    for sample in _voters(frames, config.views):
        vertices = head.vertices(params.replace(**_moving(frames.params, int(frames.steps[sample]))))[0]
        normals = vertex_normals(vertices, head.faces)[scalp]
        points = vertices[scalp][:, None] + normals[:, None] * steps[None, :, None]
        free &= _is_foreground(points, frames, sample)
    growth = torch.zeros(head.num_vertices)
    # The last free step may owe its freedom to the pixel grid; without it a head that fits stays as it is.
    growth[scalp] = (free.long().cumprod(1).sum(1) - 1).clamp_min(0) * config.step
    return _moved(head, params, _smooth(growth, head.faces, config.smoothing) * scalp)


def _moved(head: HeadModel, params: HeadParams, distance: Tensor) -> Tensor:
    """The static offsets of `params` (V, 3) and `distance` (V,) in metres along the normals of the head at rest."""
    rest = params.static_offset if params.static_offset is not None else torch.zeros_like(head.template)
    still = head.zeros().replace(shape=params.shape, static_offset=params.static_offset)
    normals = vertex_normals(head.shaped(still)[0], head.faces)
    return rest + distance[:, None] * normals


def _moving(params: HeadParams, step: int) -> dict[str, Tensor]:
    frame = params.frame(step)
    names = ("expr", "rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose")
    return {name: getattr(frame, name) for name in names}


def _voters(frames: FrameSet, count: int) -> list[int]:
    """Frames spread evenly over views and time."""
    order = sorted(frames.train, key=lambda i: (int(frames.steps[i]) % 3, int(frames.views[i])))
    stride = max(1, len(order) // count)
    return order[::stride]


def _is_foreground(points: Tensor, frames: FrameSet, sample: int) -> Tensor:
    """(..., 3) world points -> (...,) bool: inside the mask of a frame, or outside its image."""
    camera = frames.cameras[sample]
    pixels, _ = project(points, camera)
    column, row = pixels.floor().long().unbind(-1)
    outside = (column < 0) | (row < 0) | (column >= camera.width) | (row >= camera.height)
    mask = frames.masks[sample][row.clamp(0, camera.height - 1), column.clamp(0, camera.width - 1)]
    return outside | (mask > 127)


def _smooth(values: Tensor, faces: Tensor, rounds: int) -> Tensor:
    """Averages a vertex quantity (V,) with its neighbours."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = torch.unique(torch.cat([edges, edges.flip(1)]), dim=0)
    degree = torch.zeros_like(values).index_add(0, edges[:, 0], torch.ones(len(edges))).clamp_min(1)
    for _ in range(rounds):
        around = torch.zeros_like(values).index_add(0, edges[:, 0], values[edges[:, 1]]) / degree
        values = 0.5 * values + 0.5 * around
    return values

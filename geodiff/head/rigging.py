"""Frames that travel with the triangles of a mesh, and Gaussians that are attached to them.

As in GaussianAvatars (Qian et al. 2024, section 3.2): a Gaussian's mean, rotation and scale are stored relative to its
parent triangle, so that the mesh animates it. A triangle (v0, v1, v2) has the axes

    a0 = unit(v1 - v0),  a1 = unit(a0 x (v2 - v0)),  a2 = -unit(a1 x a0),

the columns of its rotation; its centroid as origin; and the mean of its first edge and its height on it as scale.
The local y axis is the triangle's normal.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geodiff.geometry import matrix_to_quat, quat_multiply

#: Shortest vector that still has a direction, in metres; triangles that have collapsed get a zero axis instead of NaN.
_EPS = 1e-12


class TriangleFrames(NamedTuple):
    """rotations: (T, F, 3, 3), columns are the axes. origins: (T, F, 3) centroids, metres. scales: (T, F) metres."""

    rotations: Tensor
    origins: Tensor
    scales: Tensor


def triangle_frames(vertices: Tensor, faces: Tensor) -> TriangleFrames:
    """Frames of all triangles in all frames; differentiable.

    vertices: (T, V, 3) metres. faces: (F, 3) int64.
    """
    v0, v1, v2 = (vertices[:, faces[:, corner]] for corner in range(3))
    edge, other = v1 - v0, v2 - v0
    a0 = _unit(edge)
    a1 = _unit(torch.linalg.cross(a0, other))
    a2 = -_unit(torch.linalg.cross(a1, a0))
    scales = (_length(edge) + (a2 * other).sum(-1).abs()) / 2
    return TriangleFrames(torch.stack([a0, a1, a2], -1), (v0 + v1 + v2) / 3, scales)


class BoundFrames(NamedTuple):
    """Frames of the parents of N Gaussians in one time step: quats (N, 4) wxyz, origins (N, 3), scales (N,)."""

    quats: Tensor
    rotations: Tensor
    origins: Tensor
    scales: Tensor


def bind(frames: TriangleFrames, t: int, binding: Tensor) -> BoundFrames:
    """The frames of time step t, one per Gaussian. binding: (N,) int64 triangle numbers."""
    rotations = frames.rotations[t, binding]
    return BoundFrames(matrix_to_quat(rotations), rotations, frames.origins[t, binding], frames.scales[t, binding])


def to_world(means: Tensor, quats: Tensor, scales: Tensor, frames: BoundFrames) -> tuple[Tensor, Tensor, Tensor]:
    """Triangle-local Gaussians -> world.

    means: (N, 3) in units of the triangle's scale. quats: (N, 4) wxyz, need not be normalised. scales: (N, 3) positive.
    Returns means in metres, unit quaternions and scales in metres.
    """
    world_means = (frames.rotations @ means[:, :, None])[:, :, 0] * frames.scales[:, None] + frames.origins
    world_quats = quat_multiply(frames.quats, torch.nn.functional.normalize(quats, dim=-1))
    return world_means, world_quats, scales * frames.scales[:, None]


def to_local(means: Tensor, quats: Tensor, scales: Tensor, frames: BoundFrames) -> tuple[Tensor, Tensor, Tensor]:
    """World Gaussians -> triangle-local; the inverse of `to_world`."""
    conjugate = frames.quats * torch.tensor([1.0, -1.0, -1.0, -1.0], dtype=quats.dtype, device=quats.device)
    local_means = ((means - frames.origins)[:, None] @ frames.rotations)[:, 0] / frames.scales[:, None]
    local_quats = quat_multiply(conjugate, torch.nn.functional.normalize(quats, dim=-1))
    return local_means, local_quats, scales / frames.scales[:, None]


def _length(v: Tensor) -> Tensor:
    return v.square().sum(-1).clamp_min(_EPS**2).sqrt()


def _unit(v: Tensor) -> Tensor:
    return v / _length(v)[..., None]

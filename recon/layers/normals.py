"""Normals of Gaussians: the shortest axis, turned to the camera (GaussianShader; GeoDiff4D section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from geodiff.geometry import normals_to_map_axes
from geodiff.types import Camera
from recon.layers.pose_kernel import facing_axes


def shortest_axes(quats: Tensor, scales: Tensor) -> Tensor:
    """(N, 3) world directions of the shortest axes. quats: (N, 4) unit wxyz; scales: (N, 3)."""
    w, x, y, z = quats.unbind(-1)
    axis = scales.detach().argmin(-1)
    first = torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], -1)
    second = torch.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], -1)
    third = torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], -1)
    return torch.where((axis == 0)[:, None], first, torch.where((axis == 1)[:, None], second, third))


def camera_normals(means: Tensor, quats: Tensor, scales: Tensor, camera: Camera) -> Tensor:
    """(N, 3) normals in the axes of normal maps (x right, y up, z towards the camera), each facing the camera.

    means: (N, 3) world; quats: (N, 4) unit wxyz; scales: (N, 3).
    """
    if quats.device.type == "cpu" and quats.dtype == torch.float32:
        flip = torch.tensor([[1.0], [-1.0], [-1.0]])
        return facing_axes(quats, scales, means, camera.center, camera.viewmat[:3, :3] * flip)
    axes = shortest_axes(quats, scales)
    away = (axes.detach() * (means.detach() - camera.center)).sum(-1, keepdim=True) > 0
    return normals_to_map_axes(torch.where(away, -axes, axes), camera)

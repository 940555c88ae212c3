"""A slow and plain mesh rasteriser, and a camera for it, that the tests of the fast ones share."""

from __future__ import annotations

import numpy as np
import torch

from geodiff.types import Camera


def make_camera(width: int = 24, height: int = 20, cx: float | None = None, cy: float | None = None) -> Camera:
    """At the origin, looking along +z."""
    center_x, center_y = width / 2 if cx is None else cx, height / 2 if cy is None else cy
    intrinsics = torch.tensor([[20.0, 0, center_x], [0, 22.0, center_y], [0, 0, 1]])
    return Camera(torch.eye(4), intrinsics, width, height)


def brute_force(vertices: np.ndarray, faces: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pixel's ray against every triangle's plane, in camera space. Returns (face, depth, margin), where margin is
    the smallest absolute barycentric at the pixel over all triangles: how far the answer is from being a tie."""
    xs, ys = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = np.stack([xs, ys, np.ones_like(xs)], -1) @ np.linalg.inv(camera.K.double().numpy()).T
    face, depth = np.full(xs.shape, -1), np.full(xs.shape, np.inf)
    margin = np.full(xs.shape, np.inf)
    for index, corners in enumerate(faces):
        triangle = vertices[corners].astype(np.float64)
        if (triangle[:, 2] <= 0.01).any() or abs(np.linalg.det(triangle)) < 1e-9:
            continue
        scaled = rays @ np.linalg.inv(triangle)  # weights of the corners whose sum is 1 / z
        total = scaled.sum(-1)
        weights = scaled / total[..., None]
        margin = np.minimum(margin, np.abs(weights).min(-1))
        z = 1.0 / total
        inside = (weights >= 0).all(-1) & (z > 0)
        margin = np.where(inside & (np.abs(z - depth) < 1e-4), 0.0, margin)
        nearer = inside & (z < depth)
        face, depth = np.where(nearer, index, face), np.where(nearer, z, depth)
    return face, np.where(face >= 0, depth, 0.0), margin

"""Texture coordinates: which texels belong to which triangle, and whether triangles overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TexelMap:
    """For a square texture: face (S, S) int32, -1 where no triangle lies; barycentrics (S, S, 3) float32.

    Row 0 is the top of the texture, v = 1; texel centres lie at +0.5.
    """

    face: np.ndarray
    barycentrics: np.ndarray


def _texels_of(uvs: np.ndarray, triangle: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and barycentrics of the texel centres strictly inside a triangle or on its border."""
    corners = np.stack([uvs[triangle, 0] * size, (1 - uvs[triangle, 1]) * size], 1)
    low = np.clip(np.ceil(corners.min(0) - 0.5).astype(int), 0, size)
    high = np.clip(np.floor(corners.max(0) - 0.5).astype(int) + 1, 0, size)
    columns, rows = (grid.ravel() for grid in np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1])))
    point = np.stack([columns + 0.5, rows + 0.5], 1)
    a, b, c = corners
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    if len(point) == 0 or abs(area) < 1e-12:
        return np.empty(0, int), np.empty(0, int), np.empty((0, 3))

    def weight(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return ((p[0] - point[:, 0]) * (q[1] - point[:, 1]) - (p[1] - point[:, 1]) * (q[0] - point[:, 0])) / area

    weights = np.stack([weight(b, c), weight(c, a), weight(a, b)], 1)
    inside = (weights >= 0).all(1)
    return rows[inside], columns[inside], weights[inside]


def texel_map(uvs: np.ndarray, faces_uv: np.ndarray, size: int) -> TexelMap:
    """uvs: (U, 2) in 0..1, v up. faces_uv: (F, 3). Texels on a shared border go to the triangle of higher number."""
    uvs, faces_uv = np.asarray(uvs, np.float64), np.asarray(faces_uv)
    face = np.full((size, size), -1, np.int32)
    barycentrics = np.zeros((size, size, 3), np.float32)
    for number, triangle in enumerate(faces_uv):
        rows, columns, weights = _texels_of(uvs, triangle, size)
        face[rows, columns] = number
        barycentrics[rows, columns] = weights
    return TexelMap(face, barycentrics)


def overlapping_texels(uvs: np.ndarray, faces_uv: np.ndarray, size: int = 1024) -> int:
    """Number of texel centres that lie inside more than one triangle (borders, up to rounding, do not count)."""
    uvs, faces_uv = np.asarray(uvs, np.float64), np.asarray(faces_uv)
    count = np.zeros((size, size), np.int32)
    for triangle in faces_uv:
        rows, columns, weights = _texels_of(uvs, triangle, size)
        inner = weights.min(1) > 1e-6
        count[rows[inner], columns[inner]] += 1
    return int((count > 1).sum())

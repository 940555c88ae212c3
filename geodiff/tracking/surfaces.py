"""A triangle mesh that can be asked for the nearest point on it. NumPy, float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class Nearest:
    """Nearest points of a surface to N queries.

    faces: (N,) triangles. barycentrics: (N, 3). points: (N, 3). distances: (N,) metres, infinite where no triangle was
    admitted.
    """

    faces: np.ndarray
    barycentrics: np.ndarray
    points: np.ndarray
    distances: np.ndarray


class Surface:
    """Triangles `faces` (F, 3) over vertices (V, 3).

    candidates: how many triangles, nearest by their centres, are looked at for each query: enough that the nearest
    triangle of meshes with triangles of similar size is always among them.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, candidates: int = 16) -> None:
        self.faces = faces
        self.corners = vertices[faces]
        flat = np.cross(self.corners[:, 1] - self.corners[:, 0], self.corners[:, 2] - self.corners[:, 0])
        self.normals = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-20)
        self._candidates = min(candidates, len(faces))
        self._tree = cKDTree(self.corners.mean(1))

    def nearest(
        self, queries: np.ndarray, normals: np.ndarray | None = None, agreement: float = 0.4, quick: bool = False
    ) -> Nearest:
        """queries: (N, 3). normals: (N, 3) of the queries: triangles whose normal's cosine with them is below
        `agreement` are not admitted, so that the two lips of a shut mouth are told apart.
        quick: half of the candidates."""
        near = self._tree.query(queries, k=max(1, self._candidates // (2 if quick else 1)))[1].reshape(len(queries), -1)
        weights = closest_barycentrics(queries[:, None], self.corners[near])
        points = np.einsum("nkc,nkcd->nkd", weights, self.corners[near])
        distances = np.linalg.norm(points - queries[:, None], axis=-1)
        if normals is not None:
            agrees = np.einsum("nkd,nd->nk", self.normals[near], normals) >= agreement
            distances = np.where(agrees, distances, np.inf)
        best = distances.argmin(1)
        row = np.arange(len(queries))
        return Nearest(near[row, best], weights[row, best], points[row, best], distances[row, best])


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals, weighted by area, of vertices (V, 3); zero where no triangle is."""
    corners = vertices[faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    columns = [np.bincount(faces.ravel(), np.repeat(flat[:, axis], 3), len(vertices)) for axis in range(3)]
    normals = np.stack(columns, 1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)


def closest_barycentrics(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Barycentrics (..., 3) of the points of triangles (..., 3, 3) nearest to points (..., 3) (Ericson 2005, 5.1.5)."""
    a, b, c = (corners[..., k, :] for k in range(3))
    normal = np.cross(b - a, c - a)
    area = np.maximum((normal**2).sum(-1), 1e-30)
    plane = np.stack([(np.cross(c - b, points - b) * normal).sum(-1), (np.cross(a - c, points - c) * normal).sum(-1),
                      (np.cross(b - a, points - a) * normal).sum(-1)], -1) / area[..., None]  # fmt: skip
    options, lengths = [], []
    for first, second in ((0, 1), (1, 2), (2, 0)):
        start, edge = corners[..., first, :], corners[..., second, :] - corners[..., first, :]
        along = ((points - start) * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-30)
        along = np.clip(along, 0.0, 1.0)
        weights = np.zeros_like(plane)
        weights[..., first], weights[..., second] = 1.0 - along, along
        options.append(weights)
        lengths.append(((points - start - along[..., None] * edge) ** 2).sum(-1))
    best = np.stack(lengths).argmin(0)
    border = np.choose(best[..., None], options)
    return np.where((plane >= 0).all(-1, keepdims=True), plane, border)

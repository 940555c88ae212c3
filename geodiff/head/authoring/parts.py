"""What the head's parts have in common: a part is a small mesh that knows how landmarks carry it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RBFInterpolator

from geodiff.head.authoring.landmarks import Landmarks


@dataclass(frozen=True)
class Part:
    """One piece of the head.

    vertices: (V, 3) metres. faces: (F, 3) outward. mirror: (V,) local partner on the other side (a part of one side
    alone has its partner in its twin part, vertex for vertex, and mirror is then -1).
    operator: (V, L) carries the landmarks' displacements under modes of identity. jaw: (V,) share of the jaw's motion.
    uv: (U, 2) within the part's own unit square, faces_uv: (F, 3). regions: the regions that hold the whole part.
    rim, rim_length: the opening of the skin that the part hangs on, whose loop its first vertices repeat; follow: (V,)
    how much each vertex goes with the vertex of the rim in its column, or None.
    """

    name: str
    vertices: np.ndarray
    faces: np.ndarray
    mirror: np.ndarray
    operator: np.ndarray
    jaw: np.ndarray
    uv: np.ndarray
    faces_uv: np.ndarray
    regions: tuple[str, ...]
    rim: str = ""
    rim_length: int = 0
    follow: np.ndarray | None = None


def grid_faces(rows: int, columns: int, closed: bool) -> np.ndarray:
    """Triangles of a rows x columns grid of vertices; closed joins the last column to the first."""
    span = columns if closed else columns - 1
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(span), indexing="ij")
    a, b = i * columns + j, i * columns + (j + 1) % columns
    c, d = a + columns, b + columns
    return np.concatenate([np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])


def outward(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Turn all faces of a closed-like part so that they look away from its middle, judged by the signed volume."""
    corners = vertices[faces] - vertices.mean(0)
    volume = np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    return faces if volume > 0 else faces[:, ::-1]


def mirror_by_position(vertices: np.ndarray) -> np.ndarray:
    """(V,) nearest vertex to each vertex's mirror image; exact for parts built symmetrically."""
    gaps = np.linalg.norm(vertices[:, None] * [-1, 1, 1] - vertices[None], axis=-1)
    return gaps.argmin(1)


def carried_by(landmarks: Landmarks, members: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, L) weights that carry displacements of some landmarks to free points in space, affine beyond them."""
    field = RBFInterpolator(landmarks.mean[members], np.eye(len(members)), kernel="linear", degree=0, smoothing=1e-3)
    whole = np.zeros((len(points), len(landmarks.names)))
    whole[:, members] = field(points)
    return whole


@dataclass(frozen=True)
class RigidMotion:
    """x -> rotation (3, 3) x + translation (3,)."""

    rotation: np.ndarray
    translation: np.ndarray

    def displacement(self, points: np.ndarray) -> np.ndarray:
        return points @ self.rotation.T + self.translation - points


def best_rigid(before: np.ndarray, after: np.ndarray) -> RigidMotion:
    """Least-squares rigid motion between two point sets (Kabsch 1976)."""
    a, b = before - before.mean(0), after - after.mean(0)
    u, _, vt = np.linalg.svd(a.T @ b)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
    rotation = vt.T @ sign @ u.T
    return RigidMotion(rotation, after.mean(0) - rotation @ before.mean(0))

"""What the portrait shows beside the fitted mesh: curls, strands and whatever else stands out of its outline.

A sheet of small triangles lies around the mesh's outline as the portrait sees it, cut out by the matte, as deep as the
outline is there and evened out between what is near and what is far. It moves with the triangles of the mesh that it is
nearest to, and stands behind the mesh: it shows beside the head and never on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from geodiff.raster import mesh
from geodiff.types import Camera

#: Cells of the sheet along the portrait's side.
CELLS = 128
#: The matte counts as showing something above this.
FAINT = 0.05
#: Metres between the depths of a cell's corners beyond which it would join things that are not one.
GAP = 0.05
#: Rounds in which depths between what is near and what is far are evened out.
EVENED = 24
#: Degrees between the portrait's view and a frame's: the sheet is whole up to the first, and gone from the second on.
WHOLE, GONE = 35.0, 70.0


@dataclass(frozen=True)
class Fringe:
    """The sheet, on a mesh of faces (F, 3).

    faces: (Q, 3) int32 of its own N vertices. places: (N, 2) float32, where the portrait's pixels show them. anchors:
    (N, 3) int32, corners of the mesh's faces that they move with; weights: (N, 3) where on these, and offsets: (N, 3)
    metres from there in the faces' own axes. direction: (3,) along which the portrait's camera looks, world.
    """

    faces: np.ndarray
    places: np.ndarray
    anchors: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    direction: np.ndarray

    @staticmethod
    def around(vertices: np.ndarray, faces: np.ndarray, camera: Camera, matte: np.ndarray) -> Fringe:
        """vertices: (V, 3) metres, world, as the portrait shows them. camera: the portrait's, of matte's (D, D)
        pixels."""
        seen = mesh.rasterize(vertices, faces, camera)
        covered = seen.face >= 0
        labels = cv2.distanceTransformWithLabels(
            (~covered).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )[1]
        rows, columns = np.nonzero(covered)
        nearest = np.zeros((labels.max() + 1, 2), int)
        nearest[labels[rows, columns]] = np.stack([rows, columns], 1)
        step = max(1, round(len(matte) / CELLS))
        nodes = np.arange(0, len(matte), step)
        beside = cv2.dilate(((matte > FAINT) & ~covered).astype(np.uint8), np.ones((step + 1, step + 1), np.uint8)) > 0
        own = nearest[labels[nodes[:, None], nodes]]
        depth = _evened(seen.depth[own[..., 0], own[..., 1]], covered[nodes[:, None], nodes])
        corners = np.arange(len(nodes) ** 2).reshape(len(nodes), -1)
        cells = np.stack([corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1]], -1).reshape(-1, 4)
        kept = beside[nodes[:-1, None] + step // 2, nodes[:-1] + step // 2].ravel()
        kept &= (depth.ravel()[cells].min(1) > 0) & (np.ptp(depth.ravel()[cells], axis=1) < GAP)
        cells = cells[kept]
        used, cells = np.unique(cells, return_inverse=True)
        cells = cells.reshape(-1, 4)
        where = own.reshape(-1, 2)[used]
        places = np.stack(np.divmod(used, len(nodes))[::-1], 1) * step + 0.5
        world = _world(places, depth.ravel()[used], camera)
        anchors = faces[seen.face[where[:, 0], where[:, 1]]]
        weights = seen.barycentrics[where[:, 0], where[:, 1]].astype(np.float64)
        triangles = vertices[anchors].astype(np.float64)
        apart = world - (weights[..., None] * triangles).sum(1)
        return Fringe(
            faces=np.concatenate([cells[:, [0, 1, 2]], cells[:, [0, 2, 3]]]).astype(np.int32),
            places=places.astype(np.float32),
            anchors=anchors.astype(np.int32),
            weights=weights,
            offsets=(_axes(triangles).transpose(0, 2, 1) @ apart[..., None])[..., 0],
            direction=camera.viewmat[2, :3].numpy().astype(np.float64),
        )

    def vertices(self, mesh_vertices: np.ndarray) -> np.ndarray:
        """(N, 3) metres, world, where the mesh's vertices (V, 3) are now."""
        triangles = mesh_vertices[self.anchors].astype(np.float64)
        return (self.weights[..., None] * triangles).sum(1) + (_axes(triangles) @ self.offsets[..., None])[..., 0]

    def strength(self, camera: Camera) -> float:
        """0..1: how much of the sheet a camera sees; less the farther it stands from where the portrait's stood."""
        cosine = float(self.direction @ camera.viewmat[2, :3].numpy())
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        part = float(np.clip((GONE - angle) / (GONE - WHOLE), 0, 1))
        return part * part * (3 - 2 * part)


def _evened(depth: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Depths (N, N) of the sheet's corners, evened out but where they are the mesh's, fixed (N, N) bool: between hair
    and a shoulder the sheet would tear otherwise."""
    for _ in range(EVENED):
        depth = np.where(fixed, depth, cv2.blur(depth, (3, 3)))
    return depth


def _world(pixels: np.ndarray, depth: np.ndarray, camera: Camera) -> np.ndarray:
    """(N, 3) metres of what pixels (N, 2) show at depth (N,)."""
    viewmat, K = camera.viewmat.double().numpy(), camera.K.double().numpy()
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], 1) @ np.linalg.inv(K).T
    return (rays * depth[:, None] - viewmat[:3, 3]) @ viewmat[:3, :3]


def _axes(triangles: np.ndarray) -> np.ndarray:
    """(N, 3, 3) orthonormal axes, in columns, of triangles (N, 3, 3)."""
    first = triangles[:, 1] - triangles[:, 0]
    normal = np.cross(first, triangles[:, 2] - triangles[:, 0])
    first = first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    return np.stack([first, normal, np.cross(first, normal)], 2)

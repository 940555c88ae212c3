"""The fitted surface: its kinds, and which of its points the reference sees."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from scipy import sparse

from geodiff.conditioning.reference import Reference
from geodiff.geometry import vertex_normals
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.raster.compiled import kept
from geodiff.types import HeadParams

#: Kinds of surface, the more special first; what is none of the others is skin.
GROUPS = ("eyeballs", "teeth", "mouth_interior", "lips", "scalp", "neck", "skin")
#: Cosines between normal and view direction at which a surface begins to count as seen and counts fully (75, 60 deg).
FACING = (0.26, 0.5)
#: Depths behind the nearest surface (metres) at which a point begins to be hidden and is hidden.
DEPTH_TOLERANCE = (0.002, 0.005)
#: The same beside a depth discontinuity, where a small misfit would put the nearer surface's pixels on the farther one.
EDGE_TOLERANCE = (0.008, 0.016)
#: The matte is eroded by this share of the side before it counts: at its edge colours are continued, not seen.
MATTE_EROSION = 0.008
#: How much the matte counts where the photograph does not reach and what it shows is mirrored: such points are seen by
#: 0.8.
MIRRORED = 0.9
#: Distances to the picture's border (shares of the side) at which points begin to be seen and are seen.
BORDER = (0.002, 0.015)

_groups: WeakKeyDictionary[HeadModel, dict[str, np.ndarray]] = WeakKeyDictionary()
_smoothers: WeakKeyDictionary[HeadModel, sparse.csr_matrix] = WeakKeyDictionary()


def vertex_groups(head: HeadModel) -> dict[str, np.ndarray]:
    """Kinds of surface that are filled from their own kind, name -> (V,) bool; every vertex is in exactly one."""
    if head not in _groups:
        regions = {name: mask.numpy() for name, mask in head.regions.items()}
        taken = np.zeros(head.num_vertices, bool)
        groups = {}
        for group in GROUPS[:-1]:
            groups[group] = regions[group] & ~taken
            taken |= groups[group]
        groups["skin"] = ~taken
        _groups[head] = groups
    return _groups[head]


@dataclass(frozen=True)
class PosedMesh:
    """The mesh of a reference, (V, 3) each. vertices (metres), normals: in the reference's world. place: metres, the
    same points at rest."""

    vertices: np.ndarray
    normals: np.ndarray
    place: np.ndarray

    @staticmethod
    def of(head: HeadModel, params: HeadParams) -> PosedMesh:
        vertices = head.vertices(params)[0]
        place = head.shaped(params, expression=False)[0]
        return PosedMesh(vertices.numpy(), vertex_normals(vertices, head.faces).numpy(), place.numpy())


class Visibility:
    """How well the reference sees points of the posed mesh; made once for each reference."""

    def __init__(self, head: HeadModel, reference: Reference, vertices: mesh.Array) -> None:
        matte = reference.finest_mask
        self.size = max(matte.shape[0], 512)
        self.camera = reference.camera.resized(self.size, self.size)
        depth = mesh.rasterize(vertices, head.faces, self.camera).depth
        depth = np.where(depth > 0, depth, np.float32(1e3))
        self.near = cv2.erode(depth, np.ones((5, 5), np.uint8))
        # Outside the silhouette nothing hides a point: its own depth counts there.
        self.far = cv2.dilate(np.where(depth < 1e2, depth, 0.0).astype(np.float32), np.ones((3, 3), np.uint8))
        radius = max(1, round(MATTE_EROSION * self.size))
        beyond = np.zeros_like(matte) if reference.beyond is None else reference.beyond[..., 3]
        fine = cv2.resize(np.maximum(matte, beyond), (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        sure = cv2.blur(cv2.erode(fine, ellipse, borderType=cv2.BORDER_REPLICATE), (radius, radius))
        guessed = cv2.resize(beyond, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        self.matte = sure * (1 - (1 - MIRRORED) * guessed)

    def __call__(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """points, normals: (N, 3) in the reference's world -> (N,) 0..1."""
        out = np.empty(len(points), np.float32)
        _visibility_kernel(
            np.ascontiguousarray(points, np.float32),
            np.ascontiguousarray(normals, np.float32),
            self.camera.viewmat.numpy().astype(np.float32),
            self.camera.K.numpy().astype(np.float32),
            self.far,
            self.near,
            self.matte,
            out,
        )
        return out


@kept(inline="always")
def bilinear(image, x, y):  # noqa: ANN001, ANN202
    """The sample of an image (H, W) at a place in pixels, centres at +0.5; beyond the border it goes on."""
    height, width = image.shape
    x = min(max(x - np.float32(0.5), np.float32(0)), np.float32(width - 1))
    y = min(max(y - np.float32(0.5), np.float32(0)), np.float32(height - 1))
    column, row = min(int(x), width - 2), min(int(y), height - 2)
    fx, fy = np.float32(x - column), np.float32(y - row)
    upper = image[row, column] + fx * (image[row, column + 1] - image[row, column])
    lower = image[row + 1, column] + fx * (image[row + 1, column + 1] - image[row + 1, column])
    return upper + fy * (lower - upper)


@kept(inline="always")
def _step(x, low, high):  # noqa: ANN001, ANN202
    t = min(max((x - np.float32(low)) / np.float32(high - low), np.float32(0)), np.float32(1))
    return t * t * (np.float32(3) - np.float32(2) * t)


@kept()
def _visibility_kernel(points, normals, viewmat, K, far, near, matte, out):  # noqa: ANN001, ANN202
    """How well each point is seen (N,), in place; `tests/plain_conditions.py` says the same in plain numpy."""
    size = np.float32(matte.shape[0])
    local, turned = np.empty(3, np.float32), np.empty(3, np.float32)
    for n in range(points.shape[0]):
        out[n] = 0
        for c in range(3):
            local[c] = viewmat[c, 3]
            turned[c] = 0
            for k in range(3):
                local[c] += viewmat[c, k] * points[n, k]
                turned[c] += viewmat[c, k] * normals[n, k]
        length = np.sqrt(local[0] ** 2 + local[1] ** 2 + local[2] ** 2)
        facing = -(turned[0] * local[0] + turned[1] * local[1] + turned[2] * local[2]) / max(length, np.float32(1e-6))
        if facing <= FACING[0]:
            continue
        away = 1 / max(local[2], np.float32(1e-6))
        x = (K[0, 0] * local[0] + K[0, 1] * local[1]) * away + K[0, 2]
        y = K[1, 1] * local[1] * away + K[1, 2]
        # What lies outside the picture is not seen; its border would be drawn out over it.
        border = min(min(x, size - x), min(y, size - y)) / size
        if border <= BORDER[0]:
            continue
        seen = _step(facing, FACING[0], FACING[1]) * _step(border, BORDER[0], BORDER[1])
        seen *= 1 - _step(local[2] - bilinear(far, x, y), DEPTH_TOLERANCE[0], DEPTH_TOLERANCE[1])
        seen *= 1 - _step(local[2] - bilinear(near, x, y), EDGE_TOLERANCE[0], EDGE_TOLERANCE[1])
        out[n] = seen * min(max(2 * bilinear(matte, x, y) - 1, np.float32(0)), np.float32(1))


def unit(vectors: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))
    return vectors / np.maximum(length, 1e-9)[..., None]


def smoother(head: HeadModel) -> sparse.csr_matrix:
    """(V, V) mean over each vertex and its neighbours within the surface."""
    if head not in _smoothers:
        faces, count = head.faces.numpy(), head.num_vertices
        rows = faces[:, [0, 1, 2, 1, 2, 0]].ravel()
        columns = faces[:, [1, 2, 0, 0, 1, 2]].ravel()
        links = sparse.coo_matrix((np.ones(len(rows), np.float32), (rows, columns)), (count, count)).tocsr()
        links.data[:] = 1.0
        links = links + sparse.identity(count, np.float32, format="csr")
        _smoothers[head] = sparse.diags(1.0 / np.asarray(links.sum(1)).ravel()).dot(links).astype(np.float32).tocsr()
    return _smoothers[head]

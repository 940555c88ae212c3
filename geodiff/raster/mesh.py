"""A z-buffer rasteriser for triangle meshes (numba): which face, where in it, how deep, and any attribute of it.

Coverage is exact: a pixel belongs to the triangle that holds its centre (at +0.5), and a centre that lies on an edge
shared by two triangles belongs to exactly one of them (the top-left rule). Edges are evaluated in float64 from the same
end whichever triangle asks, so both see the same number with the opposite sign: no pixel is missed or drawn twice.

It runs on one thread and releases the GIL: callers that have many views run them in threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from geodiff.geometry import CV_GL
from geodiff.raster.mesh_kernels import (
    fill_weights,
    find_visible,
    interpolate_corners,
    mean_directions,
    project_points,
    turned_normals,
)
from geodiff.types import Camera

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class Fragments:
    """What each pixel of an image sees.

    face: (H, W) int32 index of the nearest face, -1 where there is none.
    barycentrics: (H, W, 3) float32 perspective-correct weights of the face's corners, sum 1; 0 where there is none.
    depth: (H, W) float32 camera z in metres, 0 where there is none.
    """

    face: np.ndarray
    barycentrics: np.ndarray
    depth: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, where a face is seen."""
        return self.face >= 0

    def of(self, faces: Tensor, chosen: np.ndarray, every: bool = True) -> np.ndarray:
        """(H, W) bool, where a face (F, 3) is seen of which all corners, or some, are among the chosen vertices (V,)
        bool."""
        corners = chosen[faces.numpy()]
        return (corners.all(-1) if every else corners.any(-1))[np.maximum(self.face, 0)] & self.mask


@dataclass(frozen=True)
class Visible:
    """The nearest face of every pixel, before anything is worked out at it.

    face: (H, W) int32, -1 where there is none. inverse_depth: (H, W) float64 1 / metres, 0 where there is none.
    screen: (V, 2) float64 pixels. inverse_z: (V,) float64, 0 for what is not in front. faces: (F, 3) int32.
    """

    face: np.ndarray
    inverse_depth: np.ndarray
    screen: np.ndarray
    inverse_z: np.ndarray
    faces: np.ndarray

    def depth(self) -> np.ndarray:
        """(H, W) float32 camera z in metres, 0 where there is none."""
        some = self.inverse_depth > 0
        return np.divide(1.0, self.inverse_depth, out=np.zeros_like(self.inverse_depth), where=some).astype(np.float32)


def projected(vertices: Array, faces: Array, camera: Camera, near: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """screen (V, 2) pixels, inverse_z (V,) 1 / metres, 0 for what is not beyond `near`, and faces (F, 3) int32.

    Raises ValueError as `visible` does.
    """
    points = _to_numpy(vertices, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"vertices must have shape (V, 3), found {points.shape}; pass one frame at a time.")
    corners = _checked_faces(faces, len(points))
    viewmat, intrinsics = _to_numpy(camera.viewmat, np.float64), _to_numpy(camera.K, np.float64)
    screen, inverse_z = np.empty((len(points), 2)), np.empty(len(points))
    if not project_points(points, viewmat, intrinsics, near, screen, inverse_z):
        raise ValueError("vertices must be finite, found NaN or infinity; check the parameters that posed the mesh.")
    return screen, inverse_z, corners


def visible(vertices: Array, faces: Array, camera: Camera, *, near: float = 0.01, cull: bool = False) -> Visible:
    """The nearest face at every pixel centre; what `rasterize` is made of, for those who need the faces alone.

    vertices: (V, 3) metres, world. faces: (F, 3) integers. Faces with a corner closer than `near` metres (or behind the
    camera), degenerate faces and, with `cull`, faces seen from behind are skipped. At equal depth the lower index wins.

    Raises ValueError for other shapes, vertices that are not finite, and faces that name no vertex.
    """
    screen, inverse_z, corners = projected(vertices, faces, camera, near)
    face_map = np.full((camera.height, camera.width), -1, np.int32)
    inverse_depth = np.zeros((camera.height, camera.width))
    find_visible(screen, inverse_z, corners, cull, face_map, inverse_depth)
    return Visible(face_map, inverse_depth, screen, inverse_z, corners)


def rasterize(
    vertices: Array, faces: Array, camera: Camera, *, near: float = 0.01, cull: bool = False, backend: str = "numba"
) -> Fragments:
    """The nearest face at every pixel centre, where in it, and how deep; arguments and errors as `visible`.

    backend: a name in BACKENDS; pytorch3d where the user has built it, see `geodiff.raster.mesh_pytorch3d`.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, found {backend!r}.")
    return BACKENDS[backend](vertices, faces, camera, near, cull)


def _rasterize_numba(vertices: Array, faces: Array, camera: Camera, near: float, cull: bool) -> Fragments:
    seen = visible(vertices, faces, camera, near=near, cull=cull)
    weights = np.zeros((*seen.face.shape, 3), np.float32)
    fill_weights(seen.screen, seen.inverse_z, seen.faces, seen.face, weights)
    return Fragments(seen.face, weights, seen.depth())


def _rasterize_pytorch3d(vertices: Array, faces: Array, camera: Camera, near: float, cull: bool) -> Fragments:
    from geodiff.raster.mesh_pytorch3d import fragments

    screen, inverse_z, corners = projected(vertices, faces, camera, near)
    a, b, c = (screen[corners[:, n]] for n in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    drawn = np.flatnonzero((inverse_z[corners] > 0).all(1) & (area != 0) & ~(cull & (area > 0)))
    face, weights, depth = fragments(screen, inverse_z, corners[drawn], camera.width, camera.height)
    face[face >= 0] = drawn[face[face >= 0]]
    return Fragments(face, weights, depth)


#: What finds the fragments, by name.
BACKENDS: dict[str, Callable[[Array, Array, Camera, float, bool], Fragments]] = {
    "numba": _rasterize_numba,
    "pytorch3d": _rasterize_pytorch3d,
}


def interpolate(fragments: Fragments, faces: Array, attributes: Array) -> np.ndarray:
    """Attributes at every pixel, perspective-correct.

    attributes: (V, C) one row a vertex, or (F, 3, C) one row a corner (UVs with seams) -> (H, W, C) float32, 0 where no
    face is seen. Raises ValueError for other shapes.
    """
    table = _to_numpy(attributes, np.float32)
    if table.ndim == 3 and table.shape[1] == 3:
        if len(table) != len(faces):
            raise ValueError(f"corner attributes need one row for each of {len(faces)} faces, found {len(table)}.")
        corners = np.arange(3 * len(table), dtype=np.int32).reshape(-1, 3)
        table = table.reshape(-1, table.shape[2])
    elif table.ndim == 2:
        corners = _checked_faces(faces, len(table))
    else:
        raise ValueError(f"attributes must have shape (V, C) or (F, 3, C), found {table.shape}.")
    out = np.zeros((*fragments.face.shape, table.shape[1]), np.float32)
    interpolate_corners(fragments.face, fragments.barycentrics, corners, table, out)
    return out


def vertex_normals(vertices: Array, faces: Array, axes: np.ndarray | None = None) -> np.ndarray:
    """Area-weighted vertex normals (V, 3) float32, unit length: `geodiff.geometry.vertex_normals` without gradients.

    axes: (3, 3) that turns them, for instance into those of normal maps.
    """
    turned = np.eye(3) if axes is None else np.ascontiguousarray(axes, np.float64)
    return turned_normals(_to_numpy(vertices, np.float64), _to_numpy(faces, np.int32), turned)


def map_axes(camera: Camera) -> np.ndarray:
    """(3, 3) float64: takes world directions to the axes of normal maps."""
    return CV_GL.double().numpy() @ _to_numpy(camera.viewmat, np.float64)[:3, :3]


def render_normals(vertices: Array, faces: Array, camera: Camera, supersample: int = 1) -> np.ndarray:
    """The normal map of a smooth-shaded mesh, (H, W, 3) float32 in the axes of normal maps (see `geodiff.geometry`).

    Vectors have unit length where the mesh is seen and are zero elsewhere. With supersample = s > 1 each pixel is the
    mean direction of s x s samples, and its length is the share of the pixel that the mesh covers (smooth borders).
    """
    fine = camera.resized(camera.width * supersample, camera.height * supersample) if supersample > 1 else camera
    seen = visible(vertices, faces, fine)
    normals = vertex_normals(vertices, faces, map_axes(camera))
    out = np.zeros((camera.height, camera.width, 3), np.float32)
    mean_directions(seen.face, seen.screen, seen.inverse_z, seen.faces, normals, supersample, out)
    return out


def _to_numpy(values: Array, dtype: type) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return np.ascontiguousarray(array, dtype=dtype)


def _checked_faces(faces: Array, num_vertices: int) -> np.ndarray:
    corners = _to_numpy(faces, np.int32)
    if corners.ndim != 2 or corners.shape[1] != 3:
        raise ValueError(f"faces must have shape (F, 3), found {corners.shape}; triangulate the mesh first.")
    if corners.size and (corners.min() < 0 or corners.max() >= num_vertices):
        raise ValueError(
            f"faces must name vertices 0..{num_vertices - 1}, found {corners.min()}..{corners.max()}; "
            "use the faces of the same mesh."
        )
    return corners

"""A z-buffer rasteriser for triangle meshes (numba): which face, where in it, how deep, and any attribute of it.

Coverage is exact: a pixel belongs to the triangle that holds its centre (at +0.5), and a centre that lies on an edge
shared by two triangles belongs to exactly one of them (the top-left rule). Edges are evaluated in float64 from the same
end whichever triangle asks, so both see the same number with the opposite sign: no pixel is missed or drawn twice.

It runs on one thread and releases the GIL: callers that have many views run them in threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from torch import Tensor

from geodiff.geometry import CV_GL
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


@numba.njit(cache=True, nogil=True, inline="always")
def _edge(ax: float, ay: float, bx: float, by: float, px: float, py: float) -> float:
    """Twice the signed area of (a, b, p); exactly the negative of the same with a and b exchanged."""
    if ay < by or (ay == by and ax < bx):
        return (bx - ax) * (py - ay) - (by - ay) * (px - ax)
    return -((ax - bx) * (py - by) - (ay - by) * (px - bx))


@numba.njit(cache=True, nogil=True, inline="always")
def _owns_border(dx: float, dy: float) -> bool:
    """Top-left rule: of the two directions in which an edge is walked, exactly one owns the points on it."""
    return dy < 0.0 or (dy == 0.0 and dx > 0.0)


@numba.njit(cache=True, nogil=True, inline="always")
def _crossing(ax: float, ay: float, bx: float, by: float, y: float, low: float, high: float) -> tuple[float, float]:
    """The span low..high of a row, widened by where the edge from a to b crosses it."""
    if (ay <= y) != (by <= y):
        x = ax + (bx - ax) * (y - ay) / (by - ay)
        return min(low, x), max(high, x)
    return low, high


@numba.njit(cache=True, nogil=True)
def _rasterize_kernel(screen, inverse_z, faces, cull, face_map, weights, inverse_depth):
    """Fill the maps in place. screen: (V, 2) pixels, inverse_z: (V,), 0 marks a vertex that is not in front.

    1 / z is linear in the image, so it is interpolated for the depth test, the largest wins, and the weights are
    those of the image divided by z and normalised (perspective-correct).
    """
    height, width = face_map.shape
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        zi, zj, zk = inverse_z[i], inverse_z[j], inverse_z[k]
        if zi <= 0.0 or zj <= 0.0 or zk <= 0.0:
            continue
        ax, ay, bx, by, cx, cy = (screen[i, 0], screen[i, 1], screen[j, 0], screen[j, 1], screen[k, 0], screen[k, 1])
        # A front face is counter-clockwise seen from outside; the image's y points down, which makes its area negative.
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0 or (cull and area > 0.0):
            continue
        low_x, high_x = min(ax, bx, cx), max(ax, bx, cx)
        low_y, high_y = min(ay, by, cy), max(ay, by, cy)
        if high_x < 0.0 or high_y < 0.0 or low_x > width or low_y > height:
            continue
        x0, x1 = int(np.ceil(max(low_x, 0.0) - 0.5)), int(np.floor(min(high_x, float(width)) - 0.5))
        y0, y1 = int(np.ceil(max(low_y, 0.0) - 0.5)), int(np.floor(min(high_y, float(height)) - 0.5))
        sign = 1.0 if area > 0.0 else -1.0
        own_a = _owns_border(sign * (cx - bx), sign * (cy - by))
        own_b = _owns_border(sign * (ax - cx), sign * (ay - cy))
        own_c = _owns_border(sign * (bx - ax), sign * (by - ay))
        for y in range(max(y0, 0), min(y1, height - 1) + 1):
            py = y + 0.5
            first, last = max(x0, 0), min(x1, width - 1)
            if last - first > 4:
                # Long thin triangles cover little of their box: look only where the row crosses them, a pixel around.
                low, high = _crossing(ax, ay, bx, by, py, np.inf, -np.inf)
                low, high = _crossing(bx, by, cx, cy, py, low, high)
                low, high = _crossing(cx, cy, ax, ay, py, low, high)
                if low <= high:
                    first, last = max(first, int(low) - 1), min(last, int(high) + 1)
            for x in range(first, last + 1):
                px = x + 0.5
                ea = sign * _edge(bx, by, cx, cy, px, py)
                eb = sign * _edge(cx, cy, ax, ay, px, py)
                ec = sign * _edge(ax, ay, bx, by, px, py)
                if ea < 0.0 or eb < 0.0 or ec < 0.0:
                    continue
                if (ea == 0.0 and not own_a) or (eb == 0.0 and not own_b) or (ec == 0.0 and not own_c):
                    continue
                wa, wb, wc = ea * zi, eb * zj, ec * zk
                total = wa + wb + wc
                near = total / (ea + eb + ec)
                if near > inverse_depth[y, x]:
                    inverse_depth[y, x] = near
                    face_map[y, x] = f
                    weights[y, x, 0] = wa / total
                    weights[y, x, 1] = wb / total
                    weights[y, x, 2] = wc / total


@numba.njit(cache=True, nogil=True)
def _interpolate_kernel(face_map, weights, corners, table, out):
    height, width, channels = out.shape
    for y in range(height):
        for x in range(width):
            f = face_map[y, x]
            if f >= 0:
                i, j, k = corners[f, 0], corners[f, 1], corners[f, 2]
                wi, wj, wk = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
                for c in range(channels):
                    out[y, x, c] = wi * table[i, c] + wj * table[j, c] + wk * table[k, c]


@numba.njit(cache=True, nogil=True)
def _vertex_normals_kernel(points, faces, axes):
    """Area-weighted vertex normals, unit length, turned by axes (3, 3); see `geodiff.geometry.vertex_normals`."""
    normals = np.zeros((len(points), 3))
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
        vx, vy, vz = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1], points[k, 2] - points[i, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (i, j, k):
            normals[corner, 0] += nx
            normals[corner, 1] += ny
            normals[corner, 2] += nz
    turned = np.empty((len(points), 3), np.float32)
    for i in range(len(points)):
        x, y, z = normals[i, 0], normals[i, 1], normals[i, 2]
        scale = 1.0 / max(np.sqrt(x * x + y * y + z * z), 1e-12)
        for c in range(3):
            turned[i, c] = (axes[c, 0] * x + axes[c, 1] * y + axes[c, 2] * z) * scale
    return turned


@numba.njit(cache=True, nogil=True)
def _average_directions_kernel(fine, face_map, supersample, out):
    """Mean direction of each block of supersample x supersample vectors, as long as the share that a face covers."""
    height, width, _ = out.shape
    for y in range(height):
        for x in range(width):
            sx = sy = sz = 0.0
            covered = 0
            for v in range(y * supersample, (y + 1) * supersample):
                for u in range(x * supersample, (x + 1) * supersample):
                    if face_map[v, u] >= 0:
                        a, b, c = fine[v, u, 0], fine[v, u, 1], fine[v, u, 2]
                        scale = 1.0 / max(np.sqrt(a * a + b * b + c * c), 1e-12)
                        sx, sy, sz = sx + a * scale, sy + b * scale, sz + c * scale
                        covered += 1
            share = covered / (supersample * supersample)
            scale = share / max(np.sqrt(sx * sx + sy * sy + sz * sz), 1e-12)
            out[y, x, 0], out[y, x, 1], out[y, x, 2] = sx * scale, sy * scale, sz * scale


def rasterize(vertices: Array, faces: Array, camera: Camera, *, near: float = 0.01, cull: bool = False) -> Fragments:
    """The nearest face at every pixel centre.

    vertices: (V, 3) metres, world. faces: (F, 3) integers. Faces with a corner closer than `near` metres (or behind the
    camera), degenerate faces and, with `cull`, faces seen from behind are skipped. At equal depth the lower index wins.

    Raises ValueError for other shapes, vertices that are not finite, and faces that name no vertex.
    """
    points = _to_numpy(vertices, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"vertices must have shape (V, 3), found {points.shape}; pass one frame at a time.")
    corners = _checked_faces(faces, len(points))
    if not np.isfinite(points).all():
        raise ValueError("vertices must be finite, found NaN or infinity; check the parameters that posed the mesh.")
    viewmat, intrinsics = _to_numpy(camera.viewmat, np.float64), _to_numpy(camera.K, np.float64)
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    visible = local[:, 2] > near
    inverse_z = np.where(visible, 1.0 / np.where(visible, local[:, 2], 1.0), 0.0)
    screen = np.ascontiguousarray((local * inverse_z[:, None]) @ intrinsics[:2].T)

    face_map = np.full((camera.height, camera.width), -1, np.int32)
    weights = np.zeros((camera.height, camera.width, 3), np.float32)
    inverse_depth = np.zeros((camera.height, camera.width), np.float64)
    _rasterize_kernel(screen, inverse_z, corners, cull, face_map, weights, inverse_depth)
    depth = np.divide(1.0, inverse_depth, out=np.zeros_like(inverse_depth), where=inverse_depth > 0)
    return Fragments(face_map, weights, depth.astype(np.float32))


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
    _interpolate_kernel(fragments.face, fragments.barycentrics, corners, table, out)
    return out


def render_normals(vertices: Array, faces: Array, camera: Camera, supersample: int = 1) -> np.ndarray:
    """The normal map of a smooth-shaded mesh, (H, W, 3) float32 in the axes of normal maps (see `geodiff.geometry`).

    Vectors have unit length where the mesh is seen and are zero elsewhere. With supersample = s > 1 each pixel is the
    mean direction of s x s samples, and its length is the share of the pixel that the mesh covers (smooth borders).
    """
    fine = camera.resized(camera.width * supersample, camera.height * supersample) if supersample > 1 else camera
    fragments = rasterize(vertices, faces, fine)
    rotation = _to_numpy(camera.viewmat, np.float64)[:3, :3]
    axes = CV_GL.double().numpy() @ rotation
    normals = _vertex_normals_kernel(_to_numpy(vertices, np.float64), _to_numpy(faces, np.int32), axes)
    out = np.empty((camera.height, camera.width, 3), np.float32)
    _average_directions_kernel(interpolate(fragments, faces, normals), fragments.face, supersample, out)
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

"""The conditions' picture: what each sample of a posed head shows of the portrait, averaged into pixels in one pass.

`tests/plain_conditions.py` does the same in plain numpy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geodiff.raster import mesh
from geodiff.raster.compiled import kept
from geodiff.raster.mesh_kernels import corner_weights
from geodiff.types import Camera


class Carried(NamedTuple):
    """What a posed head shows, float32.

    faces: (F, 3) int32. table: (V, 6) the vertices' places in the portrait's camera space, metres, and their normals.
    uvs: (F, 3, 2) places in `texture` (U, U, 4): 0..1 from the top left; filled colours and how much the portrait sees
    of them. photo: (D, D, 3) the portrait's colours. intrinsics: (3, 3) of its camera. inner: (F,) bool, faces of
    teeth and of the inside of the mouth.
    """

    faces: np.ndarray
    table: np.ndarray
    uvs: np.ndarray
    texture: np.ndarray
    photo: np.ndarray
    intrinsics: np.ndarray
    inner: np.ndarray


class Sheet(NamedTuple):
    """What stands beside the head in a frame, and shows where the head does not.

    vertices: (N, 3) metres, world. faces: (Q, 3) int32. table: (N, 5) float32 the vertices' places in the portrait's
    pixels, and their normals. photo: (D, D, 4) float32 the portrait's colours and its matte. strength: 0..1.
    """

    vertices: np.ndarray
    faces: np.ndarray
    table: np.ndarray
    photo: np.ndarray
    strength: float


@kept(inline="always")
def _corner(place, size):  # noqa: ANN001, ANN202
    """The lower of the two rows or columns that a place in pixels (centres at +0.5) lies between, and its distance from
    it; places beyond the border count as on it."""
    x = min(max(place - np.float32(0.5), np.float32(0)), np.float32(size - 1))
    low = min(int(x), size - 2)
    return low, np.float32(x - low)


@kept(inline="always")
def _take(image, x, y, color):  # noqa: ANN001, ANN202
    """The sample of an image (H, W, C) at a place in pixels, its first channels, in place."""
    column, right = _corner(x, image.shape[1])
    row, down = _corner(y, image.shape[0])
    for n in range(color.shape[0]):
        upper = image[row, column, n] + right * (image[row, column + 1, n] - image[row, column, n])
        lower = image[row + 1, column, n]
        lower += right * (image[row + 1, column + 1, n] - lower)
        color[n] = upper + down * (lower - upper)


@kept(fastmath=True, error_model="numpy")
def _carry_kernel(face, screen, inverse_z, carried, supersample, out):  # noqa: ANN001, ANN202
    """Means over each pixel's samples, those that see nothing counting as 0, of colour, normal, visibility, what is the
    mouth's inside, what stands beside the head (0 here), and coverage (H, W, 10), in place."""
    height, width, _ = out.shape
    side = carried.texture.shape[0]
    share = np.float32(1.0 / (supersample * supersample))
    point, color, shown = np.empty(6, np.float32), np.empty(4, np.float32), np.empty(3, np.float32)
    K, table, uvs, texture, photo = carried.intrinsics, carried.table, carried.uvs, carried.texture, carried.photo
    for y in range(height * supersample):
        for x in range(width * supersample):
            f = face[y, x]
            if f < 0:
                continue
            wa, wb, wc = corner_weights(screen, inverse_z, carried.faces, f, x + 0.5, y + 0.5)
            a, b, c = np.float32(wa), np.float32(wb), np.float32(wc)
            i, j, k = carried.faces[f, 0], carried.faces[f, 1], carried.faces[f, 2]
            for n in range(6):
                point[n] = a * table[i, n] + b * table[j, n] + c * table[k, n]
            u = a * uvs[f, 0, 0] + b * uvs[f, 1, 0] + c * uvs[f, 2, 0]
            v = a * uvs[f, 0, 1] + b * uvs[f, 1, 1] + c * uvs[f, 2, 1]
            _take(texture, u * side, v * side, color)
            seen = color[3]
            if seen > 0:
                away = 1 / max(point[2], np.float32(1e-6))
                x_photo = (K[0, 0] * point[0] + K[0, 1] * point[1]) * away + K[0, 2]
                _take(photo, x_photo, K[1, 1] * point[1] * away + K[1, 2], shown)
                for n in range(3):
                    color[n] += seen * (shown[n] - color[n])
            to = out[y // supersample, x // supersample]
            for n in range(3):
                to[n] += share * color[n]
                to[3 + n] += share * point[3 + n]
            to[6] += share * seen
            if carried.inner[f]:
                to[7] += share
            to[9] += share


@kept(fastmath=True, error_model="numpy")
def _beside_kernel(covered, face, screen, inverse_z, sheet, supersample, out):  # noqa: ANN001, ANN202
    """Adds what a sheet shows to the means of `_carry_kernel`, at samples where the head does not cover it."""
    height, width, _ = out.shape
    share = np.float32(1.0 / (supersample * supersample))
    point, color = np.empty(5, np.float32), np.empty(4, np.float32)
    table = sheet.table
    for y in range(height * supersample):
        for x in range(width * supersample):
            f = face[y, x]
            if f < 0 or covered[y, x] >= 0:
                continue
            wa, wb, wc = corner_weights(screen, inverse_z, sheet.faces, f, x + 0.5, y + 0.5)
            a, b, c = np.float32(wa), np.float32(wb), np.float32(wc)
            i, j, k = sheet.faces[f, 0], sheet.faces[f, 1], sheet.faces[f, 2]
            for n in range(5):
                point[n] = a * table[i, n] + b * table[j, n] + c * table[k, n]
            _take(sheet.photo, point[0], point[1], color)
            part = share * np.float32(sheet.strength) * min(max(color[3], np.float32(0)), np.float32(1))
            to = out[y // supersample, x // supersample]
            for n in range(3):
                to[n] += part * color[n]
                to[3 + n] += part * point[2 + n]
            to[6] += part
            to[8] += part
            to[9] += part


def carry(
    vertices: mesh.Array, carried: Carried, camera: Camera, supersample: int, beside: Sheet | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Colour, normal, visibility, what is the mouth's inside and what stands beside the head (H, W, 9) of a posed head
    in a camera's pixels, means over each pixel's samples, those that see nothing counting as 0, and the share of
    samples that see either (H, W), float32.

    vertices: (V, 3) metres, world. supersample: samples along each side of a pixel. beside: what stands beside the
    head.
    """
    fine = camera.resized(camera.width * supersample, camera.height * supersample)
    seen = mesh.visible(vertices, carried.faces, fine)
    out = np.zeros((camera.height, camera.width, 10), np.float32)
    _carry_kernel(seen.face, seen.screen, seen.inverse_z, carried, supersample, out)
    if beside is not None:
        more = mesh.visible(beside.vertices, beside.faces, fine)
        _beside_kernel(seen.face, more.face, more.screen, more.inverse_z, beside, supersample, out)
    return out[..., :9], np.minimum(out[..., 9], 1.0)


@kept()
def _scale_kernel(normals, coverage, out):  # noqa: ANN001, ANN202
    for n in range(coverage.shape[0]):
        x, y, z = normals[n, 0], normals[n, 1], normals[n, 2]
        scale = coverage[n] / max(np.sqrt(x * x + y * y + z * z), np.float32(1e-6))
        out[n, 0], out[n, 1], out[n, 2] = x * scale, y * scale, z * scale


def scaled_normals(normals: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Mean normals (H, W, 3) of any length -> unit directions times the pixel's coverage (H, W)."""
    out = np.empty(normals.shape, np.float32)
    _scale_kernel(
        np.ascontiguousarray(normals, np.float32).reshape(-1, 3),
        np.ascontiguousarray(coverage, np.float32).ravel(),
        out.reshape(-1, 3),
    )
    return out

"""Work on the samples that a mesh covers alone: list them, and average what was computed for them into pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from torch import Tensor

from geodiff.raster import mesh
from geodiff.types import Camera


@numba.njit(cache=True, nogil=True)
def _gather(face, weights, index, faces_out, weights_out):  # noqa: ANN001, ANN202
    for n in range(index.shape[0]):
        faces_out[n] = face[index[n]]
        for k in range(3):
            weights_out[n, k] = weights[index[n], k]


@numba.njit(cache=True, nogil=True)
def _splat(index, values, width, supersample, out):  # noqa: ANN001, ANN202
    share = np.float32(1.0 / (supersample * supersample))
    channels = values.shape[1]
    for n in range(index.shape[0]):
        y, x = index[n] // width // supersample, index[n] % width // supersample
        for c in range(channels):
            out[y, x, c] += values[n, c] * share
        out[y, x, channels] += share


@dataclass(frozen=True)
class CoveredSamples:
    """The samples (N of them) of a supersampled image that a mesh covers.

    index: (N,) flat indices into the image of supersample times the size. fragments: faces and barycentrics as (1, N).
    """

    index: np.ndarray
    fragments: mesh.Fragments
    width: int
    height: int
    supersample: int

    @staticmethod
    def of(vertices: Tensor, faces: Tensor, camera: Camera, supersample: int) -> CoveredSamples:
        """Rasterise a mesh for an image of the camera's size, supersample x supersample samples a pixel."""
        fine = camera.resized(camera.width * supersample, camera.height * supersample)
        seen = mesh.rasterize(vertices, faces, fine)
        index = np.flatnonzero(seen.face.ravel() >= 0)
        face, weights = np.empty((1, len(index)), np.int32), np.empty((1, len(index), 3), np.float32)
        _gather(seen.face.ravel(), seen.barycentrics.reshape(-1, 3), index, face[0], weights[0])
        points = mesh.Fragments(face, weights, np.ones((1, len(index)), np.float32))
        return CoveredSamples(index, points, camera.width, camera.height, supersample)

    def interpolate(self, faces: Tensor, attributes: np.ndarray) -> np.ndarray:
        """(V, C) or (F, 3, C) -> (N, C)."""
        return mesh.interpolate(self.fragments, faces, attributes)[0]

    def resolve(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean over each pixel's samples, those that nothing covers counting as 0: values (N, C) -> (H, W, C), and the
        share of samples that are covered, (H, W)."""
        out = np.zeros((self.height, self.width, values.shape[1] + 1), np.float32)
        values = np.ascontiguousarray(values, dtype=np.float32)
        _splat(self.index, values, self.width * self.supersample, self.supersample, out)
        return out[..., :-1], np.minimum(out[..., -1], 1.0)


def scaled_normals(normals: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Mean normals (H, W, 3) of any length -> unit directions times the pixel's coverage (H, W)."""
    length = np.sqrt(np.einsum("...i,...i->...", normals, normals))
    return normals * (coverage / np.maximum(length, 1e-6))[..., None]

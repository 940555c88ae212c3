"""Points of a mesh in its texture and in pictures: the UV layout as a list of surface points, and samples of images."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
from scipy import ndimage

from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera


@dataclass(frozen=True)
class Chart:
    """Which surface point each texel of a (U, U) texture shows; row 0 is v = 1.

    texels: (N,) flat indices of the covered texels. fragments: their faces and barycentrics as a (1, N) image.
    nearest: (U, U) flat index of the nearest covered texel, to spread colours over the gutters.
    """

    size: int
    texels: np.ndarray
    fragments: mesh.Fragments
    nearest: np.ndarray

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values of the covered texels (N, C) -> a texture (U, U, C) without gaps."""
        full = np.zeros((self.size * self.size, values.shape[1]), np.float32)
        full[self.texels] = values
        return full[self.nearest]


_charts: WeakKeyDictionary[HeadModel, dict[int, Chart]] = WeakKeyDictionary()


def uv_chart(head: HeadModel, size: int) -> Chart:
    """The chart of a head at a texture size, made once for each head and size."""
    charts = _charts.setdefault(head, {})
    if size not in charts:
        corners = head.uvs[head.faces_uv].reshape(-1, 2)
        flat = torch.stack([corners[:, 0], 1.0 - corners[:, 1], torch.ones(len(corners))], 1)
        faces = torch.arange(len(corners)).reshape(-1, 3)
        K = torch.diag(torch.tensor([float(size), float(size), 1.0]))
        seen = mesh.rasterize(flat, faces, Camera(torch.eye(4), K, size, size))
        texels = np.flatnonzero(seen.mask)
        fragments = mesh.Fragments(
            np.ascontiguousarray(seen.face.reshape(1, -1)[:, texels]),
            np.ascontiguousarray(seen.barycentrics.reshape(1, -1, 3)[:, texels]),
            np.ones((1, len(texels)), np.float32),
        )
        rows, columns = ndimage.distance_transform_edt(~seen.mask, return_distances=False, return_indices=True)
        charts[size] = Chart(size, texels, fragments, rows * size + columns)
    return charts[size]


def to_local(points: np.ndarray, camera: Camera) -> np.ndarray:
    """(N, 3) world -> camera space, OpenCV axes."""
    viewmat = camera.viewmat.numpy()
    return points @ viewmat[:3, :3].T + viewmat[:3, 3]


def to_pixels(local: np.ndarray, camera: Camera) -> np.ndarray:
    """(N, 3) camera space -> (N, 2) pixels."""
    K = camera.K.numpy()
    homogeneous = local @ K.T
    return (homogeneous[:, :2] / np.maximum(homogeneous[:, 2:], 1e-6)).astype(np.float32)


def sample(image: np.ndarray, pixels: np.ndarray, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """Bilinear samples of an image (H, W) or (H, W, C) at pixels (N, 2), centres at +0.5 -> (N,) or (N, C). border:
    OpenCV's, what lies outside of the image."""
    # cv2.remap takes maps of at most 32767 columns, so the points are laid out as a square.
    count = len(pixels)
    side = max(1, int(np.ceil(np.sqrt(count))))
    padded = np.zeros((side * side, 2), np.float32)
    padded[:count] = pixels - 0.5
    grid = padded.reshape(side, side, 2)
    out = cv2.remap(image, grid, np.empty(0), cv2.INTER_LINEAR, borderMode=border)
    return out.reshape(side * side, *image.shape[2:])[:count]

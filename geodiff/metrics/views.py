"""Agreement between views: whether pictures of one moment from several sides show one surface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import cv2
import numpy as np
import torch

from geodiff.geometry import project
from geodiff.metrics.checks import NotMeasured, check_pair
from geodiff.metrics.video import sample
from geodiff.raster.mesh import Array, Fragments, interpolate, rasterize
from geodiff.types import Camera

#: Views whose axes differ by more see too little in common.
MAX_ANGLE = math.radians(60)
#: A surface seen at a flatter angle than this (cosine) is left out: a pixel covers too much of it.
MIN_COSINE = 0.3
#: How far apart two depths may lie to be the same surface, as a share of the distance.
DEPTH_TOLERANCE = 0.005


@dataclass(frozen=True)
class SurfaceView:
    """What a camera sees of a mesh: points and normals (H, W, 3) in the world, seen (H, W) bool without the rim."""

    camera: Camera
    fragments: Fragments
    points: np.ndarray
    normals: np.ndarray
    seen: np.ndarray


def surface_view(vertices: Array, faces: Array, camera: Camera) -> SurfaceView:
    """vertices: (V, 3) metres, world. faces: (F, 3)."""
    fragments = rasterize(vertices, faces, camera)
    points = interpolate(fragments, faces, vertices)
    corners = torch.as_tensor(np.asarray(vertices))[torch.as_tensor(np.asarray(faces)).long()].double()
    flat = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat = torch.nn.functional.normalize(flat, dim=-1).numpy().astype(np.float32)
    normals = np.where(fragments.mask[..., None], flat[np.maximum(fragments.face, 0)], 0)
    rimless = cv2.erode(fragments.mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    toward = camera.center.numpy() - points
    facing = (normals * toward).sum(-1) > MIN_COSINE * np.linalg.norm(toward, axis=-1)
    return SurfaceView(camera, fragments, points, normals, rimless & facing)


def cross_view_error(
    images: Sequence[np.ndarray],
    cameras: Sequence[Camera],
    vertices: Array,
    faces: Array,
    masks: Sequence[np.ndarray] | None = None,
) -> float:
    """Reprojection error between views of one timestep, in levels of 8 bits: 0 where all show one textured surface.

    Every pixel that sees the head mesh is carried by the mesh's depth into every other view whose axis lies within 60
    degrees, and compared with what that view shows there: mean absolute difference of colours, over all such pixels of
    all pairs of views. A pixel counts where both views see the point (their depths agree within 0.5% of the distance),
    neither at a grazing angle. It is the photometric reprojection error of learned stereo (Godard et al. 2017, there
    with an estimated depth). Lights that move with the view, and hair that the
    mesh does not hold, have an error too: the truth's own figure stands beside it.

    images: (H, W, 3) in 0..1, one a camera. vertices: (V, 3) metres, world, of that timestep. masks: (H, W) bool, where
    a view shows the head, or None. Raises ValueError for images that do not fit their cameras; NotMeasured when no two
    views see a common point.
    """
    if not len(images) == len(cameras) == len(masks if masks is not None else images):
        raise ValueError(f"every camera needs one image and one mask, found {len(images)} and {len(cameras)}")
    for image, camera in zip(images, cameras, strict=True):
        if image.shape != (camera.height, camera.width, 3):
            raise ValueError(
                f"an image must be as large as its camera says, {camera.width}x{camera.height}, found {image.shape}"
            )
        check_pair(image, image)
    if len(images) < 2:
        raise NotMeasured("it takes two views of one timestep, and only one is measured")
    views = [surface_view(vertices, faces, camera) for camera in cameras]
    total, count = 0.0, 0
    for a, b in permutations(range(len(images)), 2):
        if _angle(cameras[a], cameras[b]) > MAX_ANGLE:
            continue
        mask = (None, None) if masks is None else (masks[a], masks[b])
        differences = _differences(images[a], images[b], views[a], views[b], mask)
        total, count = total + float(differences.sum()), count + len(differences)
    if not count:
        raise NotMeasured("no two views of a timestep see the same points within 60 degrees")
    return 255 * total / count


def _differences(
    image: np.ndarray, other: np.ndarray, view: SurfaceView, there: SurfaceView, masks: tuple[np.ndarray | None, ...]
) -> np.ndarray:
    """(N,) mean absolute colour difference at the pixels of `view` that `there` sees as well."""
    seen = view.seen if masks[0] is None else view.seen & masks[0]
    points = view.points[seen]
    pixels, depth = (array.numpy() for array in project(torch.as_tensor(points), there.camera))
    # Pixel centres lie at +0.5, OpenCV's at whole numbers.
    pixels = (pixels - 0.5).astype(np.float32)
    nearest = np.round(pixels).astype(int)
    size = np.array([there.camera.width, there.camera.height])
    inside = ((nearest >= 0) & (nearest < size)).all(1) & (depth > 0)
    column, row = np.clip(nearest, 0, size - 1).T
    common = inside & there.seen[row, column]
    common &= np.abs(there.fragments.depth[row, column] - depth) < DEPTH_TOLERANCE * np.abs(depth)
    if masks[1] is not None:
        common &= masks[1][row, column]
    if not common.any():
        return np.zeros(0)
    target = np.zeros((*seen.shape, 2), np.float32)
    chosen = np.flatnonzero(seen)[common]
    target.reshape(-1, 2)[chosen] = pixels[common]
    found = sample(other, target).reshape(-1, 3)[chosen]
    return np.abs(image.reshape(-1, 3)[chosen].astype(np.float64) - found).mean(-1)


def _angle(a: Camera, b: Camera) -> float:
    return float(torch.acos((a.viewmat[2, :3] @ b.viewmat[2, :3]).clamp(-1, 1)))

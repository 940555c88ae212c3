"""The outline of a fitted bust against the matte: how far apart they are along the outline's own normals."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy import ndimage

from geodiff.geometry import project, smoothstep
from geodiff.head.model import HeadModel
from geodiff.raster.mesh import rasterize
from geodiff.tracking.bust_surface import Bust
from geodiff.tracking.hair_color import hair_likelihood
from geodiff.tracking.hair_rays import window, window_camera
from geodiff.types import Camera, HeadParams

#: Metres that are searched outwards and inwards of the mesh's outline, and the distance of points along it.
OUTWARDS, INWARDS, SPACING = 0.09, 0.06, 0.003
#: Metres beside and below the bust that the view shows, and metres by which it goes on beyond a picture's border that
#: cuts it.
MARGIN, BEYOND = 0.06, 0.01
#: Outlines that look further down the body than this (sine) are the mesh's lower end.
DOWN = 0.35
#: Weight of what lies beyond the picture, and the shares of hair between mesh and matte that begin to count and that
#: take all weight.
UNKNOWN, HAIRY = 0.5, (0.35, 0.65)
#: Gaps (metres) below which no hair is looked for in them.
NARROW = 0.004


@dataclass(frozen=True)
class Gaps:
    """Points of the mesh's outline, N of them.

    corners: (N, 3) vertices and weights (N, 3) of the surface there. across: (N, 3) metres along the outline's normal
    that a metre along each world axis moves the point. gap: (N,) metres from there to the matte, outwards positive.
    weight: (N,) 0..1.
    """

    corners: np.ndarray
    weights: np.ndarray
    across: np.ndarray
    gap: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class BustView:
    """The picture around head and bust at a working size.

    matte, known, hair: (h, w) 0..1: the matte, continued beyond the picture's border; whether a pixel is in the
    picture; whether its colour is hair's. metres: a pixel's size at the neck. down: (2,) the head's, in the picture.
    """

    camera: Camera
    faces: np.ndarray
    matte: np.ndarray
    known: np.ndarray
    hair: np.ndarray
    metres: float
    down: np.ndarray

    @staticmethod
    def around(
        head: HeadModel, params: HeadParams, camera: Camera, matte: np.ndarray, image: np.ndarray | None, bust: Bust,
        pixels: int,
    ) -> BustView | None:  # fmt: skip
        """The view of a fitted head; pixels: chin to crown in it. None where the picture shows no bust."""
        vertices = head.vertices(params)[0]
        points, depth = project(vertices, camera)
        if not bool((depth > 0.05).all()):
            return None
        places = points.double().numpy()
        skull = (head.regions["face"] | head.regions["scalp"]).numpy()
        low, high = places[skull].min(0), places[skull].max(0)
        scale = pixels / max(float(high[1] - low[1]), 1.0)
        metres = float(depth[bust.index].mean()) / float(camera.K[0, 0])
        lower = places[bust.index]
        x0, y0 = np.floor(np.minimum(low, lower.min(0) - MARGIN / metres)).astype(int)
        x1, y1 = np.ceil(np.maximum(high, lower.max(0) + MARGIN / metres)).astype(int)
        size = (max(8, round((x1 - x0) * scale)), max(8, round((y1 - y0) * scale)))
        inside = ((lower > 0) & (lower < matte.shape[::-1])).all(1)
        if max(size) > 12 * pixels or not inside.any():
            return None
        box = (x0, y0, x1, y1)
        near = window_camera(camera, box, size)
        known = window(np.ones(matte.shape, np.float32), box, size)
        small = window(np.clip(matte, 0, 1).astype(np.float32), box, size)
        hair = np.zeros(small.shape, np.float32)
        if image is not None:
            seen = rasterize(vertices, head.faces, near)
            ears = head.regions["ears"] if bool(head.regions["ears"].any()) else torch.from_numpy(skull)
            row = float(project(vertices[ears], near)[0][:, 1].mean())
            hair = hair_likelihood(window(image, box, size), small, seen, head, row)
        down = -(camera.viewmat[:3, :3] @ head.joint_transforms(params)[0, 1, :3, 1])[:2].double().numpy()
        down /= max(float(np.linalg.norm(down)), 1e-6)
        return BustView(near, head.faces.numpy(), _continued(small, known > 0.99), known, hair, metres / scale, down)

    def gaps(self, vertices: np.ndarray, bust: Bust, held: np.ndarray) -> Gaps | None:
        """Compare posed vertices (V, 3) with the matte. held: (V,) 0..1, what is not to be pulled."""
        fragments = rasterize(torch.as_tensor(vertices), self.faces, self.camera)
        spots, normals = _outline(fragments.mask, max(1, round(SPACING / self.metres)))
        if not len(spots):
            return None
        column, row = spots.T.astype(int)
        corners = self.faces[np.maximum(fragments.face[row, column], 0)]
        weights = fragments.barycentrics[row, column].astype(np.float64)
        mine = (weights * (bust.free * (1 - held))[corners]).sum(1)
        kept = (mine > 0.05) & (normals @ self.down < DOWN)
        if not kept.any():
            return None
        spots, normals, corners, weights = spots[kept], normals[kept], corners[kept], weights[kept]
        wide = 1 - (weights * np.append(bust.narrow, 1.0)[bust.slot[corners]]).sum(1)
        distance, weight = self._search(spots, normals, wide)
        local = self._local((vertices[corners] * weights[..., None]).sum(1))
        turn = self.camera.viewmat[:3, :3].double().numpy()
        flat = np.stack([
            normals[:, 0], normals[:, 1], -(normals * local[:, :2] / local[:, 2:]).sum(1)
        ], 1)  # fmt: skip
        metres = local[:, 2] / float(self.camera.K[0, 0])
        return Gaps(corners, weights, flat @ turn, distance * metres, weight * mine[kept])

    def _local(self, points: np.ndarray) -> np.ndarray:
        viewmat = self.camera.viewmat.double().numpy()
        return points @ viewmat[:3, :3].T + viewmat[:3, 3]

    def _search(self, spots: np.ndarray, normals: np.ndarray, wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (N,) from the outline to the matte's edge along normals, and weights (N,) 0..1. wide: (N,) 1 on the
        shoulders, 0 on the neck."""
        steps = np.arange(-INWARDS, OUTWARDS, 0.5 * self.metres) / self.metres
        start = int((steps < 0).sum())
        paths = (spots[:, None] + 0.5 + normals[:, None] * steps[:, None] - 0.5).astype(np.float32)
        matte, known, hair = (_along(layer, paths) for layer in (self.matte, self.known, self.hair))
        inside = matte >= 0.5
        count = np.arange(len(spots))
        out = ~inside[:, start:]
        end = np.where(out.any(1), start + out.argmax(1), len(steps) - 1)
        back = inside[:, : start + 1][:, ::-1]
        begin = np.where(back.any(1), start - back.argmax(1), 0)
        within = inside[count, start]
        edge = np.where(within, end, begin)
        # Shoulders that go on beyond what is searched are at least as wide as that.
        found = np.where(within, np.where(out.any(1), 1.0, UNKNOWN * wide), back.any(1))
        # Beyond its border the picture says nothing: the bust goes on as far as the border and a little further.
        missing = known[:, start:] < 0.5
        border = np.where(missing.any(1), steps[np.minimum(start + missing.argmax(1), len(steps) - 1)], np.inf)
        limit = np.where(border > 0, border + BEYOND / self.metres, 0.0)
        cut = within & (steps[edge] > limit)
        distance = np.where(cut, limit, steps[edge])
        weight = np.where(cut, UNKNOWN, (known[count, edge] >= 0.5) * found)
        share = np.where(distance * self.metres > NARROW, _mean_between(hair, start, edge), 0.0)
        return distance, weight * (1 - smoothstep(share, *HAIRY)) * self._aligned(
            paths, edge, normals, cut | (within & ~out.any(1))
        )

    def _aligned(self, paths: np.ndarray, edge: np.ndarray, normals: np.ndarray, sure: np.ndarray) -> np.ndarray:
        """(N,) 0..1 whether the matte's edge there runs as the outline does; sure: (N,) bool, no edge is asked for."""
        blurred = cv2.GaussianBlur(self.matte, (0, 0), 1.5)
        spots = paths[np.arange(len(edge)), edge][:, None]
        slope = [_along(cv2.Sobel(blurred, cv2.CV_32F, *axis), spots)[:, 0] for axis in ((1, 0), (0, 1))]
        down = -(np.stack(slope, 1) * normals).sum(1) / np.maximum(np.hypot(*slope), 1e-4)
        return np.where(sure, 1.0, np.clip(down, 0.0, 1.0))


def _continued(matte: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The matte with what lies outside the picture as it is at the nearest pixel of the border."""
    rows, columns = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
    if not len(rows) or known.all():
        return matte
    y, x = (np.clip(np.arange(n), p[0], p[-1]) for n, p in zip(matte.shape, (rows, columns), strict=True))
    return matte[np.ix_(y, x)]


def _outline(mask: np.ndarray, spacing: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 2) x, y of a mask's outer rim, not those at the image's border, and unit normals (N, 2) outwards."""
    curves, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    spots, normals = [np.zeros((0, 2))], [np.zeros((0, 2))]
    height, width = mask.shape
    for curve in curves:
        points = curve[:, 0].astype(float)
        if len(points) < 40:
            continue
        smooth = ndimage.gaussian_filter1d(points, 4.0, axis=0, mode="wrap")
        along = np.roll(smooth, -2, 0) - np.roll(smooth, 2, 0)
        # OpenCV follows outer rims counter-clockwise on the screen.
        normal = np.stack([-along[:, 1], along[:, 0]], 1)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
        clear = (points > 1).all(1) & (points[:, 0] < width - 2) & (points[:, 1] < height - 2)
        chosen = np.flatnonzero(clear)[::spacing]
        spots.append(points[chosen])
        normals.append(normal[chosen])
    return np.concatenate(spots), np.concatenate(normals)


def _along(image: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """(N, K) values of an image (h, w) at pixels (N, K, 2), whose centres are whole numbers."""
    return cv2.remap(image.astype(np.float32), paths, np.empty(0), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _mean_between(values: np.ndarray, start: int, end: np.ndarray) -> np.ndarray:
    """(N,) means of the columns from `start` to `end` (N,) of values (N, K)."""
    columns = np.arange(values.shape[1])[None]
    inside = (columns >= start) & (columns <= np.maximum(end, start)[:, None])
    return (values * inside).sum(1) / np.maximum(inside.sum(1), 1)

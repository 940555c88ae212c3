"""Hair that stands off the skull: static offsets of the scalp, so that the mesh's outline meets the matte.

Along rays from the middle of the skull the outline of the fitted mesh is compared with the matte. The scalp is pushed
outwards by what lies between, most at the outline; the back of the head, which one picture does not show, gets the
thickness of the top and the sides. Hair that hangs below the ears is out of reach of the scalp and is left to later
stages.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from geodiff.geometry import project, to_camera
from geodiff.head.model import HeadModel
from geodiff.raster.mesh import rasterize
from geodiff.types import Camera, HeadParams

#: How much of the scalp's movement around it an ear takes part in.
EAR_SHARE = 0.8


@dataclass(frozen=True)
class HairConfig:
    """How hair is fitted.

    limit: largest offset, metres. falloff, fringe: metres over which offsets grow from the scalp's border, at the
    sides and at the forehead. front: share of the outline's offset where the scalp faces the camera. rays: how many
    over the full circle. reach: degrees from the top of the head down to which rays are believed. symmetry: share of
    the other side's thickness. smoothing: metres over which offsets are smoothed along the mesh. rounds: repetitions
    of measuring and pushing.
    """

    limit: float = 0.07
    falloff: float = 0.018
    fringe: float = 0.05
    front: float = 0.5
    rays: int = 240
    reach: float = 105.0
    symmetry: float = 0.25
    smoothing: float = 0.008
    rounds: int = 4


def fit_hair(
    matte: np.ndarray, params: HeadParams, camera: Camera, head: HeadModel, config: HairConfig | None = None
) -> torch.Tensor:
    """Static offsets (V, 3) in metres for the fitted head (T = 1) under a matte (H, W) in 0..1."""
    config = config or HairConfig()
    bald = head.vertices(params, offsets=False)[0]
    scalp, rays = _Scalp(head, params, config), _Rays(bald, camera, head, config)
    amount = np.zeros(head.num_vertices)
    for _ in range(config.rounds):
        offsets = torch.as_tensor(amount[:, None] * scalp.outward, dtype=torch.float32)
        vertices = head.vertices(params.replace(static_offset=offsets))[0]
        amount = scalp.spread(amount, _gaps(matte, vertices, camera, head, rays), rays)
    return torch.as_tensor(scalp.carry_ears(amount[:, None] * scalp.outward), dtype=torch.float32)


def movable(head: HeadModel) -> torch.Tensor:
    """(V,) bool: what hair carries outwards. The ears go along, or the scalp would fold up around them."""
    return head.regions["scalp"] | head.regions["ears"]


class _Scalp:
    """What does not change between rounds: directions, falloff, the smoothing operator."""

    def __init__(self, head: HeadModel, params: HeadParams, config: HairConfig) -> None:
        self.config = config
        rest = head.shaped(params, expression=False, offsets=False)[0].double().numpy()
        self.mask = movable(head).numpy()
        self.mirror = head.mirror.numpy()
        direction = rest - rest[self.mask].mean(0)
        self.outward = direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
        edges = np.concatenate([head.faces.numpy()[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
        length = np.linalg.norm(rest[edges[:, 0]] - rest[edges[:, 1]], axis=1)
        size = head.num_vertices
        graph = sparse.coo_matrix((length + 1e-9, (edges[:, 0], edges[:, 1])), (size, size)).tocsr()
        # Only the border of the scalp can be nearest: the search starts there and stays in the scalp.
        border = np.unique(edges[self.mask[edges[:, 0]] & ~self.mask[edges[:, 1]]][:, 1])
        border = np.union1d(border, np.unique(edges[~self.mask[edges[:, 0]] & self.mask[edges[:, 1]]][:, 0]))
        inside = np.union1d(np.flatnonzero(self.mask), border)
        self.weight = np.zeros(size)
        if len(border):
            part = graph[inside][:, inside]
            away = dijkstra(part, directed=False, indices=np.searchsorted(inside, border), min_only=True)
            # Towards the forehead hair grows slowly, or it would end in a step like the rim of a cap.
            front = np.clip(self.outward[inside, 2], 0, 1) ** 0.5
            t = np.clip(away / (config.falloff + front * (config.fringe - config.falloff)), 0, 1)
            self.weight[inside] = t * t * (3 - 2 * t)
        else:
            self.weight[self.mask] = 1.0
        self.weight[~self.mask] = 0.0
        self.smoother = self._smoother(edges, length)
        self.links = np.concatenate([edges, edges[:, ::-1]])
        ears = head.regions["ears"].numpy()
        self.ears = [ears & (rest[:, 0] > 0), ears & (rest[:, 0] < 0)]
        self.seam = self._seam(ears, rest)

    def _seam(self, ears: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """(V,) bool: the scalp around the ears and the ears' own feet, where the offsets are smoothed once more."""
        scalp = self.mask & ~ears
        if not ears.any() or not scalp.any():
            return np.zeros(len(ears), bool)
        near = np.zeros(len(ears), bool)
        near[scalp] = cKDTree(rest[ears]).query(rest[scalp])[0] < 2 * self.config.smoothing
        near[ears] = cKDTree(rest[scalp]).query(rest[ears])[0] < self.config.smoothing
        return near

    def _smoother(self, edges: np.ndarray, length: np.ndarray) -> sparse.csc_matrix:
        """I + smoothing^2 * Laplacian, on the scalp's vertices."""
        inner = self.mask[edges].all(1)
        index = np.cumsum(self.mask) - 1
        a, b = index[edges[inner, 0]], index[edges[inner, 1]]
        pull = (self.config.smoothing / np.maximum(length[inner], 1e-4)) ** 2 / 4
        count = int(self.mask.sum())
        links = sparse.coo_matrix((pull, (a, b)), (count, count))
        links = (links + links.T) / 2
        degree = sparse.diags(np.asarray(links.sum(1)).ravel())
        return (sparse.identity(count) + degree - links).tocsc()

    def spread(self, amount: np.ndarray, gaps: np.ndarray, rays: _Rays) -> np.ndarray:
        """Add the outline's gaps (rays,) in metres to the offsets (V,) of the whole scalp."""
        config = self.config
        position = (np.arctan2(rays.direction[:, 1], rays.direction[:, 0]) / (2 * np.pi) * config.rays) % config.rays
        own = np.interp(position, np.arange(config.rays + 1), np.append(gaps, gaps[0]))
        # The further a vertex lies behind the outline, the less its own ray says about it.
        depth = rays.direction[:, 2]
        behind = np.clip(depth, 0, 1) ** 2
        believed = gaps[rays.believed > 0.5]
        common = float(np.median(believed)) if len(believed) else 0.0
        before = 1 - (1 - config.front) * np.clip(-depth, 0, 1) ** 2
        grown = amount + self.weight * before * ((1 - behind) * own + behind * 0.8 * common)
        share = config.symmetry * np.abs(depth)
        grown = (1 - share) * grown + share * grown[self.mirror]
        grown[self.mask] = spsolve(self.smoother, grown[self.mask])
        grown[~self.mask] = 0.0
        return np.clip(grown, 0.0, config.limit)

    def carry_ears(self, offsets: np.ndarray) -> np.ndarray:
        """Offsets (V, 3) in which each ear keeps its shape: it follows the scalp around it, less towards the face.

        An ear that followed its own rays would be drawn out to a point, because its rim lies farthest out.
        """
        moved = offsets.copy()
        for ear in self.ears:
            joined = self.links[ear[self.links[:, 0]] & ~ear[self.links[:, 1]] & self.mask[self.links[:, 1]], 1]
            around = offsets[np.unique(joined)].mean(0) if len(joined) else np.zeros(3)
            moved[ear] = EAR_SHARE * self.weight[ear, None] * around
        for axis in range(3):
            smooth = spsolve(self.smoother, moved[self.mask, axis])
            moved[self.mask, axis] = np.where(self.seam[self.mask], smooth, moved[self.mask, axis])
        return moved


class _Rays:
    """Rays in the image from the middle of the bald skull, and each vertex's direction from there in camera axes."""

    def __init__(self, bald: torch.Tensor, camera: Camera, head: HeadModel, config: HairConfig) -> None:
        around = movable(head)
        middle = bald[around].mean(0)
        local = to_camera(bald, camera).double().numpy()
        centre = to_camera(middle, camera).double().numpy()
        offset = local - centre
        self.direction = offset / np.maximum(np.linalg.norm(offset, axis=1, keepdims=True), 1e-9)
        self.metres = float(centre[2] / camera.K[0, 0])
        self.origin = project(middle, camera)[0].double().numpy()
        reach = np.linalg.norm(offset[around.numpy()], axis=1).max() + config.limit + 0.02
        self.radii = np.arange(0.0, reach / self.metres, 0.5)
        angles = np.arange(config.rays) / config.rays * 2 * np.pi
        self.unit = np.stack([np.cos(angles), np.sin(angles)], 1)
        # Up the head, from the chin to the crown: the direction in which the scalp lies, seen from the face.
        up = offset[head.regions["scalp"].numpy()].mean(0)[:2] - offset[head.regions["neck"].numpy()].mean(0)[:2]
        up /= max(float(np.linalg.norm(up)), 1e-9)
        down = np.degrees(np.arccos(np.clip(self.unit @ up, -1, 1)))
        t = np.clip((config.reach + 8 - down) / 16, 0, 1)
        self.believed = t * t * (3 - 2 * t)

    def sample(self, image: np.ndarray, outside: float) -> np.ndarray:
        """(rays, radii) values of an image (H, W) along the rays."""
        where = self.origin + self.unit[:, None] * self.radii[:, None] - 0.5
        return cv2.remap(image.astype(np.float32), where[..., 0].astype(np.float32), where[..., 1].astype(np.float32),
                         cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(outside,))  # fmt: skip


def _gaps(matte: np.ndarray, vertices: torch.Tensor, camera: Camera, head: HeadModel, rays: _Rays) -> np.ndarray:
    """(rays,) metres between the scalp's outline and the matte's; 0 where the matte says nothing about the hair."""
    outlines = []
    for vertices_of in (movable(head), head.regions["scalp"]):
        faces = head.faces[vertices_of[head.faces].any(-1)]
        outlines.append(_outline(rays.sample(rasterize(vertices, faces, camera).mask, 0.0), rays, contiguous=False))
    moving, scalp = outlines
    # Outside the picture the matte is unknown: -1 there.
    along = rays.sample(np.clip(matte, 0, 1), -1.0)
    person = _outline(along, rays, start=0.6 * moving)
    last = np.minimum((person / 0.5).astype(int) + 2, along.shape[1] - 1)
    cut = along[np.arange(len(along)), last] < 0
    gap = (person - moving) * rays.metres
    # The ears are fitted less exactly than the skull: where they make the outline, small gaps are not hair.
    ears = np.clip((moving - scalp) * rays.metres / 0.004, 0, 1)
    gap = np.sign(gap) * np.maximum(np.abs(gap) - 0.004 * ears, 0)
    if cut.any() and not cut.all():
        known = np.flatnonzero(~cut)
        filled = np.interp(np.arange(len(gap)), known, gap[known], period=len(gap))
        gap = np.where(cut, np.maximum(gap, filled), gap)
    smoothed = ndimage.gaussian_filter1d(ndimage.median_filter(gap, 5, mode="wrap"), 1.5, mode="wrap")
    return smoothed * rays.believed


def _outline(samples: np.ndarray, rays: _Rays, start: np.ndarray | None = None, contiguous: bool = True) -> np.ndarray:
    """(rays,) radius in pixels at which samples (rays, radii) fall below one half, seen from `start` outwards.

    contiguous = False takes the farthest radius that lies inside.
    """
    inside = samples > 0.5
    if not contiguous:
        last = samples.shape[1] - 1 - inside[:, ::-1].argmax(1)
        return np.where(inside.any(1), rays.radii[last], 0.0)
    if start is not None:
        inside = inside | (rays.radii[None] < start[:, None])
    first_out = np.where(inside.all(1), samples.shape[1] - 1, (~inside).argmax(1))
    return rays.radii[first_out]

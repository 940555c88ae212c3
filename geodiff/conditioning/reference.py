"""The reference: a photograph and its fit, brought under the crop rule, on white."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from torch import Tensor

from geodiff.conditioning.border import before_border, beyond_border
from geodiff.conditioning.frame import crop_camera, head_frame, posed_center, resample
from geodiff.geometry import project
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera, HeadParams

#: How far, as shares of the side, the matte may reach beyond the fitted silhouette: at and above the chin (hair that
#: the fit does not follow), at the bottom of the neck (where shoulders begin), and the width of the soft edge.
HAIR_MARGIN = 0.10
NECK_MARGIN = 0.015
CUT_SOFTNESS = 0.03
#: Share of the side over which the matte's inner edge is taken to be mixed with the background.
EDGE = 0.006


@dataclass(frozen=True)
class Reference:
    """A portrait under the crop rule.

    image: (S, S, 3) float32 0..1 on white. mask: (S, S) float32 0..1. normals: (S, S, 3) the fitted mesh's normal map
    inside the matte. pose_map: (S, S, 3). camera: the crop's camera; params: T = 1, canonical (the head's global pose
    has moved into the camera). detail, detail_mask: image and mask of the same crop at a higher resolution (D, D),
    where the photograph has it; proposals are sampled from them. beyond: (D, D, 4) float32 0..1, colours of neck and
    clothes where the photograph does not reach, and how sure they are (`beyond_border`). uncut: (D, D) 0..1, less
    towards the photograph's border where that cuts the person; 1 where it is None.
    """

    image: np.ndarray
    mask: np.ndarray
    normals: np.ndarray
    pose_map: np.ndarray
    camera: Camera
    params: HeadParams
    detail: np.ndarray | None = None
    detail_mask: np.ndarray | None = None
    beyond: np.ndarray | None = None
    uncut: np.ndarray | None = None

    @property
    def size(self) -> int:
        return int(self.image.shape[0])

    @property
    def finest(self) -> np.ndarray:
        """(D, D, 3) the image at its highest resolution."""
        return self.image if self.detail is None else self.detail

    @property
    def finest_mask(self) -> np.ndarray:
        """(D, D) the mask at its highest resolution."""
        return self.mask if self.detail_mask is None else self.detail_mask


def crop_reference(
    image: np.ndarray, matte: np.ndarray, params: HeadParams, camera: Camera, head: HeadModel, size: int
) -> Reference:
    """Bring a photograph under the crop rule.

    image: (H, W, 3) uint8, or float 0..1. matte: (H, W) 0..1. params, camera: the fit in the photograph's pixels,
    T = 1. size: the side S in pixels.
    """
    picture = image.astype(np.float32) / 255.0 if image.dtype == np.uint8 else image.astype(np.float32)
    params, camera = head.canonicalise(params.frame(0).detach(), camera)
    frame = head_frame(head, params)
    center, up = posed_center(head, params, frame)
    target = crop_camera(camera, center, up, frame.height, size)
    zoom = float(target.K[0, 0] / camera.K[0, 0])
    fine = target.resized(2 * size, 2 * size) if zoom < 0.8 else target
    vertices = head.vertices(params)[0]
    allowed = _allowed(vertices, head, target, float(frame.center[1] - frame.height / 2))
    detail_mask = np.clip(resample(matte.astype(np.float32), camera, fine), 0.0, 1.0)
    detail_mask = detail_mask * cv2.resize(allowed, detail_mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    photo = resample(picture, camera, fine, border=1.0, interpolation=cv2.INTER_LINEAR if zoom < 1 else cv2.INTER_CUBIC)
    detail = np.clip(photo, 0.0, 1.0) * detail_mask[..., None] + (1.0 - detail_mask[..., None])
    normals = mesh.render_normals(vertices, head.faces, target, supersample=2)
    small = (size, size)
    mask = detail_mask if fine is target else cv2.resize(detail_mask, small, interpolation=cv2.INTER_AREA)
    return Reference(
        image=detail if fine is target else cv2.resize(detail, small, interpolation=cv2.INTER_AREA),
        mask=mask,
        normals=normals * mask[..., None],
        pose_map=render_pose_map(head, params, target),
        camera=target,
        params=params,
        detail=detail,
        detail_mask=detail_mask,
        beyond=beyond_border(detail, detail_mask, vertices, head, camera, fine),
        uncut=before_border(detail_mask, camera, fine),
    )


def foreground_colors(reference: Reference) -> np.ndarray:
    """(D, D, 3) the portrait at its finest, its colours continued beyond the matte's edge, where background shines
    through, from the nearest ones that surely are the person's, and beyond the photograph's borders."""
    photo, matte = reference.finest, reference.finest_mask
    size = photo.shape[0]
    sure = np.where(matte > 0.98, 1.0, 0.0).astype(np.float32)
    inner = cv2.erode(sure, np.ones((3, 3), np.uint8), iterations=max(1, round(EDGE * size)))
    soft = cv2.GaussianBlur(inner, (0, 0), max(0.5, 0.5 * EDGE * size))
    known = (soft * inner)[..., None]
    layers = np.concatenate([photo * known, known], 2)
    colors, weight = layers[..., :3], layers[..., 3:]
    for width in (0.004, 0.012, 0.04, 0.12):
        spread = wide_blur(layers, width * size)
        mass = spread[..., 3:]
        share = np.clip(1.0 - weight, 0.0, 1.0) * np.clip(20.0 * mass, 0.0, 1.0)
        colors = colors + share * spread[..., :3] / np.maximum(mass, 1e-4)
        weight = weight + share
    colors = colors + (1.0 - weight) * photo
    if reference.beyond is not None:
        colors = colors + reference.beyond[..., 3:] * (reference.beyond[..., :3] - colors)
    return np.clip(colors, 0.0, 1.0).astype(np.float32)


def wide_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of an image (H, W, C) by sigma pixels; a wide one is computed on a smaller grid."""
    fold = max(1, int(sigma / 3))
    if fold == 1:
        return cv2.GaussianBlur(image, (0, 0), sigma)
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, width // fold), max(1, height // fold)), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / fold), (width, height), interpolation=cv2.INTER_LINEAR)


def render_pose_map(head: HeadModel, params: HeadParams, camera: Camera) -> np.ndarray:
    """(S, S, 3) normals of the posed head without expression, gaze and static offsets (section 3.2 of the paper)."""
    vertices = head.vertices(without_expression(params), offsets=False)[0]
    return mesh.render_normals(vertices, head.faces, camera, supersample=2)


def without_expression(params: HeadParams) -> HeadParams:
    """The same head at rest in its pose: no expression, the jaw shut and the eyes straight ahead."""
    return params.replace(expr=params.expr * 0.0, jaw_pose=params.jaw_pose * 0.0, eyes_pose=params.eyes_pose * 0.0)


def _allowed(vertices: Tensor, head: HeadModel, camera: Camera, chin_height: float) -> np.ndarray:
    """(S, S) 0..1: how much of the matte belongs to head and neck, from the fitted silhouette and a margin.

    The margin is wide above the chin and shrinks down the neck, where shoulders would come in.
    """
    size = camera.height
    covered = mesh.rasterize(vertices, head.faces, camera).face >= 0
    distance = cv2.distanceTransform((~covered).astype(np.uint8), cv2.DIST_L2, 5) / size
    points, _ = project(vertices, camera)
    near_chin = (vertices[:, 1] - chin_height).abs() < 0.01
    chin_row = float(points[near_chin, 1].mean()) if bool(near_chin.any()) else 0.8 * size
    bottom = float(np.flatnonzero(covered.any(1)).max()) if covered.any() else float(size)
    rows = (np.arange(size, dtype=np.float32) - chin_row) / max(bottom - chin_row, 1.0)
    # Shoulders begin well above the mesh's lower end.
    margin = HAIR_MARGIN + (NECK_MARGIN - HAIR_MARGIN) * np.clip(2.0 * rows, 0.0, 1.0)[:, None]
    return np.clip(1.0 - (distance - margin) / CUT_SOFTNESS, 0.0, 1.0).astype(np.float32)


def with_size(reference: Reference, head: HeadModel, size: int) -> Reference:
    """The same reference at another size; sampled down from its detail."""
    if size == reference.size:
        return reference
    source, matte = reference.finest, reference.finest_mask
    camera = reference.camera.resized(size, size)
    mode = cv2.INTER_AREA if size < source.shape[0] else cv2.INTER_LINEAR
    mask = cv2.resize(matte, (size, size), interpolation=mode)
    normals = mesh.render_normals(head.vertices(reference.params)[0], head.faces, camera, supersample=2)
    return replace(
        reference,
        image=cv2.resize(source, (size, size), interpolation=mode),
        mask=mask,
        normals=normals * mask[..., None],
        pose_map=render_pose_map(head, reference.params, camera),
        camera=camera,
    )

"""The reference: a photograph and its fit, brought under the crop rule, on white."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from torch import Tensor

from geodiff.conditioning.frame import crop_camera, head_frame, posed_center, resample, warp_between
from geodiff.geometry import project, smoothstep
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.raster.chart import sample
from geodiff.types import Camera, HeadParams

#: How far, as shares of the side, the matte may reach beyond the fitted silhouette: at and above the chin (hair that
#: the fit does not follow), at the bottom of the neck (where shoulders begin), and the width of the soft edge.
HAIR_MARGIN = 0.10
NECK_MARGIN = 0.015
CUT_SOFTNESS = 0.03
#: Pixels of the crop from a photograph's border at which what lies beyond is taken from inside, and the share of the
#: side that it is taken from, back and forth: deeper inside are other things than cloth.
BORDER, BAND = 2.5, 0.05
#: Bands beyond the border up to which that is believed, and from which on it is not.
BELIEVED = (0.5, 3.0)
#: Share of the side over which what stands beside the mesh fades towards the photograph's border: cut hair and
#: shoulders would show a straight edge.
FADE = 0.06
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
    towards the photograph's border; 1 where it is None.
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
        uncut=_before_border(camera, fine),
    )


def beyond_border(
    picture: np.ndarray, matte: np.ndarray, vertices: Tensor, head: HeadModel, source: Camera, crop: Camera
) -> np.ndarray | None:
    """What neck, shoulders and clothes may look like beyond the photograph's lower and side borders: as what lies along
    these, folded out over and over. None where the photograph shows all of them.

    picture: (D, D, 3) the photograph in its crop; matte: (D, D). vertices: (V, 3) of the head there. source: the
    photograph's camera. Returns (D, D, 4) float32: colours, and 0..1 whether they are those of neck or clothes.
    """
    size = crop.height
    seen = mesh.rasterize(vertices, head.faces, crop)
    neck = seen.mask & head.regions["neck"].numpy()[head.faces.numpy()[np.maximum(seen.face, 0)]].all(-1)
    warp = warp_between(source, crop)
    rows, columns = np.nonzero(neck)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
    x, y = (np.linalg.inv(warp) @ pixels)[:2]
    # The matte fades into the border: the mirrors stand a little inside of it.
    edge, band = np.array([BORDER, BAND * size]) / _magnified(warp)
    width, height = source.width - edge, source.height - edge
    out = (x < edge) | (x > width) | (y > height)
    if not ((x < 0) | (x > source.width) | (y > source.height)).any():
        return None
    x, y = x[out], y[out]
    away = np.maximum(np.maximum(edge - x, x - width), y - height) / band
    x = np.where(x < edge, edge + _folded(edge - x, band), np.where(x > width, width - _folded(x - width, band), x))
    y = np.where(y > height, height - _folded(y - height, band), y)
    place = (warp @ np.stack([x, y, np.ones(len(x))]))[:2].astype(np.float32)
    own = cv2.erode(neck.astype(np.uint8), np.ones((3, 3), np.uint8)) * matte
    layers = np.concatenate([picture, own[..., None]], 2).astype(np.float32)
    result = np.zeros((size, size, 4), np.float32)
    shown = np.clip(sample(layers, place.T, cv2.BORDER_CONSTANT), 0, 1)
    shown[:, 3] *= 1.0 - smoothstep(away, *BELIEVED)
    result[rows[out], columns[out]] = shown
    return result


def _folded(beyond: np.ndarray, band: float) -> np.ndarray:
    """Distances inside of a border that stand for those beyond it (N,): there and back within a band."""
    return band - np.abs(np.mod(beyond, 2 * band) - band)


def _magnified(warp: np.ndarray) -> float:
    """Pixels of the crop that a pixel of the photograph becomes."""
    return float(np.sqrt(abs(np.linalg.det(warp[:2, :2]))))


def _before_border(source: Camera, crop: Camera) -> np.ndarray | None:
    """(D, D) 0..1: less towards the photograph's border; None where the crop is well inside."""
    warp = warp_between(source, crop)
    rows, columns = np.mgrid[: crop.height, : crop.width] + 0.5
    x, y = np.einsum("ij,jrc->irc", np.linalg.inv(warp), np.stack([columns, rows, np.ones_like(rows)]))[:2]
    inside = np.minimum(np.minimum(x, source.width - x), np.minimum(y, source.height - y))
    shown = smoothstep(inside * _magnified(warp) / crop.height, 0.0, FADE)
    return None if shown.min() == 1 else shown.astype(np.float32)


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

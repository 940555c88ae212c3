"""Frames for the directions that no frame shows: from behind, most often.

Gaussians that are fitted from one side alone are free to look like anything from the other. Here the head's surface is
drawn from there, coloured by the frames where they see it and by the portrait's completed texture (or the nearest seen
skin and hair) elsewhere, and fitted among the frames, a small share of the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from geodiff.conditioning import head_frame
from geodiff.conditioning.frame import posed_center
from geodiff.geometry import orbit_camera
from geodiff.head.model import HeadModel
from geodiff.raster import mesh
from geodiff.types import Camera
from recon.frames import FrameSet
from recon.layers.initialise import fill_unseen, observe_colors, paint_unseen

#: Yaw and elevation in degrees of the directions that are looked at.
DIRECTIONS = (
    (50, 0), (-50, 0), (80, 0), (-80, 0), (110, 5), (-110, 5), (145, 5), (-145, 5), (180, 5), (180, 40), (100, 40),
    (-100, 40),
)  # fmt: skip
#: Standard deviation in pixels, at 256 pixels, of the masks' soft edge.
_EDGE = 0.6
#: Frames that colours are gathered from.
_SOURCES = 24


@dataclass(frozen=True)
class BehindConfig:
    """enabled: for clip sets with masks. apart: degrees to the nearest frame from which on a direction is drawn. share:
    of the steps that go to what was drawn."""

    enabled: bool = True
    apart: float = 30.0
    share: float = 0.05


def with_unseen_views(
    head: HeadModel, frames: FrameSet, config: BehindConfig, texture: Tensor | None = None
) -> FrameSet:
    """The frames with drawn ones for training behind them, where directions are missing.

    texture: (U, U, 3) in 0..1, the portrait in the head's UV layout, or None.
    """
    step, near = _calmest(frames)
    cameras = [_around(head, frames, near, step, *direction) for direction in DIRECTIONS]
    seen = torch.stack([_direction(head, frames, sample) for sample in frames.train])
    turned = [_toward(head, frames, step, camera) for camera in cameras]
    limit = math.cos(math.radians(config.apart))
    missing = [camera for camera, way in zip(cameras, turned, strict=True) if float((seen @ way).max()) < limit]
    if not missing or not frames.has_masks:
        return frames
    images, masks, normals = zip(*_drawn(head, frames, step, missing, texture), strict=True)
    first, count = len(frames), len(missing)
    repeats = max(1, round(config.share / (1 - config.share) * len(frames.train) / count))
    return replace(
        frames,
        images=torch.cat([frames.images, torch.stack(images)]),
        masks=torch.cat([frames.masks, torch.stack(masks)]),
        normals=None if frames.normals is None else torch.cat([frames.normals, torch.stack(normals)]),
        cameras=[*frames.cameras, *missing],
        steps=torch.cat([frames.steps, torch.full((count,), step)]),
        views=torch.cat([frames.views, torch.full((count,), -1)]),
        train=[*frames.train, *list(range(first, first + count)) * repeats],
    )


def _calmest(frames: FrameSet) -> tuple[int, int]:
    """The time step with the least expression among the frames to fit, and a frame of it."""
    params = frames.params
    size = params.expr.norm(dim=1) + params.jaw_pose.norm(dim=1) + params.neck_pose.norm(dim=1)
    sample = min(frames.train, key=lambda i: float(size[int(frames.steps[i])]))
    return int(frames.steps[sample]), sample


def _around(head: HeadModel, frames: FrameSet, like: int, step: int, yaw: float, elevation: float) -> Camera:
    """A camera with the lens, the size and the distance of a frame's, that looks at the head from another side."""
    params, camera = frames.params.frame(step), frames.cameras[like]
    frame = head_frame(head, params)
    pose = head.joint_transforms(params)[0, 1]
    center, _ = posed_center(head, params, frame)
    distance = float((camera.center - center).norm())
    made = orbit_camera(
        math.radians(yaw), math.radians(elevation), distance, frame.center, float(camera.K[0, 0]), *frames.size
    )
    # The frame's picture of the head's centre stays where it is, and with it what is cut off.
    local = camera.viewmat[:3, :3] @ center + camera.viewmat[:3, 3]
    K = camera.K.clone()
    K[:2, 2] += K[:2, :2] @ (local[:2] / local[2])
    return Camera(made.viewmat @ torch.linalg.inv(pose), K, made.width, made.height)


def _toward(head: HeadModel, frames: FrameSet, step: int, camera: Camera) -> Tensor:
    """(3,) unit direction from the head's centre to a camera, in the head's axes."""
    params = frames.params.frame(step)
    pose = head.joint_transforms(params)[0, 1]
    center, _ = posed_center(head, params, head_frame(head, params))
    return torch.nn.functional.normalize(pose[:3, :3].T @ (camera.center - center), dim=0)


def _direction(head: HeadModel, frames: FrameSet, sample: int) -> Tensor:
    return _toward(head, frames, int(frames.steps[sample]), frames.cameras[sample])


def _drawn(
    head: HeadModel, frames: FrameSet, step: int, cameras: list[Camera], texture: Tensor | None
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Images (H, W, 3) on white, masks (H, W) and normals (H, W, 3) of the head's surface, uint8 as in `FrameSet`."""
    vertices = head.vertices(frames.params.frame(step))[0]
    seen = [mesh.rasterize(vertices, head.faces, camera) for camera in cameras]
    binding = torch.from_numpy(np.concatenate([f.face[f.mask] for f in seen]).astype(np.int64))
    weights = torch.from_numpy(np.concatenate([f.barycentrics[f.mask] for f in seen]))
    sources = frames.train[:: max(1, len(frames.train) // _SOURCES)]
    colors, facing = observe_colors(head, frames, binding, weights, sources)
    if texture is None:
        points = (vertices[head.faces[binding]] * weights[:, :, None]).sum(1)
        colors = fill_unseen(head, points, binding, colors, facing)
    else:
        colors = paint_unseen(head, texture, binding, weights, colors, facing)
    places = np.cumsum([0, *(int(f.mask.sum()) for f in seen)])
    found = []
    for number, (camera, fragments) in enumerate(zip(cameras, seen, strict=True)):
        image, mask = _soft(fragments.mask, colors[places[number] : places[number + 1]].numpy())
        normals = mesh.render_normals(vertices, head.faces, camera)
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        normals = normals / np.maximum(length, 1e-3) * mask[..., None]
        found.append((_bytes(image), _bytes(mask), _bytes(normals * 0.5 + 0.5)))
    return found


def _soft(covered: np.ndarray, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) on white and mask (H, W) with a soft edge. covered: (H, W) bool. colors: (n, 3) of those."""
    layers = np.zeros((*covered.shape, 4), np.float32)
    layers[covered, :3], layers[covered, 3] = colors, 1.0
    spread = cv2.GaussianBlur(layers, (0, 0), _EDGE * max(covered.shape[0] / 256.0, 0.5))
    mask = spread[..., 3]
    own = np.where(covered[..., None], layers[..., :3], spread[..., :3] / np.maximum(mask, 1e-3)[..., None])
    return own * mask[..., None] + 1.0 - mask[..., None], mask


def _bytes(values: np.ndarray) -> Tensor:
    return torch.from_numpy((np.clip(values, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))

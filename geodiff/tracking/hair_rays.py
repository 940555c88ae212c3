"""Rays around a fitted head, and the window of a picture that holds them."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from geodiff.geometry import project, to_camera
from geodiff.head.model import HeadModel
from geodiff.tracking.hair_surface import HairSurface
from geodiff.types import Camera, HeadParams

#: Metres: distance of the rays below the middle of the skull and how far down they go.
ROW, DEPTH = 0.0025, 0.22
#: Rays over the upper half circle.
ARCH = 121


def rays_around(
    bald: torch.Tensor, camera: Camera, surface: HairSurface, params: HeadParams, head: HeadModel
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Origins (R, 2), directions (R, 2), sides (R,) and metres a pixel: an arch over the head, rows below it."""
    turn = head.joint_transforms(params)[0, 1]
    centre = turn[:3, :3] @ torch.as_tensor(surface.centre, dtype=torch.float32) + turn[:3, 3]
    ends = torch.stack([centre, centre + 0.05 * turn[:3, 1]])
    pixels = project(ends, camera)[0].double().numpy()
    metres = float(to_camera(centre, camera)[2] / camera.K[0, 0])
    up = pixels[1] - pixels[0]
    up = up / max(float(np.linalg.norm(up)), 1e-6)
    right = np.array([-up[1], up[0]])
    angles = np.linspace(-np.pi / 2, np.pi / 2, ARCH)
    arch = np.cos(angles)[:, None] * up + np.sin(angles)[:, None] * right
    down = np.arange(1, int(DEPTH / ROW))[:, None] * ROW / metres
    origins, units, sides = [np.tile(pixels[0], (ARCH, 1))], [arch], [np.zeros(ARCH)]
    for side in (-1, 1):
        origins.append(pixels[0] - down * up)
        units.append(np.tile(side * right, (len(down), 1)))
        sides.append(np.full(len(down), side))
    return np.concatenate(origins), np.concatenate(units), np.concatenate(sides), metres


def row_of_ears(bald: torch.Tensor, camera: Camera, surface: HairSurface) -> float:
    """The image row of the ears' middle, or of the skull's."""
    ears = surface.ears[0] | surface.ears[1]
    chosen = bald[torch.as_tensor(ears if ears.any() else surface.scalp)]
    return float(project(chosen, camera)[0][:, 1].mean())


def window(image: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """An image's window x0, y0, x1, y1 (which may reach beyond it: zero there) at another size (w, h)."""
    x0, y0, x1, y1 = box
    height, width = image.shape[:2]
    inside = image[max(y0, 0) : max(min(y1, height), 0), max(x0, 0) : max(min(x1, width), 0)]
    padded = cv2.copyMakeBorder(inside, max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0),
                                cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))  # fmt: skip
    return cv2.resize(padded, size, interpolation=cv2.INTER_AREA if size[1] < y1 - y0 else cv2.INTER_LINEAR)


def window_camera(camera: Camera, box: tuple[int, int, int, int], size: tuple[int, int]) -> Camera:
    x0, y0, x1, y1 = box
    K = camera.K.clone()
    K[0, 2] -= x0
    K[1, 2] -= y0
    scale = torch.diag(torch.tensor([size[0] / float(x1 - x0), size[1] / float(y1 - y0), 1.0], dtype=K.dtype))
    return Camera(camera.viewmat, scale @ K, *size)

"""A face's own frame in the picture: upright, centred and of one size, whatever the head's angle.

Unlike the line through the eyes, which is short and shaky in profiles, the frame comes from all landmarks and their
depths: the mean face is turned onto them (Kabsch), and its vertical axis in the picture is the frame's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from geodiff.tracking.calibration import SKIN


@dataclass(frozen=True)
class Aligned:
    """turn: (2, 2) from the picture's axes to the frame's. middle: (2,) of the face, in turned axes. size: root mean
    square distance of the landmarks from their middle in space, pixels; the frame's unit. facing: (3, 3) by which the
    mean face is turned in the frame (x right, y down, z away)."""

    turn: np.ndarray
    middle: np.ndarray
    size: float
    facing: np.ndarray = field(default_factory=lambda: np.eye(3))

    @staticmethod
    def of(points: np.ndarray, z: np.ndarray, mean: np.ndarray) -> Aligned:
        """points: (478, 2) and z (478,) as the detector says. mean: (478, 3) the mean frontal face, y down."""
        shape = np.column_stack([points, z])[:SKIN].astype(np.float64)
        shape = shape - shape.mean(0)
        u, _, vt = np.linalg.svd(shape.T @ (mean[:SKIN] - mean[:SKIN].mean(0)))
        rotation = (u * [1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
        x, y = rotation[:2, 1] / max(float(np.linalg.norm(rotation[:2, 1])), 1e-9)
        turn = np.array([[y, -x], [x, y]])
        size = max(float(np.sqrt((shape**2).sum(1).mean())), 1e-6)
        facing = np.concatenate([turn @ rotation[:2], rotation[2:]])
        return Aligned(turn, turn @ np.asarray(points, np.float64)[:SKIN].mean(0), size, facing)

    def inside(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) points of the picture in the frame."""
        return (points @ self.turn.T - self.middle) / self.size

    def outside(self, framed: np.ndarray) -> np.ndarray:
        """The inverse of `inside`."""
        return (framed * self.size + self.middle) @ self.turn

    def crop(self, image: np.ndarray, reach: float, pixels: int) -> np.ndarray:
        """(pixels, pixels, C) uint8 of an image (H, W, C): the frame from -reach to reach, borders repeated."""
        step = 2 * reach / pixels
        corner = self.outside(np.array([[0.5 * step - reach, 0.5 * step - reach]]))[0] - 0.5
        axes = self.turn.T * self.size * step
        matrix = np.concatenate([axes, corner[:, None]], 1)
        source, scale = image, float(self.size * step)
        if scale > 1.5:  # Keep the picture from aliasing.
            factor = 1.0 / scale
            source = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            ratio = (np.array(source.shape[1::-1]) / np.array(image.shape[1::-1]))[:, None]
            matrix = np.concatenate([axes * ratio, (corner[:, None] + 0.5) * ratio - 0.5], 1)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(source, matrix, (pixels, pixels), flags=flags, borderMode=cv2.BORDER_REPLICATE)

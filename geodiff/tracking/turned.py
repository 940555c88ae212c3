"""Rotations of heads that were seen by something else than their landmarks: a second witness for the fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from geodiff.tracking.face_model import FrameStates


@dataclass(frozen=True)
class Turned:
    """How the heads of T frames were seen to be turned.

    rotations: (T, 3, 3) from the tracking head's rest pose to x right, y up, z towards the viewer, as seen along the
    rays through middles (T, 2) of the picture. spread: (T,) radians by which such rotations usually err, above 0.
    """

    rotations: np.ndarray
    middles: np.ndarray
    spread: np.ndarray

    def __getitem__(self, part: slice) -> Turned:
        return Turned(self.rotations[part], self.middles[part], self.spread[part])

    def apart(self, states: FrameStates, log_focal: float, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T, 3) axis-angle by which heads would have to be turned further to be turned as they were seen, and its
        derivative (T, 3) by the logarithm of the focal length, which decides how far aside the rays are."""
        aside = (self.middles - middle) * [1, -1] / np.exp(log_focal)
        slope = np.linalg.norm(aside, axis=1, keepdims=True)
        # The smallest rotations from the optical axis to the rays.
        axes = np.stack([aside[:, 1], -aside[:, 0], 0 * aside[:, 0]], 1) / np.maximum(slope, 1e-12)
        rays = Rotation.from_rotvec(np.arctan(slope) * axes).as_matrix()
        apart = Rotation.from_matrix(rays @ self.rotations @ states.rotation.transpose(0, 2, 1)).as_rotvec()
        return apart, -slope / (1 + slope**2) * axes
